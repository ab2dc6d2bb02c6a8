// What earlier responses said, for previous_response_id and to be asked for again: in memory, bounded in number and, all
// stores together, in size.

import type { NamedItem } from '../openai/responses.ts';

/** The turns of one socket. */
interface Conversation {
  /** The id of the response that it goes on from, most likely. Not the response: that would outlive being forgotten. */
  latest: string | null;
}

/** Its output is also the end of its conversation. */
interface AnsweredResponse {
  output: readonly unknown[];
}

/** What a budget counts, and has forgotten where it is too much. */
export interface Budgeted {
  readonly items: readonly object[];
  /** Without the items. */
  readonly characters: number;
  /** Whether it goes only where nothing else is left. */
  isNeeded(): boolean;
  forget(): void;
}

interface Kept extends Budgeted {
  id: string;
  owner: string;
  /** As its client got it. */
  response: AnsweredResponse;
  /** The whole conversation up to and with the response. */
  items: readonly NamedItem[];
}

/** Responses of one store. */
export const responsesMax = 2000;

/** What objects take in memory besides their texts, counted as characters: many small ones are not free. */
const responseOverhead = 2048;
const itemOverhead = 128;
const listEntryOverhead = 8;

/** What an answer and the list of its items take, without the items. */
export const charactersOf = (answer: object, items: readonly object[]) =>
  responseOverhead + JSON.stringify(answer).length + listEntryOverhead * items.length;

/**
 * What all stores may keep, together. The least recently used responses go first, but those that sockets go on from only
 * when nothing else is left.
 */
export class ResponseBudget {
  /** The least recently used first. */
  readonly #kept = new Set<Budgeted>();
  /** The turns of a conversation share its items: each counts once, until the last response that has it is forgotten. */
  readonly #items = new Map<object, { characters: number; holders: number }>();
  readonly #charactersMax: number;
  #characters = 0;

  constructor(charactersMax = 256 * 1024 * 1024) {
    this.#charactersMax = charactersMax;
  }

  add(kept: Budgeted): void {
    this.#kept.add(kept);
    this.#characters += kept.characters;
    for (const item of kept.items) {
      const held = this.#items.get(item) ?? { characters: itemOverhead + JSON.stringify(item).length, holders: 0 };
      if (held.holders++ > 0) continue;
      this.#items.set(item, held);
      this.#characters += held.characters;
    }
    this.#makeRoom(kept);
  }

  use(kept: Budgeted): void {
    if (this.#kept.delete(kept)) this.#kept.add(kept);
  }

  remove(kept: Budgeted): void {
    if (!this.#kept.delete(kept)) return;
    this.#characters -= kept.characters;
    for (const item of kept.items) {
      const held = this.#items.get(item)!;
      if (--held.holders > 0) continue;
      this.#items.delete(item);
      this.#characters -= held.characters;
    }
  }

  /** The newest itself goes where it alone is too large. */
  #makeRoom(newest: Budgeted): void {
    const rounds = [
      (kept: Budgeted) => kept !== newest && !kept.isNeeded(),
      (kept: Budgeted) => kept !== newest,
      () => true,
    ];
    for (const mayGo of rounds) {
      for (const kept of this.#kept) {
        if (this.#characters <= this.#charactersMax) return;
        if (mayGo(kept)) kept.forget();
      }
    }
  }
}

/** Responses that can be found together: those of HTTP, or those that a socket keeps for itself. */
export class ResponseStore {
  readonly #budget: ResponseBudget;
  readonly #responses = new Map<string, Kept>();
  /** Items by their ids, by which clients refer to them. */
  readonly #byId = new Map<string, { item: NamedItem; owner: string; holders: number }>();

  constructor(budget: ResponseBudget) {
    this.#budget = budget;
  }

  put(
    id: string,
    owner: string,
    response: AnsweredResponse,
    items: readonly NamedItem[],
    conversation: Conversation | null = null,
  ): void {
    const kept: Kept = {
      id,
      owner,
      response,
      items,
      characters: charactersOf(response, items),
      isNeeded: () => conversation?.latest === id,
      forget: () => this.#forget(kept),
    };
    this.#responses.set(id, kept);
    for (const item of items) this.#name(item, owner);
    if (this.#responses.size > responsesMax) this.#oldest().forget();
    this.#budget.add(kept);
  }

  /** A response that the same owner got, or null. */
  get(id: string, owner: string): Readonly<Kept> | null {
    const kept = this.#responses.get(id);
    if (!kept || kept.owner !== owner) return null;
    this.#budget.use(kept);
    return kept;
  }

  /** An item of a response that is kept, and that the same owner got, or null. */
  item(id: string, owner: string): NamedItem | null {
    const known = this.#byId.get(id);
    return known && known.owner === owner ? known.item : null;
  }

  /** False when the owner has no such response. */
  delete(id: string, owner: string): boolean {
    const kept = this.get(id, owner);
    kept?.forget();
    return kept !== null;
  }

  #forget(kept: Kept): void {
    if (!this.#responses.delete(kept.id)) return;
    this.#budget.remove(kept);
    for (const item of kept.items) {
      const known = this.#byId.get(item.id);
      if (known && --known.holders === 0) this.#byId.delete(item.id);
    }
  }

  forgetAll(): void {
    for (const kept of [...this.#responses.values()]) kept.forget();
  }

  /** Where there is one, among those that no socket goes on from. */
  #oldest(): Kept {
    const [first] = this.#responses.values();
    for (const kept of this.#responses.values()) if (!kept.isNeeded()) return kept;
    return first!;
  }

  #name(item: NamedItem, owner: string): void {
    const known = this.#byId.get(item.id) ?? { item, owner, holders: 0 };
    known.holders++;
    this.#byId.set(item.id, known);
  }
}

/** Where a conversation finds what it goes on from, and leaves what it comes to. */
export interface ResponseMemory {
  get(id: string, owner: string): Readonly<Kept> | null;
  item(id: string, owner: string): NamedItem | null;
  put(id: string, owner: string, response: AnsweredResponse, items: readonly NamedItem[], stored: boolean): void;
}

/** Over HTTP only what is stored is kept. */
export const httpMemory = (store: ResponseStore): ResponseMemory => ({
  get: (id, owner) => store.get(id, owner),
  item: (id, owner) => store.item(id, owner),
  put: (id, owner, response, items, stored) => {
    if (stored) store.put(id, owner, response, items);
  },
});

/** A socket also goes on from what is not stored, for as long as it lives. */
export class SocketMemory implements ResponseMemory {
  readonly #shared: ResponseStore;
  readonly #own: ResponseStore;
  readonly #conversation: Conversation = { latest: null };
  #closed = false;

  constructor(shared: ResponseStore, budget: ResponseBudget) {
    this.#shared = shared;
    this.#own = new ResponseStore(budget);
  }

  get(id: string, owner: string): Readonly<Kept> | null {
    return this.#shared.get(id, owner) ?? this.#own.get(id, owner);
  }

  item(id: string, owner: string): NamedItem | null {
    return this.#shared.item(id, owner) ?? this.#own.item(id, owner);
  }

  put(id: string, owner: string, response: AnsweredResponse, items: readonly NamedItem[], stored: boolean): void {
    if (this.#closed && !stored) return;
    if (!this.#closed) this.#conversation.latest = id;
    (stored ? this.#shared : this.#own).put(id, owner, response, items, this.#conversation);
  }

  close(): void {
    this.#closed = true;
    this.#conversation.latest = null;
    this.#own.forgetAll();
  }
}
