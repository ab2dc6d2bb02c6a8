// Runs chat templates in a worker with a deadline.

import { readFileSync } from 'node:fs';
import { Worker } from 'node:worker_threads';

/** Templates that the worker keeps; template-worker.mjs drops all of them when the first key comes again. */
const templatesMax = 32;

/**
 * `refused`: the template's own words, by raise_exception; `failed`: it could not be carried out; `broken`: it cannot be
 * read at all; `stopped`: by its deadline, its memory or the end of the renderer.
 */
export type TemplateFault = 'refused' | 'failed' | 'broken' | 'stopped';

export class TemplateError extends Error {
  constructor(
    message: string,
    readonly fault: TemplateFault,
  ) {
    super(message);
    this.name = 'TemplateError';
  }
}

interface Job {
  id: number;
  source: string;
  variables: Record<string, unknown>;
  resolve: (text: string) => void;
  reject: (error: TemplateError) => void;
}

type Answer =
  | { ready: true; thread: string | null }
  | { id: number; text: string }
  | { id: number; error: string; fault: TemplateFault };

const heapMbMax = 512;
/** Jobs that the worker holds: enough that it need not wait for this thread between two. */
const inFlightMax = 16;
/** How much longer than its deadline a template may take on a machine that does not let it run. */
const patience = 15;

/**
 * One worker, which renders its jobs in order: the deadline of a job begins when the one before has been answered. It is a
 * deadline on the worker's own processor time, as far as the system tells that: a busy machine fails no request.
 */
export class TemplateRenderer {
  readonly #timeoutMs: number;
  #worker: Worker | null = null;
  #ready = false;
  /** The worker's files under /proc, where there are any. */
  #thread: string | null = null;
  #queue: Job[] = [];
  /** The first is being rendered, the others are in the worker's mailbox. */
  #inFlight: Job[] = [];
  /** Sources that this worker has; they are sent once. */
  readonly #keys = new Map<string, number>();
  #timer: NodeJS.Timeout | null = null;
  #headBegan = { at: 0, cpuMs: 0 };
  #nextId = 1;
  #closed = false;

  constructor(options: { timeoutMs: number }) {
    this.#timeoutMs = options.timeoutMs;
    this.#start();
  }

  /** Text of a template; throws TemplateError when it fails, raises or takes too long. */
  render(source: string, variables: Record<string, unknown>): Promise<string> {
    if (this.#closed) return Promise.reject(new TemplateError('the template renderer is closed', 'stopped'));
    return new Promise((resolve, reject) => {
      this.#queue.push({ id: this.#nextId++, source, variables, resolve, reject });
      this.#post();
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    const left = [...this.#inFlight, ...this.#queue];
    this.#queue = [];
    this.#inFlight = [];
    this.#disarm();
    for (const job of left) job.reject(new TemplateError('the template renderer is closed', 'stopped'));
    await this.#worker?.terminate();
  }

  #start(): Worker {
    // The loader options of this process would only slow the worker down.
    const worker = new Worker(new URL('./template-worker.mjs', import.meta.url), {
      execArgv: [],
      resourceLimits: { maxOldGenerationSizeMb: heapMbMax },
    });
    worker.unref();
    worker.on('message', (answer: Answer) => this.#answered(worker, answer));
    worker.on('error', (error) => this.#lost(worker, error.message));
    worker.on('exit', () => this.#lost(worker, 'it ended its worker'));
    this.#worker = worker;
    this.#ready = false;
    this.#keys.clear();
    return worker;
  }

  #post(): void {
    if (this.#closed) return;
    const worker = this.#worker ?? this.#start();
    if (!this.#ready) return;
    while (this.#queue.length > 0 && this.#inFlight.length < inFlightMax) {
      const job = this.#queue.shift()!;
      this.#inFlight.push(job);
      worker.postMessage({ id: job.id, ...this.#named(job.source), variables: job.variables });
      if (this.#inFlight.length === 1) this.#arm(worker);
    }
  }

  /** A template's key, and its text when the worker does not have it. */
  #named(source: string): { key: number; source?: string } {
    const known = this.#keys.get(source);
    if (known !== undefined) return { key: known };
    // The worker forgets all of them with the first of a new round.
    if (this.#keys.size >= templatesMax) this.#keys.clear();
    const key = this.#keys.size;
    this.#keys.set(source, key);
    return { key, source };
  }

  /** Begins the deadline of the first job in flight. */
  #arm(worker: Worker): void {
    this.#headBegan = { at: performance.now(), cpuMs: this.#cpuMs() };
    this.#timer = setTimeout(() => this.#expired(worker), this.#timeoutMs);
  }

  #disarm(): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
  }

  /** Processor time that the worker has had; the clock's where the system does not tell. */
  #cpuMs(): number {
    try {
      const stat = readFileSync(`${this.#thread}/stat`, 'latin1');
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      return (Number(fields[11]) + Number(fields[12])) * 10;
    } catch {
      return performance.now();
    }
  }

  #answered(worker: Worker, answer: Answer): void {
    if (worker !== this.#worker) return;
    if ('ready' in answer) {
      this.#ready = true;
      this.#thread = answer.thread;
      return this.#post();
    }
    const job = this.#inFlight[0];
    if (job?.id !== answer.id) return;
    this.#inFlight.shift();
    this.#disarm();
    if (this.#inFlight.length > 0) this.#arm(worker);
    if ('text' in answer) job.resolve(answer.text);
    else job.reject(new TemplateError(answer.error, answer.fault));
    this.#post();
  }

  #expired(worker: Worker): void {
    const { at, cpuMs } = this.#headBegan;
    const usedMs = this.#cpuMs() - cpuMs;
    const waitedMs = performance.now() - at;
    if (usedMs < this.#timeoutMs * 0.9 && waitedMs < this.#timeoutMs * patience) {
      this.#timer = setTimeout(() => this.#expired(worker), Math.max(50, this.#timeoutMs - usedMs));
      return;
    }
    void worker.terminate();
    this.#replace(new TemplateError(`it took longer than ${this.#timeoutMs} ms`, 'stopped'));
  }

  #lost(worker: Worker, reason: string): void {
    if (worker !== this.#worker) return;
    // A worker that never came up takes the job that waits for it with it, or there would be no end to new ones.
    if (!this.#ready && this.#inFlight.length === 0) {
      const first = this.#queue.shift();
      if (first) this.#inFlight.push(first);
    }
    this.#replace(new TemplateError(reason, 'stopped'));
  }

  /** The first job in flight is to blame and fails; the others go to another worker. */
  #replace(error: TemplateError): void {
    this.#worker = null;
    this.#ready = false;
    this.#disarm();
    const [head, ...rest] = this.#inFlight;
    this.#inFlight = [];
    this.#queue.unshift(...rest);
    head?.reject(error);
    if (this.#queue.length > 0) this.#post();
  }
}
