// JSON bodies with photographs in them: megabytes of base64 in one string. Turning that into a JavaScript string, and that
// into bytes, would hold up the event loop for tens of milliseconds a photo. So long strings are taken out of the body
// before it is parsed; those in image parts stay bytes until a worker decodes them, all others are put back.

import { randomUUID } from 'node:crypto';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { ImageSource } from '../images/decoder.ts';
import { backslash, endOfString, quote, refuseIntricate } from './json-structure.ts';

declare module 'fastify' {
  interface FastifyRequest {
    longStrings: LongStrings | null;
  }
}

const bodyBytesMin = 128 * 1024;
const stringBytesMin = 32 * 1024;
/** Bodies of many short strings are parsed as they are. */
const quotesMax = 20_000;

/** A body's long strings. Each is replaced by a mark that only this process can have written. */
export class LongStrings {
  readonly #mark = `long-string:${randomUUID()}:`;
  readonly #parts: Buffer[] = [];

  /** The body with marks for its long strings. Only strings without escapes are taken. */
  take(body: Buffer): Buffer {
    const pieces: Buffer[] = [];
    let done = 0;
    for (let at = 0, quotes = 0; quotes < quotesMax; quotes++) {
      const begin = body.indexOf(quote, at) + 1;
      const end = begin > 0 ? endOfString(body, begin) : -1;
      if (end < 0) break;
      at = end + 1;
      if (end - begin < stringBytesMin || body.subarray(begin, end).includes(backslash)) continue;
      pieces.push(body.subarray(done, begin), Buffer.from(this.#mark + this.#parts.length));
      this.#parts.push(body.subarray(begin, end));
      done = end;
    }
    pieces.push(body.subarray(done));
    return pieces.length > 1 ? Buffer.concat(pieces) : body;
  }

  get empty(): boolean {
    return this.#parts.length === 0;
  }

  /** Puts strings back everywhere but in image parts of messages. */
  restore(body: unknown): void {
    const kept = new Set(imageHolders(body));
    const open: unknown[] = [body];
    while (open.length > 0) {
      const holder = open.pop() as Record<string, unknown>;
      for (const key of Object.keys(holder ?? {})) {
        const value = holder[key];
        if (typeof value === 'object' && value !== null) open.push(value);
        else if (typeof value === 'string' && !(kept.has(holder) && imageKeys.has(key))) {
          const part = this.#partOf(value);
          if (part) holder[key] = part.toString('utf8');
        }
      }
    }
  }

  /** A URL of an image part, its long base64 as the bytes it came in. */
  sourceOf(url: string): ImageSource {
    const mark = url.indexOf(this.#mark);
    const part = mark < 0 ? null : this.#partOf(url.slice(mark));
    if (!part) return url;
    if (mark > 0) return { head: url.slice(0, mark).replace(/,$/, ''), base64: part };
    const comma = part.indexOf(',');
    // Nothing but data: URLs is this long.
    if (comma < 0 || comma > 1000) return { head: '', base64: part };
    return { head: part.toString('latin1', 0, comma), base64: part.subarray(comma + 1) };
  }

  /** The URL of an image part as it came. */
  urlOf(url: string): string {
    const mark = url.indexOf(this.#mark);
    const part = mark < 0 ? null : this.#partOf(url.slice(mark));
    return part ? url.slice(0, mark) + part.toString('utf8') : url;
  }

  #partOf(text: string): Buffer | null {
    return text.startsWith(this.#mark) ? (this.#parts[Number(text.slice(this.#mark.length))] ?? null) : null;
  }
}

const imageKeys = new Set(['url', 'data']);

/**
 * Objects whose `url` or `data` is a picture: image_url parts of OpenAI's messages, base64 sources of Anthropic's, there
 * also in the results of tools.
 */
function imageHolders(body: unknown): object[] {
  const parts = entriesOf(body, 'messages').flatMap((message) => entriesOf(message, 'content'));
  const results = parts.flatMap((part) => (part?.type === 'tool_result' ? entriesOf(part, 'content') : []));
  return [...parts, ...results].flatMap((part) => {
    const holder = part?.type === 'image_url' ? part.image_url : part?.type === 'image' ? part.source : null;
    return typeof holder === 'object' && holder !== null ? [holder] : [];
  });
}

type Entry = { type?: unknown; image_url?: unknown; source?: unknown } | null;

/** The list under a key of what may be an object; empty where there is none. */
function entriesOf(value: unknown, key: string): Entry[] {
  const list = (value as Record<string, unknown> | null | undefined)?.[key];
  return Array.isArray(list) ? list : [];
}

const routes = ['/v1/chat/completions', '/v1/messages', '/v1/messages/count_tokens'];

/** How JSON bodies are read: not where they are too intricate; pictures in the messages of large ones stay bytes. */
export function parseJsonBodies(app: FastifyInstance): void {
  const parse = app.getDefaultJsonParser('error', 'error');
  app.decorateRequest('longStrings', null);
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (request, given, done) => {
    const body = given as Buffer;
    // Clients that announce JSON with every POST have none for those that need none (cancel).
    if (body.length === 0) return done(null, undefined);
    try {
      refuseIntricate(body);
    } catch (error) {
      return done(error as Error);
    }
    const takes = body.length >= bodyBytesMin && routes.some((route) => request.routeOptions.url?.endsWith(route));
    const strings = takes ? new LongStrings() : null;
    const text = (strings ? strings.take(body) : body).toString('utf8');
    if (!strings || strings.empty) return void parse(request, text, done);
    (request as FastifyRequest).longStrings = strings;
    parse(request, text, (error, value) => {
      if (!error) strings.restore(value);
      done(error, value);
    });
  });
}
