// Two ways to speak: one clear line for people at a terminal, JSON for machines. Never a prompt, never a body.

import { Writable } from 'node:stream';
import pino, { type Logger } from 'pino';

export interface Speaker {
  logger: Logger;
  /** Runs one stage of the start and says how long it took. */
  stage<T>(title: string, work: (note: (detail: string) => void) => Promise<T>): Promise<T>;
  say(line: string): void;
  /** Like say, but at every log level: what the operator cannot find out in another way. */
  announce(text: string): void;
}

export interface SpeakerOptions {
  level: string;
  format: 'auto' | 'text' | 'json';
  out: NodeJS.WritableStream & { isTTY?: boolean };
}

export function makeSpeaker(options: SpeakerOptions): Speaker {
  const text = options.format === 'text' || (options.format === 'auto' && options.out.isTTY === true);
  const base = { level: options.level, base: null, timestamp: pino.stdTimeFunctions.isoTime };
  const logger = pino(base, text ? textStream(options.out) : options.out);
  const say = (line: string) => {
    if (!text) logger.info(line);
    else if (options.level !== 'silent') options.out.write(`${line}\n`);
  };
  return {
    logger,
    say,
    announce(message) {
      const line = text ? message : JSON.stringify({ level: 30, time: new Date().toISOString(), msg: message });
      options.out.write(`${line}\n`);
    },
    async stage(title, work) {
      const begin = performance.now();
      let detail = '';
      const result = await work((note) => {
        detail = note;
      });
      const ms = Math.round(performance.now() - begin);
      if (text) say(`  ${title.padEnd(24)}${formatMs(ms).padStart(8)}${detail ? `   ${detail}` : ''}`);
      else logger.info({ stage: title, ms, ...(detail ? { detail } : {}) }, 'started');
      return result;
    },
  };
}

const formatMs = (ms: number) => (ms < 10_000 ? `${ms} ms` : `${(ms / 1000).toFixed(1)} s`);

const levels: Record<number, string> = { 10: 'trace', 20: 'debug', 30: 'info', 40: 'warn', 50: 'error', 60: 'fatal' };

/** pino's JSON lines as text. */
function textStream(out: NodeJS.WritableStream): Writable {
  return new Writable({
    write(chunk: Buffer, _encoding, done) {
      for (const line of chunk.toString().split('\n').filter(Boolean)) out.write(`${textLine(line)}\n`);
      done();
    },
  });
}

function textLine(line: string): string {
  const { level, time, msg, err, reqId, ...rest } = JSON.parse(line) as Record<string, unknown>;
  const fields = Object.entries(rest).map(
    ([key, value]) => `${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`,
  );
  const error = err ? `\n${(err as { stack?: string }).stack ?? JSON.stringify(err)}` : '';
  const word = (levels[level as number] ?? 'info').padEnd(5);
  return `${String(time).slice(11, 19)} ${word} ${String(msg ?? '')} ${fields.join(' ')}${error}`.trimEnd();
}
