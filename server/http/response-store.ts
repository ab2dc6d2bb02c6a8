// What earlier responses said, for previous_response_id: in memory, bounded in number and in size.

import type { Item } from '../openai/responses.ts';

interface Stored {
  /** The whole conversation up to and with the response. */
  items: readonly Item[];
  owner: string;
  characters: number;
}

const responsesMax = 2000;
const charactersMax = 256 * 1024 * 1024;

export class ResponseStore {
  readonly #responses = new Map<string, Stored>();
  #characters = 0;

  /** `added` are the items that this turn brought: only they take new memory. */
  put(id: string, owner: string, items: readonly Item[], added: readonly Item[]): void {
    const characters = JSON.stringify(added).length;
    this.#responses.set(id, { items, owner, characters });
    this.#characters += characters;
    for (const [oldest, { characters: size }] of this.#responses) {
      if (this.#responses.size <= responsesMax && this.#characters <= charactersMax) break;
      this.#responses.delete(oldest);
      this.#characters -= size;
    }
  }

  /** Items of a response that the same owner got, or null. */
  get(id: string, owner: string): readonly Item[] | null {
    const stored = this.#responses.get(id);
    return stored && stored.owner === owner ? stored.items : null;
  }
}
