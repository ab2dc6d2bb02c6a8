// The only writer of `data:`. One object a stream; one timer for the comments of all streams.

import type { ServerResponse } from 'node:http';

export interface SseOptions {
  /** Headers besides those of the stream itself. */
  headers: Record<string, string | number | string[] | undefined>;
  /** A stream whose client has left this much unread is given up. */
  unreadBytesMax: number;
  onSlowReader: () => void;
}

const done = 'data: [DONE]\n\n';
const comment = ': keep-alive\n\n';

/** Sends a comment on streams that were silent: each is looked at every half period, so within 1 to 1.5 periods. */
export class KeepAlive {
  readonly #streams = new Set<SseStream>();
  readonly #timer: NodeJS.Timeout;

  constructor(periodMs: number) {
    this.#timer = setInterval(() => {
      for (const stream of this.#streams) stream.tick();
    }, periodMs / 2);
    this.#timer.unref();
  }

  add(stream: SseStream): void {
    this.#streams.add(stream);
  }

  delete(stream: SseStream): void {
    this.#streams.delete(stream);
  }

  close(): void {
    clearInterval(this.#timer);
  }
}

export class SseStream {
  readonly #raw: ServerResponse;
  readonly #options: SseOptions;
  readonly #keepAlive: KeepAlive;
  #silentTicks = 0;
  #open = true;

  /** Writes the head at once: from here on errors are events. */
  constructor(raw: ServerResponse, keepAlive: KeepAlive, options: SseOptions) {
    this.#raw = raw;
    this.#options = options;
    this.#keepAlive = keepAlive;
    // Node adds Connection: keep-alive, unless the client asked to close.
    raw.writeHead(200, {
      ...options.headers,
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache',
      'x-accel-buffering': 'no',
    });
    raw.flushHeaders();
    raw.socket?.setNoDelay(true);
    keepAlive.add(this);
  }

  /** One event of one line of JSON. */
  data(json: string): void {
    this.#write(`data: ${json}\n\n`);
  }

  /** A named event, as /v1/responses and /v1/messages have. */
  event(name: string, json: string): void {
    this.#write(`event: ${name}\ndata: ${json}\n\n`);
  }

  /** Ends the stream as chat and completions streams end. */
  done(): void {
    this.#write(done);
    this.end();
  }

  end(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#keepAlive.delete(this);
    this.#raw.end();
  }

  tick(): void {
    if (++this.#silentTicks > 2) this.#write(comment);
  }

  #write(text: string): void {
    if (!this.#open) return;
    this.#silentTicks = 0;
    if (this.#raw.destroyed) return this.#close();
    if (!this.#raw.write(text) && this.#raw.writableLength > this.#options.unreadBytesMax) {
      this.#close();
      this.#options.onSlowReader();
      this.#raw.destroy();
    }
  }

  #close(): void {
    this.#open = false;
    this.#keepAlive.delete(this);
  }
}
