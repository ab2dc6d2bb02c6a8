// API keys: hashed in memory, compared in constant time, read again when their file changes.

import { createHash, timingSafeEqual } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';

export interface KeyOwner {
  /** Short and stable, safe to log and to use as a metrics label. */
  name: string;
}

interface StoredKey {
  hash: Buffer;
  owner: KeyOwner;
}

const recheckMs = 1000;
const hashOf = (key: string) => createHash('sha256').update(key).digest();
const stored = (key: string): StoredKey => {
  const hash = hashOf(key);
  return { hash, owner: { name: `key-${hash.toString('hex').slice(0, 8)}` } };
};

export class KeyRing {
  readonly #given: StoredKey[];
  readonly #file: string;
  #fromFile: StoredKey[] = [];
  #modified = -1;
  #checkedAt = 0;

  /** Throws when the file cannot be read. */
  constructor(keys: readonly string[], file: string) {
    this.#given = keys.map(stored);
    this.#file = file;
    if (file) this.#read();
  }

  /** Whether keys are asked for at all. */
  get active(): boolean {
    return this.#given.length > 0 || this.#file !== '';
  }

  /** The owner of a key, or null. Every stored key is compared, so the time taken tells nothing. */
  identify(key: string): KeyOwner | null {
    this.#refresh();
    const hash = hashOf(key);
    let owner: KeyOwner | null = null;
    for (const candidate of [...this.#given, ...this.#fromFile]) {
      if (timingSafeEqual(candidate.hash, hash)) owner = candidate.owner;
    }
    return owner;
  }

  #refresh(): void {
    const now = performance.now();
    if (!this.#file || now - this.#checkedAt < recheckMs) return;
    this.#checkedAt = now;
    try {
      if (statSync(this.#file).mtimeMs !== this.#modified) this.#read();
    } catch {
      // The file is being replaced, or has gone: the keys that were read stay until it is back.
    }
  }

  #read(): void {
    this.#modified = statSync(this.#file).mtimeMs;
    const lines = readFileSync(this.#file, 'utf8').split('\n');
    this.#fromFile = lines
      .map((line) => line.trim())
      .filter((line) => line !== '' && !line.startsWith('#'))
      .map(stored);
  }
}
