// Runs chat templates in a worker with a deadline.

import { Worker } from 'node:worker_threads';

export class TemplateError extends Error {
  constructor(
    message: string,
    /** True when the template was stopped, not when it complained. */
    readonly timedOut = false,
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

type Answer = { ready: true } | { id: number; text: string } | { id: number; error: string };

const heapMbMax = 512;

/** One worker, one job at a time: the deadline of a job is never spent on another's work. */
export class TemplateRenderer {
  readonly #timeoutMs: number;
  #worker: Worker | null = null;
  #ready = false;
  #jobs: Job[] = [];
  #running: Job | null = null;
  #timer: NodeJS.Timeout | null = null;
  #nextId = 1;
  #closed = false;

  constructor(options: { timeoutMs: number }) {
    this.#timeoutMs = options.timeoutMs;
    this.#start();
  }

  /** Text of a template; throws TemplateError when it fails, raises or takes too long. */
  render(source: string, variables: Record<string, unknown>): Promise<string> {
    if (this.#closed) return Promise.reject(new TemplateError('the template renderer is closed'));
    return new Promise((resolve, reject) => {
      this.#jobs.push({ id: this.#nextId++, source, variables, resolve, reject });
      this.#next();
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    const left = [...(this.#running ? [this.#running] : []), ...this.#jobs];
    this.#jobs = [];
    this.#running = null;
    if (this.#timer) clearTimeout(this.#timer);
    for (const job of left) job.reject(new TemplateError('the template renderer is closed'));
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
    worker.on('error', (error) => this.#lost(worker, `the template failed: ${error.message}`));
    worker.on('exit', () => this.#lost(worker, 'the template ended its worker'));
    this.#worker = worker;
    this.#ready = false;
    return worker;
  }

  #next(): void {
    if (this.#running || this.#closed || this.#jobs.length === 0) return;
    const worker = this.#worker ?? this.#start();
    if (!this.#ready) return;
    const job = this.#jobs.shift()!;
    this.#running = job;
    this.#timer = setTimeout(() => this.#expired(worker), this.#timeoutMs);
    worker.postMessage({ id: job.id, source: job.source, variables: job.variables });
  }

  #take(): Job | null {
    const job = this.#running;
    this.#running = null;
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    return job;
  }

  #answered(worker: Worker, answer: Answer): void {
    if (worker !== this.#worker) return;
    if ('ready' in answer) {
      this.#ready = true;
      return this.#next();
    }
    if (this.#running?.id !== answer.id) return;
    const job = this.#take()!;
    if ('text' in answer) job.resolve(answer.text);
    else job.reject(new TemplateError(answer.error));
    this.#next();
  }

  #expired(worker: Worker): void {
    this.#worker = null;
    void worker.terminate();
    this.#take()?.reject(new TemplateError(`the chat template took longer than ${this.#timeoutMs} ms`, true));
    this.#next();
  }

  #lost(worker: Worker, reason: string): void {
    if (worker !== this.#worker) return;
    this.#worker = null;
    const job = this.#take() ?? (this.#ready ? null : this.#jobs.shift());
    job?.reject(new TemplateError(reason));
    if (!this.#closed) this.#next();
  }
}
