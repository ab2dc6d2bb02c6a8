// The queue between an engine that pushes events and the one reader of a request.

import type { EngineError, EngineEvent, EngineStream } from './port.ts';

type Waiting = { resolve: (result: IteratorResult<EngineEvent>) => void; reject: (error: unknown) => void };

const ended: IteratorResult<EngineEvent> = { done: true, value: undefined };

/** Pushed into by an engine, iterated once by a route. Nothing may be pushed after `finished` or `fail`. */
export class EventStream implements EngineStream, AsyncIterator<EngineEvent> {
  readonly #onCancel: () => void;
  #queue: EngineEvent[] = [];
  #head = 0;
  #waiting: Waiting | null = null;
  #closed = false;
  #error: EngineError | null = null;

  constructor(onCancel: () => void) {
    this.#onCancel = onCancel;
  }

  push(event: EngineEvent): void {
    if (event.type === 'finished') this.#closed = true;
    const waiting = this.#waiting;
    if (waiting) {
      this.#waiting = null;
      waiting.resolve({ done: false, value: event });
    } else {
      this.#queue.push(event);
    }
  }

  /** Ends the request with an error, after the events that are already queued. */
  fail(error: EngineError): void {
    this.#closed = true;
    const waiting = this.#waiting;
    if (waiting) {
      this.#waiting = null;
      waiting.reject(error);
    } else {
      this.#error = error;
    }
  }

  next(): Promise<IteratorResult<EngineEvent>> {
    if (this.#head < this.#queue.length) {
      const value = this.#queue[this.#head++]!;
      if (this.#head === this.#queue.length) {
        this.#queue = [];
        this.#head = 0;
      }
      return Promise.resolve({ done: false, value });
    }
    if (this.#error) {
      const error = this.#error;
      this.#error = null;
      return Promise.reject(error);
    }
    if (this.#closed) return Promise.resolve(ended);
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
    });
  }

  /** Called when a reader leaves its loop early. */
  return(): Promise<IteratorResult<EngineEvent>> {
    this.cancel();
    return Promise.resolve(ended);
  }

  cancel(): void {
    if (!this.#closed) this.#onCancel();
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
