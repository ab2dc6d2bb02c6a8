// What earlier responses said, for previous_response_id and to be asked for again: in memory, bounded in number and in size.

import type { Item } from '../openai/responses.ts';

interface Stored {
  /** As its client got it. */
  response: object;
  /** The whole conversation up to and with the response. */
  items: readonly Item[];
  owner: string;
  /** Of the response. */
  characters: number;
}

export const responsesMax = 2000;

export class ResponseStore {
  readonly #responses = new Map<string, Stored>();
  /** The turns of a conversation share its items: each counts once, until the last response that has it is forgotten. */
  readonly #items = new Map<Item, { characters: number; holders: number }>();
  /** Those of answers, which clients know by their ids. */
  readonly #byId = new Map<string, { item: Item; owner: string }>();
  readonly #charactersMax: number;
  #characters = 0;

  constructor(charactersMax = 256 * 1024 * 1024) {
    this.#charactersMax = charactersMax;
  }

  put(id: string, owner: string, response: object, items: readonly Item[]): void {
    const { length: characters } = JSON.stringify(response);
    this.#responses.set(id, { response, items, owner, characters });
    this.#characters += characters;
    for (const item of items) this.#hold(item, owner);
    for (const oldest of this.#responses.keys()) {
      if (this.#responses.size <= responsesMax && this.#characters <= this.#charactersMax) break;
      this.#forget(oldest);
    }
  }

  /** A response that the same owner got, or null. */
  get(id: string, owner: string): Readonly<Stored> | null {
    const stored = this.#responses.get(id);
    return stored && stored.owner === owner ? stored : null;
  }

  /** An item of a response that is kept, and that the same owner got, or null. */
  item(id: string, owner: string): Item | null {
    const known = this.#byId.get(id);
    return known && known.owner === owner ? known.item : null;
  }

  /** False when the owner has no such response. */
  delete(id: string, owner: string): boolean {
    if (!this.get(id, owner)) return false;
    this.#forget(id);
    return true;
  }

  #hold(item: Item, owner: string): void {
    const held = this.#items.get(item);
    if (held) {
      held.holders++;
      return;
    }
    const { length: characters } = JSON.stringify(item);
    this.#items.set(item, { characters, holders: 1 });
    this.#characters += characters;
    const id = idOf(item);
    if (id !== undefined) this.#byId.set(id, { item, owner });
  }

  #forget(id: string): void {
    const { items, characters } = this.#responses.get(id)!;
    this.#responses.delete(id);
    this.#characters -= characters;
    for (const item of items) {
      const held = this.#items.get(item)!;
      if (--held.holders > 0) continue;
      this.#items.delete(item);
      this.#characters -= held.characters;
      const itemId = idOf(item);
      if (itemId !== undefined) this.#byId.delete(itemId);
    }
  }
}

/** Items that clients send have none: theirs are taken off. */
const idOf = (item: Item) => (item as { id?: string }).id;
