// Whether the server can serve: one phase, one reason, and the requests that a shutdown must wait for.

import { ModelSet } from '../engine/model-set.ts';
import type { Engine } from '../engine/port.ts';
import { type ApiError, errors } from '../errors.ts';

export type Phase = 'loading' | 'ready' | 'draining';

export interface Abortable {
  /** Ends a request; with an error the client is told, without one it has gone. */
  abort(error: ApiError | null): void;
}

/** Owned by the composition root, read by every route. */
export class Lifecycle {
  #phase: Phase = 'loading';
  #detail = 'starting';
  #engine: Engine | null = null;
  #models: ModelSet | null = null;
  readonly #active = new Set<Abortable>();
  #idle: (() => void) | null = null;

  get phase(): Phase {
    return this.#phase;
  }

  get detail(): string {
    return this.#detail;
  }

  get active(): number {
    return this.#active.size;
  }

  loading(detail: string): void {
    this.#detail = detail;
  }

  /** From here on requests are served: with a set of models, or with those that the engine has. */
  ready(engine: Engine, models: ModelSet | string): void {
    this.#engine = engine;
    this.#models = typeof models === 'string' ? ModelSet.of(engine, models) : models;
    if (this.#phase === 'loading') this.#phase = 'ready';
    this.#detail = '';
  }

  /** Why nothing can be served now, or null when it can. */
  refusal(): ApiError | null {
    if (this.#phase === 'draining') return errors.shuttingDown();
    if (this.#phase === 'loading' || !this.#engine) return errors.loading(this.#detail);
    return this.#engine.failure() ? errors.engineDead() : null;
  }

  engine(): Engine {
    const refusal = this.refusal();
    if (refusal) throw refusal;
    return this.#engine!;
  }

  /** The engine for counting only: also while draining. */
  engineForStats(): Engine | null {
    return this.#engine;
  }

  /** The models; `default` and no name mean the one the server was started with. */
  models(): ModelSet {
    this.engine();
    return this.#models!;
  }

  /** The models for counting only: also while draining. */
  modelsForStats(): ModelSet | null {
    return this.#models;
  }

  track(request: Abortable): void {
    this.#active.add(request);
  }

  untrack(request: Abortable): void {
    this.#active.delete(request);
    if (this.#active.size === 0) this.#idle?.();
  }

  /** Refuses new work, waits for the running requests, then ends the rest with an error. */
  async drain(limitMs: number): Promise<void> {
    this.#phase = 'draining';
    await this.#untilIdle(limitMs);
    for (const request of this.#active) request.abort(errors.shuttingDown());
    await this.#untilIdle(5000);
  }

  #untilIdle(limitMs: number): Promise<void> {
    if (this.#active.size === 0) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(() => this.#idle?.(), limitMs);
      this.#idle = () => {
        clearTimeout(timer);
        this.#idle = null;
        resolve();
      };
    });
  }
}
