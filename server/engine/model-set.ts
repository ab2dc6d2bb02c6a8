// The models a server offers: loaded on first use, kept while they are used, unloaded when idle or when another needs
// their memory. One change at a time; requests that arrive during a change wait for it, within bounds.

import { type ApiError, errors } from '../errors.ts';
import { type Engine, EngineError, type LoadOptions, type ModelInfo, type Progress } from './port.ts';

/** A model that can be loaded. */
export interface OfferedModel {
  load: LoadOptions;
  /** Used instead of the model's own template. */
  chatTemplate?: string | null;
  /** What is known of it before it is loaded. */
  context?: number | null;
  vision?: boolean | null;
}

export type ModelState = 'available' | 'loading' | 'loaded' | 'unloading';

export interface ModelStatus {
  name: string;
  state: ModelState;
  isDefault: boolean;
  /** Once it has been loaded, also after it was unloaded. */
  info: ModelInfo | null;
  context: number | null;
  vision: boolean | null;
  /** Why the last load failed, until another succeeds. */
  failure: string | null;
  progress: string | null;
  inUse: number;
  waiting: number;
  counts: ModelCounts;
}

export interface ModelCounts {
  loads: number;
  /** Of the last load. */
  loadSeconds: number;
  failures: number;
  unloads: Record<UnloadReason, number>;
}

export type UnloadReason = 'idle' | 'memory' | 'request';

export interface ModelSetOptions {
  defaultModel: string;
  /** A model unused for this long is unloaded, but not the default one; 0 = never. */
  idleMs?: number;
  /** How long a request waits for its model. */
  waitMs?: number;
  /** Requests that may wait for one model. */
  waitersMax?: number;
  /** Memory of all models together; 0 = what there is. */
  memoryLimitMb?: number;
  /** For so long a model that could not be loaded is refused without trying again. */
  failureMs?: number;
  /** Models in use are asked to finish after another has waited this long for their memory. */
  turnMs?: number;
  hooks?: ModelHooks;
}

export interface ModelHooks {
  loaded?(info: ModelInfo, seconds: number): void;
  failed?(name: string, reason: string): void;
  unloaded?(name: string, reason: UnloadReason): void;
}

/** What a request needs of whoever waits: to hear that it is over. */
export interface Waiter {
  onAbort(cancel: () => void): void;
  readonly reason: Error | null;
}

export interface Lease {
  info: ModelInfo;
  /** Once; later calls do nothing. */
  release(): void;
}

export interface LoadCall {
  onProgress?: (progress: Progress) => void;
  /** Instead of the set's own. */
  waitMs?: number;
}

interface Waiting {
  grant: (lease: Lease) => void;
  refuse: (error: Error) => void;
}

interface Entry {
  name: string;
  offered: OfferedModel;
  state: ModelState;
  info: ModelInfo | null;
  /** In the queue of changes, to be loaded. */
  wanted: boolean;
  /** Takes no further requests until it has been unloaded: somebody waits for that. */
  leaving: boolean;
  inUse: number;
  usedAt: number;
  waiting: Set<Waiting>;
  failure: { error: ApiError; at: number } | null;
  progress: string | null;
  counts: ModelCounts;
}

const mebibyte = 1024 * 1024;
const defaults = { idleMs: 0, waitMs: 300_000, waitersMax: 512, memoryLimitMb: 0, failureMs: 10_000, turnMs: 3000 };

export class ModelSet {
  readonly #engine: Engine;
  readonly #options: Required<ModelSetOptions>;
  readonly #entries = new Map<string, Entry>();
  /** Loads and unloads, one after the other. */
  #changes: Promise<void> = Promise.resolve();
  /** Whoever waits for a model to be given back. */
  readonly #onRelease = new Set<() => void>();
  readonly #timer: NodeJS.Timeout | null;
  readonly #closing = new AbortController();

  constructor(engine: Engine, offered: readonly OfferedModel[], options: ModelSetOptions) {
    this.#engine = engine;
    this.#options = { ...defaults, hooks: {}, ...options };
    for (const one of offered) this.#entries.set(one.load.name, newEntry(one));
    const { idleMs } = this.#options;
    this.#timer = idleMs > 0 ? setInterval(() => this.#unloadIdle(), Math.min(idleMs / 2, 10_000)) : null;
    this.#timer?.unref();
  }

  /** What an engine has already, and nothing else. */
  static of(engine: Engine, defaultModel: string): ModelSet {
    const offered = engine.models().map((info) => ({ load: { name: info.name } }));
    const set = new ModelSet(engine, offered, { defaultModel });
    for (const info of engine.models()) set.#adopt(set.#entries.get(info.name)!, info);
    return set;
  }

  get defaultModel(): string {
    return this.#options.defaultModel;
  }

  status(): ModelStatus[] {
    return [...this.#entries.values()].map((entry) => this.#statusOf(entry));
  }

  /** One model's; throws when it is not offered. */
  statusOf(name: string | undefined): ModelStatus {
    return this.#statusOf(this.#entry(name));
  }

  /** Holds a model for a request, loading it first where needed. Throws ApiError, or the waiter's own reason. */
  async acquire(name: string | undefined, waiter?: Waiter): Promise<Lease> {
    const entry = this.#entry(name);
    if (this.#isOpen(entry)) return this.#lease(entry);
    this.#refuseKnownFailure(entry);
    return this.#wait(entry, waiter);
  }

  /** Loads a model now, also when it failed a moment ago. The ApiError of a failure has the engine's as its cause. */
  async load(name: string, options: LoadCall = {}): Promise<ModelInfo> {
    const entry = this.#entry(name);
    if (entry.state === 'available' && !entry.wanted) entry.failure = null;
    const lease = this.#isOpen(entry) ? this.#lease(entry) : await this.#wait(entry, undefined, options);
    lease.release();
    return lease.info;
  }

  /** Unloads a model once nothing uses it; refused when something still does after `waitMs`. */
  async unload(name: string, waitMs = 0): Promise<void> {
    const entry = this.#entry(name);
    if (entry.state === 'loading') throw errors.modelInUse(entry.name, 'it is being loaded');
    entry.leaving = entry.state === 'loaded';
    try {
      await this.#untilUnused([entry], performance.now() + waitMs);
      if (entry.inUse > 0) throw errors.modelInUse(entry.name, `${entry.inUse} requests use it`);
      await this.#change(() => this.#unload(entry, 'request'));
    } finally {
      this.#reopen(entry);
    }
  }

  /** Refuses whoever waits, gives up a load that is under way, and waits for its end or an unload's. */
  async close(): Promise<void> {
    this.#closing.abort();
    if (this.#timer) clearInterval(this.#timer);
    for (const entry of this.#entries.values()) this.#refuseAll(entry, errors.shuttingDown());
    this.#released();
    await this.#changes;
  }

  get #closed(): boolean {
    return this.#closing.signal.aborted;
  }

  #entry(name: string | undefined): Entry {
    const entry = this.#entries.get(name === undefined || name === 'default' ? this.defaultModel : name);
    if (!entry) throw errors.modelNotFound(name ?? 'default');
    return entry;
  }

  #statusOf(entry: Entry): ModelStatus {
    const { name, state, info, offered, failure, progress, inUse } = entry;
    return {
      name,
      state,
      isDefault: name === this.defaultModel,
      info,
      context: info?.context ?? offered.context ?? null,
      vision: info ? info.vision !== null : (offered.vision ?? null),
      failure: failure?.error.message ?? null,
      progress,
      inUse,
      waiting: entry.waiting.size,
      counts: entry.counts,
    };
  }

  #isOpen(entry: Entry): boolean {
    return entry.state === 'loaded' && !entry.leaving;
  }

  #lease(entry: Entry): Lease {
    entry.inUse++;
    let held = true;
    const release = () => {
      if (!held) return;
      held = false;
      entry.inUse--;
      entry.usedAt = performance.now();
      if (entry.inUse === 0) this.#released();
    };
    return { info: entry.info!, release };
  }

  #released(): void {
    for (const tell of [...this.#onRelease]) tell();
  }

  #refuseKnownFailure(entry: Entry): void {
    const { failure } = entry;
    if (!failure || entry.wanted || entry.state !== 'available') return;
    if (performance.now() - failure.at < this.#options.failureMs) throw failure.error;
  }

  #wait(entry: Entry, waiter?: Waiter, { onProgress, waitMs = this.#options.waitMs }: LoadCall = {}): Promise<Lease> {
    if (this.#closed) throw errors.shuttingDown();
    if (entry.waiting.size >= this.#options.waitersMax) throw errors.queueFull(2);
    return new Promise<Lease>((resolve, reject) => {
      const leave = () => {
        clearTimeout(timer);
        entry.waiting.delete(waiting);
      };
      const waiting: Waiting = {
        grant: (lease) => {
          leave();
          resolve(lease);
        },
        refuse: (error) => {
          leave();
          reject(error);
        },
      };
      // A timer's longest time is 2^31 ms, and what is longer fires at once.
      const timer = setTimeout(
        () => waiting.refuse(errors.loading(entry.progress ?? '')),
        Math.min(waitMs, 2 ** 31 - 1),
      );
      timer.unref();
      entry.waiting.add(waiting);
      waiter?.onAbort(() => {
        if (entry.waiting.has(waiting)) waiting.refuse(waiter.reason ?? errors.shuttingDown());
      });
      this.#want(entry, onProgress);
    });
  }

  /** Queues a load, unless one is coming, or the model is about to be unloaded: then that is waited for. */
  #want(entry: Entry, onProgress?: (progress: Progress) => void): void {
    if (entry.wanted || entry.leaving || this.#isOpen(entry) || entry.waiting.size === 0 || this.#closed) return;
    entry.wanted = true;
    void this.#change(() => this.#bringIn(entry, onProgress));
  }

  #change<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#changes.then(work);
    this.#changes = done.then(
      () => {},
      () => {},
    );
    return done;
  }

  /** Everybody who waits gets the model or the reason why not. */
  async #bringIn(entry: Entry, onProgress?: (progress: Progress) => void): Promise<void> {
    const begin = performance.now();
    try {
      if (entry.waiting.size === 0 || this.#closed) return;
      if (entry.state !== 'loaded') {
        entry.state = 'loading';
        if (!(await this.#makeRoom(entry))) return;
        const info = await this.#loadInto(entry, onProgress);
        this.#adopt(entry, info);
        entry.counts.loads++;
        entry.counts.loadSeconds = (performance.now() - begin) / 1000;
        this.#options.hooks.loaded?.(info, entry.counts.loadSeconds);
      }
    } catch (error) {
      if (!this.#closed) this.#failed(entry, error);
    } finally {
      entry.wanted = false;
      entry.progress = null;
      if (entry.state === 'loading') entry.state = 'available';
      this.#reopen(entry);
    }
  }

  #adopt(entry: Entry, info: ModelInfo): void {
    // The engine hands out this object for every request.
    if (entry.offered.chatTemplate != null) info.chatTemplate = entry.offered.chatTemplate;
    entry.info = info;
    entry.state = 'loaded';
    entry.failure = null;
    entry.usedAt = performance.now();
  }

  #failed(entry: Entry, error: unknown): void {
    const reason = error instanceof EngineError ? error.message : 'an internal error';
    const { path } = entry.offered.load;
    // Paths of the server are not the clients' to know.
    const told = path ? reason.replaceAll(path, entry.name) : reason;
    const known = error instanceof EngineError ? errors.loadFailed(entry.name, told) : errors.internal();
    known.cause = error;
    entry.counts.failures++;
    entry.failure = { error: known, at: performance.now() };
    this.#refuseAll(entry, known);
    this.#options.hooks.failed?.(entry.name, error instanceof EngineError ? reason : String(error));
  }

  #refuseAll(entry: Entry, error: Error): void {
    for (const waiting of [...entry.waiting]) waiting.refuse(error);
  }

  /** Lets requests in again, or has the model loaded for those who came meanwhile. */
  #reopen(entry: Entry): void {
    entry.leaving = false;
    if (entry.state === 'loaded') for (const waiting of [...entry.waiting]) waiting.grant(this.#lease(entry));
    else this.#want(entry);
  }

  async #loadInto(entry: Entry, onProgress?: (progress: Progress) => void): Promise<ModelInfo> {
    const options = { ...entry.offered.load, ...this.#limitFor(entry, this.#others(entry)) };
    const told = (progress: Progress) => {
      const { stage, done, total } = progress;
      entry.progress = `${stage} ${total > 0 ? Math.round((100 * done) / total) : 0} %`;
      onProgress?.(progress);
    };
    for (;;) {
      try {
        return await this.#engine.loadModel(options, told, this.#closing.signal);
      } catch (error) {
        // The plan was true when it was made; memory may have gone elsewhere since.
        const next = isOutOfMemory(error) ? this.#idle(entry)[0] : undefined;
        if (!next) throw error;
        await this.#unload(next, 'memory');
      }
    }
  }

  #others(entry: Entry): Entry[] {
    return [...this.#entries.values()].filter((one) => one !== entry && one.state === 'loaded');
  }

  /** Loaded and unused, least recently used first. */
  #idle(entry: Entry): Entry[] {
    return this.#others(entry)
      .filter(({ inUse }) => inUse === 0)
      .sort((a, b) => a.usedAt - b.usedAt);
  }

  /** What the operator's limit leaves beside these models. */
  #limitFor(entry: Entry, beside: readonly Entry[]): Pick<LoadOptions, 'memoryLimitMb'> {
    const { memoryLimitMb } = this.#options;
    const own = entry.offered.load.memoryLimitMb ?? 0;
    if (memoryLimitMb === 0) return { memoryLimitMb: own };
    const left = Math.max(1, memoryLimitMb - Math.ceil(sum(beside, bytesOf) / mebibyte));
    return { memoryLimitMb: own > 0 ? Math.min(own, left) : left };
  }

  /**
   * Unloads what is in the way. Throws the plan's refusal when the model would not fit even alone; false when nobody
   * waits for it any more.
   */
  async #makeRoom(entry: Entry): Promise<boolean> {
    const begin = performance.now();
    try {
      while (this.#others(entry).length > 0) {
        const victims = await this.#inTheWay(entry);
        if (victims.length === 0) return true;
        if (entry.waiting.size === 0 || this.#closed) return false;
        const used = victims.filter(({ inUse }) => inUse > 0);
        if (used.length === 0) {
          for (const victim of victims) await this.#unload(victim, 'memory');
          continue;
        }
        // First there may be a pause by itself; then those in use get no new requests until this one had its turn.
        const turn = begin + this.#options.turnMs;
        if (performance.now() >= turn) for (const victim of victims) victim.leaving = true;
        const until = performance.now() < turn ? turn : performance.now() + 1000;
        await this.#untilUnused(used, until, () => entry.waiting.size === 0);
      }
      return true;
    } finally {
      for (const other of this.#others(entry)) if (other.leaving) this.#reopen(other);
    }
  }

  /** Which models must go, idle ones first, least recently used first; none when there is room. */
  async #inTheWay(entry: Entry): Promise<Entry[]> {
    const others = this.#others(entry);
    const plan = await this.#engine.planModel(
      { ...entry.offered.load, ...this.#limitFor(entry, []) },
      Math.floor(sum(others, bytesOf) / mebibyte),
    );
    const limit = this.#limitFor(entry, others).memoryLimitMb! * mebibyte;
    let missing = plan.bytes - Math.min(plan.availableBytes, limit > 0 ? limit : Number.POSITIVE_INFINITY);
    const victims: Entry[] = [];
    for (const victim of others.sort((a, b) => Number(a.inUse > 0) - Number(b.inUse > 0) || a.usedAt - b.usedAt)) {
      if (missing <= 0) break;
      victims.push(victim);
      missing -= bytesOf(victim);
    }
    return victims;
  }

  /** Resolves when none of the models is in use, at the time, or when `over` says so. */
  async #untilUnused(entries: readonly Entry[], until: number, over: () => boolean = () => false): Promise<void> {
    while (entries.some(({ inUse }) => inUse > 0) && !over() && !this.#closed) {
      const left = until - performance.now();
      if (left <= 0) return;
      await new Promise<void>((resolve) => {
        const timer = setTimeout(done, Math.min(left, 1000));
        const onRelease = this.#onRelease;
        function done() {
          clearTimeout(timer);
          onRelease.delete(done);
          resolve();
        }
        onRelease.add(done);
      });
    }
  }

  #unloadIdle(): void {
    const oldest = performance.now() - this.#options.idleMs;
    for (const entry of this.#entries.values()) {
      if (entry.name === this.defaultModel || entry.state !== 'loaded') continue;
      const isDue = () => entry.inUse === 0 && entry.usedAt < oldest;
      if (isDue()) void this.#change(async () => (isDue() ? this.#unload(entry, 'idle') : undefined));
    }
  }

  /** Does nothing to a model that is in use by now, or gone already. */
  async #unload(entry: Entry, reason: UnloadReason): Promise<void> {
    if (entry.state !== 'loaded' || entry.inUse > 0) {
      if (entry.inUse > 0 && reason === 'request')
        throw errors.modelInUse(entry.name, `${entry.inUse} requests use it`);
      return;
    }
    entry.state = 'unloading';
    entry.leaving = false;
    try {
      await this.#engine.unloadModel(entry.name);
    } finally {
      entry.state = 'available';
      entry.counts.unloads[reason]++;
      this.#options.hooks.unloaded?.(entry.name, reason);
      this.#want(entry);
    }
  }
}

const newEntry = (offered: OfferedModel): Entry => ({
  name: offered.load.name,
  offered,
  state: 'available',
  info: null,
  wanted: false,
  leaving: false,
  inUse: 0,
  usedAt: 0,
  waiting: new Set(),
  failure: null,
  progress: null,
  counts: { loads: 0, loadSeconds: 0, failures: 0, unloads: { idle: 0, memory: 0, request: 0 } },
});

const sum = <T>(items: readonly T[], read: (item: T) => number) => items.reduce((total, item) => total + read(item), 0);
const bytesOf = (entry: Entry) => sum(entry.info?.memory ?? [], ({ bytes }) => bytes);
const isOutOfMemory = (error: unknown) => error instanceof EngineError && error.code === 'out_of_memory';
