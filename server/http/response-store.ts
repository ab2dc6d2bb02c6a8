// What earlier responses said, for previous_response_id and to be asked for again: in memory, bounded in number and in size.

import type { Item } from '../openai/responses.ts';

interface Stored {
  /** As its client got it. */
  response: object;
  /** The whole conversation up to and with the response. */
  items: readonly Item[];
  owner: string;
  characters: number;
}

export const responsesMax = 2000;
const charactersMax = 256 * 1024 * 1024;

export class ResponseStore {
  readonly #responses = new Map<string, Stored>();
  #characters = 0;

  /** `added` are the items that this turn brought: only they take new memory. */
  put(id: string, owner: string, response: object, items: readonly Item[], added: readonly Item[]): void {
    const characters = JSON.stringify(added).length + JSON.stringify(response).length;
    this.#responses.set(id, { response, items, owner, characters });
    this.#characters += characters;
    for (const oldest of this.#responses.keys()) {
      if (this.#responses.size <= responsesMax && this.#characters <= charactersMax) break;
      this.#forget(oldest);
    }
  }

  /** A response that the same owner got, or null. */
  get(id: string, owner: string): Readonly<Stored> | null {
    const stored = this.#responses.get(id);
    return stored && stored.owner === owner ? stored : null;
  }

  /** False when the owner has no such response. */
  delete(id: string, owner: string): boolean {
    if (!this.get(id, owner)) return false;
    this.#forget(id);
    return true;
  }

  #forget(id: string): void {
    this.#characters -= this.#responses.get(id)?.characters ?? 0;
    this.#responses.delete(id);
  }
}
