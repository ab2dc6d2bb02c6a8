// Records of the ring as events. The layout is hearth.h's; a DataView loop, since decoding by koffi costs 80 times more.

import { EngineError, type EngineErrorCode, type EngineEvent, type FinishReason, type TokenLogprob } from '../port.ts';
import { status } from './abi.ts';

const headerSize = 48;
const type = { TOKEN: 1, PROMPT: 2, EMBEDDING: 3, FINISHED: 4, NOTICE: 5, ACCEPTED: 6 } as const;
const reasons: readonly (FinishReason | 'error')[] = ['cancelled', 'stop', 'length', 'cancelled', 'error', 'done'];
const errorReason = 4;
const specialFlag = 1;

/** What a record means to whoever waits for its request. */
export interface RecordHandler {
  event(request: number, event: EngineEvent): void;
  notice(request: number, notice: unknown): void;
  failed(request: number, error: EngineError): void;
  /** A job or a load has completed. Called beside `event`, which gets the finished event. */
  result(request: number, result: unknown): void;
}

/** Reads whole records from the first `length` bytes. Unknown types are skipped by their size. */
export function readRecords(buffer: Buffer, length: number, handler: RecordHandler): void {
  const view = new DataView(buffer.buffer, buffer.byteOffset, length);
  for (let at = 0; at + headerSize <= length; ) {
    const size = view.getUint32(at, true);
    if (size < headerSize || size % 8 !== 0 || at + size > length) {
      throw new EngineError('internal', `a record of ${size} bytes at ${at} of ${length}`);
    }
    readRecord(buffer, view, at, handler);
    at += size;
  }
}

function readRecord(buffer: Buffer, view: DataView, at: number, handler: RecordHandler): void {
  const request = view.getUint32(at + 8, true);
  switch (view.getUint16(at + 4, true)) {
    case type.TOKEN:
      return handler.event(request, readToken(buffer, view, at));
    case type.PROMPT: {
      const index = view.getUint32(at + 24, true);
      return handler.event(request, {
        type: 'prompt',
        index,
        logprob: readOwn(buffer, view, at),
        top: readTop(buffer, view, at),
      });
    }
    case type.EMBEDDING:
      return handler.event(request, { type: 'embedding', values: readValues(buffer, view, at) });
    case type.ACCEPTED:
      return handler.event(request, { type: 'accepted', promptTokens: view.getUint32(at + 24, true) });
    case type.FINISHED:
      return readFinished(buffer, view, at, request, handler);
    case type.NOTICE:
      return handler.notice(request, JSON.parse(textOf(buffer, view, at)));
  }
}

function readToken(buffer: Buffer, view: DataView, at: number): EngineEvent {
  const event: EngineEvent = {
    type: 'token',
    token: view.getInt32(at + 12, true),
    text: textOf(buffer, view, at),
    special: (view.getUint16(at + 6, true) & specialFlag) !== 0,
  };
  if (!Number.isNaN(view.getFloat32(at + 20, true))) {
    event.logprob = readOwn(buffer, view, at);
    event.top = readTop(buffer, view, at);
  }
  return event;
}

/** Copies, since the buffer is used again for the next drain. */
const copyOf = (buffer: Buffer, begin: number, end: number) => new Uint8Array(buffer.subarray(begin, end));

const bytesEnd = (view: DataView, at: number) => at + headerSize + view.getUint32(at + 28, true);

function textOf(buffer: Buffer, view: DataView, at: number): string {
  const size = view.getUint32(at + 32, true);
  if (size === 0) return '';
  const begin = bytesEnd(view, at);
  return buffer.toString('utf8', begin, begin + size);
}

/** The record's own token. */
function readOwn(buffer: Buffer, view: DataView, at: number): TokenLogprob {
  return {
    token: view.getInt32(at + 12, true),
    logprob: view.getFloat32(at + 20, true),
    bytes: copyOf(buffer, at + headerSize, bytesEnd(view, at)),
  };
}

function readTop(buffer: Buffer, view: DataView, at: number): TokenLogprob[] {
  const count = view.getUint32(at + 36, true);
  let offset = bytesEnd(view, at) + view.getUint32(at + 32, true);
  const top: TokenLogprob[] = [];
  for (let entry = 0; entry < count; entry++) {
    const size = view.getUint32(offset + 8, true);
    const bytes = copyOf(buffer, offset + 12, offset + 12 + size);
    top.push({ token: view.getInt32(offset, true), logprob: view.getFloat32(offset + 4, true), bytes });
    offset += 12 + size;
  }
  return top;
}

function readValues(buffer: Buffer, view: DataView, at: number): Float32Array {
  const count = view.getUint32(at + 44, true);
  const unaligned = bytesEnd(view, at) + view.getUint32(at + 32, true) + view.getUint32(at + 40, true);
  const begin = at + Math.ceil((unaligned - at) / 4) * 4;
  return new Float32Array(copyOf(buffer, begin, begin + count * 4).buffer);
}

interface FinishedJson {
  prompt_tokens?: number;
  cached_tokens?: number;
  image_tokens?: number;
  completion_tokens?: number;
  queue_ms?: number;
  prefill_ms?: number;
  decode_ms?: number;
  draft_tokens?: number;
  draft_accepted?: number;
  predicted_tokens?: number;
  predicted_accepted?: number;
  stop?: string | number | null;
  error?: { status: number; message: string };
  result?: unknown;
}

function readFinished(buffer: Buffer, view: DataView, at: number, request: number, handler: RecordHandler): void {
  const json = buffer.toString('utf8', at + headerSize, bytesEnd(view, at));
  const finished = (json === '' ? {} : JSON.parse(json)) as FinishedJson;
  const code = view.getUint32(at + 16, true);
  if (code === errorReason) {
    const { status: failure = status.INTERNAL, message = 'unknown' } = finished.error ?? {};
    return handler.failed(request, toEngineError(failure, message));
  }
  if (finished.result !== undefined) handler.result(request, finished.result);
  handler.event(request, {
    type: 'finished',
    reason: (reasons[code] ?? 'done') as FinishReason,
    text: textOf(buffer, view, at),
    stop: finished.stop ?? null,
    usage: {
      promptTokens: finished.prompt_tokens ?? 0,
      cachedTokens: finished.cached_tokens ?? 0,
      imageTokens: finished.image_tokens ?? 0,
      completionTokens: finished.completion_tokens ?? 0,
      queueMs: finished.queue_ms ?? 0,
      prefillMs: finished.prefill_ms ?? 0,
      decodeMs: finished.decode_ms ?? 0,
      draftTokens: finished.draft_tokens ?? 0,
      draftAccepted: finished.draft_accepted ?? 0,
      predictedTokens: finished.predicted_tokens ?? 0,
      predictedAccepted: finished.predicted_accepted ?? 0,
    },
  });
}

const codes: Record<number, EngineErrorCode> = {
  [status.INVALID]: 'invalid',
  [status.NOT_FOUND]: 'not_found',
  [status.UNSUPPORTED]: 'unsupported',
  [status.OUT_OF_MEMORY]: 'out_of_memory',
  [status.CORRUPT]: 'corrupt',
  [status.IO]: 'io',
  [status.DEVICE]: 'device',
  [status.CANCELLED]: 'cancelled',
  [status.BUSY]: 'busy',
  [status.CLOSED]: 'closed',
  [status.TOO_LONG]: 'context_length_exceeded',
};

export function toEngineError(failure: number, message: string): EngineError {
  const code = codes[failure] ?? 'internal';
  if (code !== 'context_length_exceeded') return new EngineError(code, message);
  try {
    return new EngineError(code, message, JSON.parse(message) as Record<string, unknown>);
  } catch {
    return new EngineError(code, message);
  }
}
