// Chat completions that came with store: true, for whoever lists them: in memory, within the budget that responses have.

import type { StoredCompletion, StoredMessage } from '../openai/stored-completions.ts';
import { type Budgeted, charactersOf, type ResponseBudget } from './response-store.ts';

interface Kept extends Budgeted {
  owner: string;
  completion: StoredCompletion;
  characters: number;
  /** What was asked. */
  items: readonly StoredMessage[];
}

/** What is kept at most; the oldest go first. */
export const completionsMax = 2000;

export class CompletionStore {
  readonly #budget: ResponseBudget;
  /** The oldest first. */
  readonly #kept = new Map<string, Kept>();

  constructor(budget: ResponseBudget) {
    this.#budget = budget;
  }

  put(owner: string, completion: StoredCompletion, messages: readonly StoredMessage[]): void {
    const { id } = completion;
    const kept: Kept = {
      owner,
      completion,
      items: messages,
      characters: charactersOf(completion, messages),
      isNeeded: () => false,
      forget: () => {
        if (this.#kept.delete(id)) this.#budget.remove(kept);
      },
    };
    this.#kept.set(id, kept);
    const [oldest] = this.#kept.values();
    if (this.#kept.size > completionsMax) oldest!.forget();
    this.#budget.add(kept);
  }

  /** One that the same owner got, or null. */
  get(id: string, owner: string): Readonly<Kept> | null {
    const kept = this.#kept.get(id);
    if (!kept || kept.owner !== owner) return null;
    this.#budget.use(kept);
    return kept;
  }

  /** Gives one other metadata; null when the owner has no such. */
  amend(id: string, owner: string, metadata: Record<string, string>): StoredCompletion | null {
    const kept = this.#kept.get(id);
    if (!kept || kept.owner !== owner) return null;
    this.#budget.remove(kept);
    kept.completion = { ...kept.completion, metadata };
    kept.characters = charactersOf(kept.completion, kept.items);
    this.#budget.add(kept);
    return kept.completion;
  }

  /** All of an owner's, the oldest first. */
  of(owner: string): StoredCompletion[] {
    return [...this.#kept.values()].filter((kept) => kept.owner === owner).map(({ completion }) => completion);
  }
}
