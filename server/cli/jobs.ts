// What the commands that run a long job in the engine share: opening it, a progress line, and Ctrl-C.

import { existsSync } from 'node:fs';
import { z } from 'zod';
import { UsageError } from '../config.ts';
import { defaultLibrary } from '../engine/native/library.ts';
import { EngineError, type Progress } from '../engine/port.ts';
import { localModel, ModelPathError } from '../models/local.ts';
import { onStop } from '../signals.ts';
import { ProgressLine } from './terminal.ts';

/** A whole number at least `least`, or nothing. */
export function wholeNumber(option: string, text: string | undefined, least: number): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < least)
    throw new UsageError(`${option} takes a whole number of at least ${least}, not ${text.slice(0, 40)}`);
  return value;
}

/** The one of `choices` that was given, or nothing. */
export function oneOf(option: string, text: string | undefined, choices: readonly string[]): string | undefined {
  if (text === undefined || choices.includes(text)) return text;
  throw new UsageError(`${option} takes ${choices.join(', ')}, not ${text.slice(0, 40)}`);
}

/** A folder, a .gguf file or the name of a model here, as a path. */
export function modelPath(given: string): string {
  try {
    return localModel(given).path;
  } catch (error) {
    if (error instanceof ModelPathError) throw new UsageError(error.message);
    throw error;
  }
}

export interface JobOptions {
  device?: 'auto' | 'cpu' | 'cuda';
  threads?: number;
  /** What the same command does after an interruption, said when there was one. */
  afterwards?: string;
}

/** The engine's library that commands load; a UsageError where there is none yet. */
export function builtLibrary(): string {
  const library = process.env.HEARTH_ENGINE_LIBRARY || defaultLibrary;
  if (!existsSync(library)) throw new UsageError(`${library} is not built: run npm start once`);
  return library;
}

const estimate = z.object({ seconds_left: z.number() });

/** "layer 3 of 16" for stages that go by layers; what the others do. */
function stageNote(stage: string, done: number, total: number): string {
  const layer = `layer ${Math.min(total, Math.floor(done) + 1)} of ${total}`;
  if (stage === 'quantize') return layer;
  if (stage === 'calibrate') return `calibrating, ${layer}`;
  if (stage === 'resume') return `going on: computing what layer ${done} puts out`;
  return { write: 'writing', evaluate: '' }[stage] ?? stage;
}

/** Runs a job to its end and returns its result. The first Ctrl-C (or SIGTERM) interrupts it cleanly, the second at once. */
export async function runJob(label: string, job: Record<string, unknown>, options: JobOptions = {}): Promise<unknown> {
  const library = builtLibrary();
  const { NativeEngine } = await import('../engine/native/engine.ts');
  const engine = await NativeEngine.open(library, {
    device: options.device ?? 'cpu',
    threads: options.threads ?? 0,
    queueRequests: 1,
    queueTokens: 65536,
  });
  const line = new ProgressLine(label);
  const abort = new AbortController();
  const unlisten = onStop(['SIGINT', 'SIGTERM'], () => {
    abort.abort();
    process.stderr.write('\nstopping …\n');
  });
  const told = ({ stage, done, total, detail }: Progress) => {
    const left = stage === 'resume' ? null : estimate.safeParse(detail).data?.seconds_left;
    line.update(done, total, stageNote(stage, done, total), left);
  };
  line.update(0, 1, 'reading the model');
  try {
    return await engine.job(job, told, abort.signal);
  } catch (error) {
    if (!(error instanceof EngineError)) throw error;
    throw new UsageError(
      error.code === 'cancelled' ? `interrupted; ${options.afterwards ?? 'nothing was written'}` : error.message,
    );
  } finally {
    line.end();
    unlisten();
    await engine.close();
  }
}

/** An object without the members that are undefined: the engine refuses keys it does not know, not missing ones. */
export const given = (object: Record<string, unknown>): Record<string, unknown> =>
  Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined));
