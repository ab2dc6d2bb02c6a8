// Between routes and a busy engine: requests of different keys take turns. The engine gets as many requests as it has
// places, and a few that it can prepare; the rest wait here, in one queue a key. Higher priorities go first; among
// equals, deficit round robin over expected tokens (Shreedhar and Varghese, 1995), in which an owner's `share` is its
// quantum. The queue is bounded; when it is full, the owner with the longest queue gives way.

import { EventStream } from '../engine/event-stream.ts';
import {
  type Engine,
  EngineError,
  type EngineRequest,
  type EngineStream,
  type FinishedEvent,
  type RequestUsage,
} from '../engine/port.ts';
import { errors } from '../errors.ts';
import type { KeyOwner } from './keys.ts';

export interface AdmissionLimits {
  /** Requests that may wait. */
  queueRequests: number;
  /** Expected tokens of those that wait. */
  queueTokens: number;
}

export interface AdmissionHooks {
  /** A request left the engine; usage is null when it was never run or failed. */
  ended(owner: KeyOwner, cost: number, usage: RequestUsage | null): void;
}

/** Tokens a unit of share brings a turn: about one request, so that turns alternate finely. */
const quantumTokens = 512;
/** Answer tokens to expect of a request that sets no limit. */
const answerTokensDefault = 256;

/** What a request is expected to cost, before the engine has tokenized it. */
export function expectedTokens(request: EngineRequest, context: number): number {
  const prompt = Math.ceil(request.text.length / 4) + (request.ids?.length ?? 0);
  const answer = request.kind === 'generate' ? (request.maxTokens ?? answerTokensDefault) : 0;
  return Math.max(1, Math.min(prompt + answer, context));
}

interface Waiting {
  owner: KeyOwner;
  cost: number;
  start: () => void;
  refuse: () => void;
}

interface OwnerQueue {
  owner: KeyOwner;
  waiting: Waiting[];
  deficit: number;
}

/** The order of what waits. Knows no engine. */
export class FairQueue {
  /** Owners with something waiting, in the order of their turns. */
  readonly #turns: OwnerQueue[] = [];
  #requests = 0;
  #tokens = 0;

  get requests(): number {
    return this.#requests;
  }

  get tokens(): number {
    return this.#tokens;
  }

  waitingOf(name: string): number {
    return this.#turns.find((queue) => queue.owner.name === name)?.waiting.length ?? 0;
  }

  /** Who waits, by name. */
  owners(): Array<{ name: string; waiting: number }> {
    return this.#turns.map(({ owner, waiting }) => ({ name: owner.name, waiting: waiting.length }));
  }

  push(entry: Waiting): void {
    let queue = this.#turns.find(({ owner }) => owner.name === entry.owner.name);
    if (!queue) {
      queue = { owner: entry.owner, waiting: [], deficit: 0 };
      this.#turns.push(queue);
    }
    // A reload may have changed what the owner may use.
    queue.owner = entry.owner;
    queue.waiting.push(entry);
    this.#count(entry, 1);
  }

  /** The next in turn, or null. */
  take(): Waiting | null {
    if (this.#turns.length === 0) return null;
    const top = Math.max(...this.#turns.map(({ owner }) => owner.priority));
    for (;;) {
      const queue = this.#turns.find(({ owner }) => owner.priority === top)!;
      const entry = queue.waiting[0]!;
      if (queue.deficit >= entry.cost) {
        queue.deficit -= entry.cost;
        this.remove(entry);
        return entry;
      }
      queue.deficit += quantumTokens * queue.owner.share;
      this.#turns.splice(this.#turns.indexOf(queue), 1);
      this.#turns.push(queue);
    }
  }

  /** Takes the youngest of the longest queue out, unless that queue is the given owner's or no longer than it. */
  giveWay(owner: KeyOwner): Waiting | null {
    const own = this.waitingOf(owner.name);
    let longest: OwnerQueue | null = null;
    for (const queue of this.#turns) {
      if (queue.owner.priority > owner.priority) continue;
      if (!longest || queue.waiting.length > longest.waiting.length) longest = queue;
    }
    if (!longest || longest.owner.name === owner.name || longest.waiting.length <= own + 1) return null;
    const entry = longest.waiting.at(-1)!;
    this.remove(entry);
    return entry;
  }

  /** Whether it was still waiting. */
  remove(entry: Waiting): boolean {
    const queue = this.#turns.find(({ waiting }) => waiting.includes(entry));
    if (!queue) return false;
    queue.waiting.splice(queue.waiting.indexOf(entry), 1);
    this.#count(entry, -1);
    // An owner who waits for nothing saves up nothing.
    if (queue.waiting.length === 0) this.#turns.splice(this.#turns.indexOf(queue), 1);
    return true;
  }

  #count(entry: Waiting, sign: number): void {
    this.#requests += sign;
    this.#tokens += sign * entry.cost;
  }
}

interface ModelGate {
  queue: FairQueue;
  inEngine: number;
}

export class Admission {
  readonly #limits: AdmissionLimits;
  readonly #hooks: AdmissionHooks;
  readonly #gates = new Map<string, ModelGate>();

  constructor(limits: AdmissionLimits, hooks: AdmissionHooks) {
    this.#limits = limits;
    this.#hooks = hooks;
  }

  /** What waits here, by model. */
  waiting(model: string): number {
    return this.#gates.get(model)?.queue.requests ?? 0;
  }

  /** What waits here, by owner. */
  owners(): Array<{ name: string; waiting: number }> {
    return [...this.#gates.values()].flatMap(({ queue }) => queue.owners());
  }

  /**
   * Submits now or when it is the owner's turn; the stream behaves like the engine's own. Throws queue_full when there
   * is no room to wait; a refusal by the engine comes out of the iterator.
   */
  submit(engine: Engine, request: EngineRequest, owner: KeyOwner, cost: number): EventStream {
    const gate = this.#gate(request.model);
    const sequences = engine.models().find(({ name }) => name === request.model)?.maxSequences ?? 1;
    // A few more than places: the engine tokenizes them and starts one in the step in which another ends.
    const places = sequences + Math.max(2, Math.ceil(sequences / 4));
    const admitted = new AdmittedRequest({
      submit: () => engine.submit({ ...request, priority: owner.priority }),
      ended: (usage, inEngine) => {
        if (inEngine) gate.inEngine--;
        this.#hooks.ended(owner, cost, usage);
        this.#next(gate, places);
      },
      leaveQueue: () => gate.queue.remove(entry),
    });
    const entry: Waiting = { owner, cost, start: () => admitted.start(), refuse: () => admitted.refuse() };
    if (gate.inEngine < places && gate.queue.requests === 0) {
      gate.inEngine++;
      admitted.start();
    } else {
      this.#makeRoom(gate, owner, cost);
      gate.queue.push(entry);
    }
    return admitted.events;
  }

  #makeRoom(gate: ModelGate, owner: KeyOwner, cost: number): void {
    const { queueRequests, queueTokens } = this.#limits;
    const { queue } = gate;
    while (queue.requests >= queueRequests || queue.tokens + cost > queueTokens) {
      const displaced = queue.giveWay(owner);
      if (!displaced) throw errors.queueFull(1);
      displaced.refuse();
    }
  }

  #next(gate: ModelGate, places: number): void {
    while (gate.inEngine < places) {
      const entry = gate.queue.take();
      if (!entry) return;
      gate.inEngine++;
      entry.start();
    }
  }

  #gate(model: string): ModelGate {
    const known = this.#gates.get(model);
    if (known) return known;
    const made = { queue: new FairQueue(), inEngine: 0 };
    this.#gates.set(model, made);
    return made;
  }
}

interface StreamHooks {
  submit: () => Promise<EngineStream>;
  /** Called once; `inEngine` tells whether it had taken a place there. */
  ended: (usage: RequestUsage | null, inEngine: boolean) => void;
  leaveQueue: () => boolean;
}

const unused: RequestUsage = {
  promptTokens: 0,
  cachedTokens: 0,
  imageTokens: 0,
  completionTokens: 0,
  queueMs: 0,
  prefillMs: 0,
  decodeMs: 0,
  draftTokens: 0,
  draftAccepted: 0,
  predictedTokens: 0,
  predictedAccepted: 0,
};

/**
 * A request that may not have begun. Events are passed on as they come, not as they are read: a place is free again the
 * moment its request ends, also while the route still waits for another of the same call.
 */
class AdmittedRequest {
  readonly events: EventStream;
  readonly #hooks: StreamHooks;
  #stream: EngineStream | null = null;
  #started = false;
  #cancelled = false;

  constructor(hooks: StreamHooks) {
    this.#hooks = hooks;
    this.events = new EventStream(() => this.#cancel());
  }

  start(): void {
    this.#started = true;
    void this.#run();
  }

  refuse(): void {
    this.#hooks.ended(null, false);
    this.events.fail(new EngineError('busy', 'another key had less waiting'));
  }

  async #run(): Promise<void> {
    let last: FinishedEvent | null = null;
    let failure: unknown = null;
    try {
      this.#stream = await this.#hooks.submit();
      if (this.#cancelled) this.#stream.cancel();
      for await (const event of this.#stream) {
        if (event.type === 'finished') last = event;
        else this.events.push(event);
      }
    } catch (error) {
      failure = error;
    }
    // Before the reader knows: what it does next finds the place free and the books in order.
    this.#hooks.ended(last?.usage ?? null, true);
    if (last) this.events.push(last);
    else this.events.fail(failure instanceof EngineError ? failure : new EngineError('internal', String(failure)));
  }

  #cancel(): void {
    this.#cancelled = true;
    if (this.#stream) return this.#stream.cancel();
    if (this.#started || !this.#hooks.leaveQueue()) return;
    // It never reached the engine: it ends here the way it would have there.
    this.#hooks.ended(null, false);
    this.events.push({ type: 'finished', reason: 'cancelled', text: '', stop: null, usage: unused });
  }
}
