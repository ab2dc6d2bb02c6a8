// The life of one request: ends when its answer does, when its client leaves, or when the server stops.

import type { ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { ApiError } from '../errors.ts';
import type { KeyOwner } from './keys.ts';
import type { Abortable, Lifecycle } from './lifecycle.ts';

/** Thrown inside a route whose client has gone: there is nobody to tell. */
export class ClientGone extends Error {
  constructor() {
    super('the client closed the connection');
    this.name = 'ClientGone';
  }
}

/** Requests by their connection: an answer that stands behind another on it is not told that it has gone. */
const connections = new WeakMap<Socket, Set<RequestScope>>();

/** Releases the scope with its connection. `socket` is missing where requests are injected without one. */
function releaseWith(socket: Socket | undefined, scope: RequestScope): void {
  if (!socket) return;
  if (socket.destroyed) return scope.release();
  let scopes = connections.get(socket);
  if (!scopes) {
    const made = new Set<RequestScope>();
    socket.once('close', () => {
      for (const one of [...made]) one.release();
    });
    connections.set(socket, made);
    scopes = made;
  }
  scopes.add(scope);
}

function forget(socket: Socket | undefined, scope: RequestScope): void {
  if (socket) connections.get(socket)?.delete(scope);
}

export class RequestScope implements Abortable {
  /** Whose request it is. */
  readonly owner: KeyOwner;
  readonly #lifecycle: Lifecycle;
  readonly #response: ServerResponse | null;
  readonly #cancels: Array<() => void> = [];
  #atEnd: Array<() => void> | null = [];
  #reason: ApiError | ClientGone | null = null;

  /** `response` is null for what has none of its own (a WebSocket turn); then `release` ends it. */
  constructor(lifecycle: Lifecycle, response: ServerResponse | null, owner: KeyOwner) {
    this.owner = owner;
    this.#lifecycle = lifecycle;
    this.#response = response;
    lifecycle.track(this);
    if (!response) return;
    response.once('close', () => this.release());
    releaseWith(response.req.socket, this);
  }

  /** Why the request was ended, or null while it lives. */
  get reason(): ApiError | ClientGone | null {
    return this.#reason;
  }

  abort(error: ApiError | null): void {
    if (this.#reason) return;
    this.#reason = error ?? new ClientGone();
    for (const cancel of this.#cancels) cancel();
  }

  /** Called when the request ends early; at once when it already has. */
  onAbort(cancel: () => void): void {
    if (this.#reason) cancel();
    else this.#cancels.push(cancel);
  }

  /** Adds to the head of the answer, as long as it is not on its way. */
  setHeaders(headers: Record<string, string>): void {
    if (!this.#response || this.#response.headersSent) return;
    for (const [name, value] of Object.entries(headers)) this.#response.setHeader(name, value);
  }

  /** Called once the request is over, however it ended; at once when it is. */
  onEnd(tell: () => void): void {
    if (this.#atEnd) this.#atEnd.push(tell);
    else tell();
  }

  throwIfAborted(): void {
    if (this.#reason) throw this.#reason;
  }

  /** The request is over. What of it still runs, other choices than the one that failed, is for nobody. */
  release(): void {
    this.abort(null);
    if (this.#response) forget(this.#response.req.socket, this);
    const tell = this.#atEnd ?? [];
    this.#atEnd = null;
    for (const one of tell) one();
    this.#lifecycle.untrack(this);
  }
}
