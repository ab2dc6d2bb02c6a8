// The Engine port over the C ABI: calls go down as text and bytes, events come up through the doorbell.

import { Socket } from 'node:net';
import { EventStream } from '../event-stream.ts';
import {
  type Engine,
  EngineError,
  type EngineEvent,
  type EngineRequest,
  type EngineStats,
  type EngineStream,
  type LoadOptions,
  type MemoryDemand,
  type ModelInfo,
  type Progress,
} from '../port.ts';
import { type Abi, type EnginePointer, loadAbi, status } from './abi.ts';
import { toEngineStats, toMemoryDemand, toModelInfo, toModelJson, toRequestJson } from './json.ts';
import { readRecords, toEngineError } from './records.ts';

const errorSize = 4096;
const drainBytes = 1024 * 1024;
/** Records read in one turn of the event loop, so that a fast engine cannot keep it from everything else. */
const drainsPerTurn = 64;
/** Copies larger than this are made off the event loop. */
const asyncBytesMin = 1024 * 1024;
const joinBytesPerTurn = 4 * 1024 * 1024;

export interface EngineOptions {
  device: 'auto' | 'cpu' | 'cuda';
  threads: number;
  promptThreads?: number;
  queueRequests: number;
  queueTokens: number;
  profile?: string | null;
  logLevel?: 'error' | 'warn' | 'info' | 'debug';
}

/** Several pictures as one, a few milliseconds at a time: two photographs are 70 MB. */
async function joined(parts: readonly Uint8Array[]): Promise<Uint8Array> {
  const all = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let to = 0;
  for (const part of parts) {
    for (let at = 0; at < part.length; at += joinBytesPerTurn) {
      const piece = part.subarray(at, at + joinBytesPerTurn);
      all.set(piece, to);
      to += piece.length;
      if (all.length > asyncBytesMin) await new Promise((resolve) => setImmediate(resolve));
    }
  }
  return all;
}

interface Job {
  onProgress: (progress: Progress) => void;
  resolve: (result: unknown) => void;
  reject: (error: EngineError) => void;
  result: unknown;
}

export const cString = (text: string) => Buffer.from(`${text}\0`);

/** Calls with the error buffer and throws what it says. */
function checked(call: (error: Uint8Array, size: number) => number): void {
  const error = Buffer.alloc(errorSize);
  const result = call(error, errorSize);
  if (result !== status.OK) throw toEngineError(result, messageIn(error));
}

const messageIn = (error: Buffer) => error.toString('utf8', 0, Math.max(0, error.indexOf(0)));

type AsyncCall = (error: Uint8Array, size: number, done: (failure: unknown, result: number) => void) => void;

/** Calls on other threads, with what they close over: koffi keeps no buffer alive that it has passed on. */
const underWay = new Set<AsyncCall>();

/** The same on one of koffi's threads: for calls that wait or copy much. */
function checkedAsync(call: AsyncCall): Promise<void> {
  const error = Buffer.alloc(errorSize);
  underWay.add(call);
  return new Promise<void>((resolve, reject) => {
    call(error, errorSize, (failure, result) => {
      if (failure) reject(failure);
      else if (result !== status.OK) reject(toEngineError(result, messageIn(error)));
      else resolve();
    });
  }).finally(() => underWay.delete(call));
}

/** Asks for a text of unknown length: once for its size when the first guess is too small. */
function answerText(call: (buffer: Uint8Array, capacity: number, needed: Uint32Array) => number): string {
  const needed = new Uint32Array(1);
  for (let capacity = 65_536; ; capacity = needed[0]! + 4096) {
    const buffer = Buffer.alloc(capacity);
    const result = call(buffer, capacity, needed);
    if (result === status.TOO_SMALL) continue;
    if (result !== status.OK) throw toEngineError(result, 'the engine gave no answer');
    const end = buffer.indexOf(0);
    return buffer.toString('utf8', 0, end < 0 ? needed[0] : end);
  }
}

/** What `hearth doctor` shows; needs no model and no open engine. */
export function doctor(library: string, options: Record<string, unknown>): unknown {
  const abi = loadAbi(library);
  const error = Buffer.alloc(errorSize);
  const json = answerText((buffer, capacity, needed) => {
    const result = abi.doctor(null, cString(JSON.stringify(options)), buffer, capacity, needed, error, errorSize);
    if (result !== status.OK && result !== status.TOO_SMALL) throw toEngineError(result, messageIn(error));
    return result;
  });
  return JSON.parse(json);
}

export class NativeEngine implements Engine {
  readonly #abi: Abi;
  #pointer: EnginePointer;
  readonly #doorbell: Socket;
  readonly #models = new Map<string, { handle: number; info: ModelInfo }>();
  readonly #streams = new Map<number, EventStream>();
  readonly #jobs = new Map<number, Job>();
  /** Submits on another thread whose request is not known here yet, and what came for it meanwhile. */
  #submitting = 0;
  readonly #early = new Map<number, Array<(stream: EventStream) => void>>();
  #buffer = Buffer.alloc(drainBytes);
  readonly #written = new Uint32Array(1);
  #failure: EngineError | null = null;
  #closing: Promise<void> | null = null;

  static async open(library: string, options: EngineOptions): Promise<NativeEngine> {
    const abi = loadAbi(library);
    const pointer = new BigUint64Array(1);
    const json = cString(
      JSON.stringify({
        device: options.device,
        threads: options.threads,
        prompt_threads: options.promptThreads ?? 0,
        queue_requests: options.queueRequests,
        queue_tokens: options.queueTokens,
        ...(options.profile ? { profile: options.profile } : {}),
        ...(options.logLevel ? { log_level: options.logLevel } : {}),
      }),
    );
    await checkedAsync((error, size, done) => abi.open.async(json, pointer, error, size, done));
    return new NativeEngine(abi, pointer[0]!);
  }

  private constructor(abi: Abi, pointer: bigint) {
    this.#abi = abi;
    this.#pointer = pointer;
    const fd = new Int32Array(1);
    checked((error, size) => abi.doorbell(pointer, fd, error, size));
    this.#doorbell = new Socket({ fd: fd[0]!, readable: true, writable: false });
    this.#doorbell.on('data', () => this.#drain());
    this.#doorbell.on('end', () => this.#drain());
    this.#doorbell.on('error', (error) =>
      this.#die(new EngineError('internal', `the doorbell failed: ${error.message}`)),
    );
  }

  get version(): string {
    return this.#abi.version();
  }

  async submit(request: EngineRequest): Promise<EngineStream> {
    const model = this.#model(request.model);
    const json = cString(JSON.stringify(toRequestJson(request)));
    const text = Buffer.from(request.text);
    const literal = Uint32Array.from(request.literal.flat());
    const ids = request.ids ?? new Int32Array(0);
    const images = request.images ?? [];
    const pixels =
      images.length < 2 ? (images[0]?.pixels ?? new Uint8Array(0)) : await joined(images.map((image) => image.pixels));
    const handle = new Uint32Array(1);
    const args = [
      this.#pointer,
      model.handle,
      json,
      text,
      text.length,
      literal,
      request.literal.length,
      ids,
      ids.length,
      pixels,
      pixels.length,
      handle,
    ] as const;
    if (text.length + pixels.length < asyncBytesMin) {
      checked((error, size) => this.#abi.submit(...args, error, size));
    } else {
      this.#submitting++;
      try {
        await checkedAsync((error, size, done) => this.#abi.submit.async(...args, error, size, done));
      } finally {
        this.#submitting--;
      }
    }
    for (const image of images) image.release?.();
    return this.#adopt(handle[0]!);
  }

  #adopt(request: number): EventStream {
    const stream = new EventStream(() => {
      this.#abi.cancel(this.#pointer, request);
    });
    this.#streams.set(request, stream);
    for (const deliver of this.#early.get(request) ?? []) deliver(stream);
    this.#early.delete(request);
    if (this.#submitting === 0) this.#early.clear();
    return stream;
  }

  async loadModel(
    options: LoadOptions,
    onProgress: (progress: Progress) => void = () => {},
    signal?: AbortSignal,
  ): Promise<ModelInfo> {
    const handle = new Uint32Array(1);
    const job = new Uint32Array(1);
    const json = cString(JSON.stringify(toModelJson(options)));
    checked((error, size) => this.#abi.modelOpen(this.#pointer, json, handle, job, error, size));
    await this.#job(job[0]!, onProgress, signal);
    const info = this.#readInfo(handle[0]!);
    this.#models.set(options.name, { handle: handle[0]!, info });
    return info;
  }

  async planModel(options: LoadOptions, reclaimableMb: number): Promise<MemoryDemand> {
    const handle = new Uint32Array(1);
    const job = new Uint32Array(1);
    const json = cString(JSON.stringify({ ...toModelJson(options), plan: true, reclaimable_mb: reclaimableMb }));
    checked((error, size) => this.#abi.modelOpen(this.#pointer, json, handle, job, error, size));
    return toMemoryDemand(await this.#job(job[0]!, () => {}));
  }

  #readInfo(handle: number): ModelInfo {
    const error = Buffer.alloc(errorSize);
    const json = answerText((buffer, capacity, needed) =>
      this.#abi.modelInfo(this.#pointer, handle, buffer, capacity, needed, error, errorSize),
    );
    return toModelInfo(JSON.parse(json));
  }

  async unloadModel(name: string): Promise<void> {
    const { handle } = this.#model(name);
    this.#models.delete(name);
    await checkedAsync((error, size, done) => this.#abi.modelClose.async(this.#pointer, handle, error, size, done));
  }

  models(): ModelInfo[] {
    return [...this.#models.values()].map(({ info }) => info);
  }

  async tokenize(
    name: string,
    text: string,
    literal: EngineRequest['literal'],
    addSpecial: boolean,
  ): Promise<Int32Array> {
    const { handle } = this.#model(name);
    const bytes = Buffer.from(text);
    const ranges = Uint32Array.from(literal.flat());
    const needed = new Uint32Array(1);
    // A token is at least a byte, but for what the tokenizer adds.
    for (let capacity = bytes.length + 16; ; capacity = needed[0]!) {
      const ids = new Int32Array(capacity);
      try {
        await checkedAsync((error, size, done) =>
          this.#abi.tokenize.async(
            this.#pointer,
            handle,
            bytes,
            bytes.length,
            ranges,
            literal.length,
            addSpecial ? 1 : 0,
            ids,
            capacity,
            needed,
            error,
            size,
            done,
          ),
        );
        return ids.subarray(0, needed[0]);
      } catch (error) {
        if (!(needed[0]! > capacity)) throw error;
      }
    }
  }

  async detokenize(name: string, ids: Int32Array, skipSpecial: boolean): Promise<string> {
    const { handle } = this.#model(name);
    const needed = new Uint32Array(1);
    const error = Buffer.alloc(errorSize);
    for (let capacity = ids.length * 16 + 64; ; capacity = needed[0]!) {
      const text = Buffer.alloc(capacity);
      const result = this.#abi.detokenize(
        this.#pointer,
        handle,
        ids,
        ids.length,
        skipSpecial ? 1 : 0,
        text,
        capacity,
        needed,
        error,
        errorSize,
      );
      if (result === status.OK) return text.toString('utf8', 0, needed[0]);
      if (result !== status.TOO_SMALL) throw toEngineError(result, messageIn(error));
    }
  }

  job(
    job: Record<string, unknown>,
    onProgress: (progress: Progress) => void = () => {},
    signal?: AbortSignal,
  ): Promise<unknown> {
    const handle = new Uint32Array(1);
    checked((error, size) => this.#abi.job(this.#pointer, cString(JSON.stringify(job)), handle, error, size));
    return this.#job(handle[0]!, onProgress, signal);
  }

  stats(): EngineStats {
    if (this.#closing) return { models: [], memory: [] };
    return toEngineStats(
      JSON.parse(answerText((buffer, capacity, needed) => this.#abi.stats(this.#pointer, buffer, capacity, needed))),
    );
  }

  failure(): EngineError | null {
    return this.#failure;
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const pointer = this.#pointer;
    const ended = new Promise((resolve) => this.#doorbell.once('close', resolve));
    await new Promise<void>((resolve) => this.#abi.stop.async(pointer, () => resolve()));
    await ended;
    this.#endAll(new EngineError('closed', 'the engine was closed'));
    this.#pointer = null;
    await new Promise<void>((resolve) => this.#abi.close.async(pointer, () => resolve()));
  }

  #model(name: string): { handle: number; info: ModelInfo } {
    if (this.#failure) throw this.#failure;
    if (this.#closing) throw new EngineError('closed', 'the engine is closing');
    const model = this.#models.get(name);
    if (!model) throw new EngineError('not_found', `no model named ${name}`);
    return model;
  }

  #job(handle: number, onProgress: (progress: Progress) => void, signal?: AbortSignal): Promise<unknown> {
    const cancel = () => this.#abi.cancel(this.#pointer, handle);
    signal?.addEventListener('abort', cancel, { once: true });
    if (signal?.aborted) cancel();
    return new Promise((resolve, reject) => {
      this.#jobs.set(handle, { onProgress, resolve, reject, result: undefined });
    }).finally(() => signal?.removeEventListener('abort', cancel));
  }

  /** Takes all records out of the ring. The engine waits for room in it, so this must never stop half way. */
  #drain(): void {
    for (let turn = 0; turn < drainsPerTurn; turn++) {
      const result = this.#abi.drain(this.#pointer, this.#buffer, this.#buffer.length, this.#written);
      const written = this.#written[0]!;
      if (result === status.TOO_SMALL) {
        this.#buffer = Buffer.alloc(written);
        continue;
      }
      if (result !== status.OK) return this.#die(toEngineError(result, 'the engine’s records cannot be read'));
      if (written === 0) return;
      readRecords(this.#buffer, written, this);
    }
    setImmediate(() => this.#drain());
  }

  event(request: number, event: EngineEvent): void {
    const stream = this.#streams.get(request);
    const job = this.#jobs.get(request);
    if (stream) {
      if (event.type === 'finished') this.#streams.delete(request);
      stream.push(event);
    } else if (job && event.type === 'finished') {
      this.#jobs.delete(request);
      if (event.reason === 'cancelled') job.reject(new EngineError('cancelled', 'the job was cancelled'));
      else job.resolve(job.result);
    } else {
      this.#keep(request, (late) => {
        if (event.type === 'finished') this.#streams.delete(request);
        late.push(event);
      });
    }
  }

  failed(request: number, error: EngineError): void {
    if (error.code === 'device') this.#failure ??= error;
    const stream = this.#streams.get(request);
    const job = this.#jobs.get(request);
    this.#streams.delete(request);
    this.#jobs.delete(request);
    if (stream) stream.fail(error);
    else if (job) job.reject(error);
    else {
      this.#keep(request, (late) => {
        this.#streams.delete(request);
        late.fail(error);
      });
    }
  }

  notice(request: number, notice: unknown): void {
    this.#jobs.get(request)?.onProgress(notice as Progress);
  }

  result(request: number, result: unknown): void {
    const job = this.#jobs.get(request);
    if (job) job.result = result;
  }

  /** Events may overtake the answer of a submit that runs on another thread. */
  #keep(request: number, deliver: (stream: EventStream) => void): void {
    if (this.#submitting === 0) return;
    const waiting = this.#early.get(request);
    if (waiting) waiting.push(deliver);
    else this.#early.set(request, [deliver]);
  }

  #die(error: EngineError): void {
    this.#failure ??= error;
    this.#endAll(error);
  }

  #endAll(error: EngineError): void {
    for (const stream of this.#streams.values()) stream.fail(error);
    for (const job of this.#jobs.values()) job.reject(error);
    this.#streams.clear();
    this.#jobs.clear();
  }
}
