// API keys: hashed in memory, compared in constant time, read again when their file changes. docs/api.md has the
// format of the file.

import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';

/** Who a key belongs to, and what it may use. Keys with one name are one owner. */
export interface KeyOwner {
  /** Short and stable, safe to log and to use as a metrics label: a name from the file, or part of the key's hash. */
  name: string;
  /** 0 = no limit. */
  requestsPerMinute: number;
  tokensPerMinute: number;
  /** Higher goes first, always. */
  priority: number;
  /** Part of a busy engine among owners of one priority. */
  share: number;
  /** May load and unload models. */
  admin: boolean;
}

export type KeyDefaults = Pick<KeyOwner, 'requestsPerMinute' | 'tokensPerMinute'>;

interface StoredKey {
  hash: Buffer;
  owner: KeyOwner;
}

/** A line of the key file that cannot be read. Never holds the key. */
export class KeyFileError extends Error {}

/** An owner may not have this name: it is used where no key is asked for. */
const anonymousName = 'anonymous';

const recheckMs = 1000;
const hashOf = (key: string) => createHash('sha256').update(key).digest();
const unlimited: KeyDefaults = { requestsPerMinute: 0, tokensPerMinute: 0 };
const plain = (name: string, defaults: KeyDefaults): KeyOwner => ({
  name,
  ...defaults,
  priority: 0,
  share: 1,
  admin: false,
});
const nameOf = (hash: Buffer) => `key-${hash.toString('hex').slice(0, 8)}`;

/** A key for those who have none. */
export const generateKey = () => `hearth-${randomBytes(24).toString('base64url')}`;

export class KeyRing {
  /** Stands for everybody where no keys are asked for. */
  readonly anonymous: KeyOwner;
  readonly #given: StoredKey[];
  readonly #file: string;
  readonly #defaults: KeyDefaults;
  readonly #onProblem: (message: string) => void;
  #fromFile: StoredKey[] = [];
  #modified = -1;
  #checkedAt = 0;

  /** Throws when the file cannot be read: KeyFileError, or the system's error. Later problems go to `onProblem`. */
  constructor(
    keys: readonly string[],
    file: string,
    defaults: KeyDefaults = unlimited,
    onProblem: (message: string) => void = () => {},
    adminKeys: readonly string[] = [],
  ) {
    this.anonymous = plain(anonymousName, defaults);
    const given = (admin: boolean) => (key: string) => {
      const hash = hashOf(key);
      return { hash, owner: { ...plain(nameOf(hash), defaults), admin } };
    };
    this.#given = [...keys.map(given(false)), ...adminKeys.map(given(true))];
    this.#file = file;
    this.#defaults = defaults;
    this.#onProblem = onProblem;
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
    } catch (error) {
      // The file is being replaced, has gone or has a mistake: the keys that were read stay until it is right.
      if (error instanceof KeyFileError) this.#onProblem(`the key file was not taken over: ${error.message}`);
    }
  }

  #read(): void {
    this.#modified = statSync(this.#file).mtimeMs;
    this.#fromFile = parseKeyFile(readFileSync(this.#file, 'utf8'), this.#defaults);
  }
}

const fields: Record<string, { field: Exclude<keyof KeyOwner, 'name' | 'admin'>; min: number; max: number }> = {
  rpm: { field: 'requestsPerMinute', min: 0, max: 1_000_000 },
  tpm: { field: 'tokensPerMinute', min: 0, max: 1_000_000_000 },
  priority: { field: 'priority', min: -100, max: 100 },
  share: { field: 'share', min: 1, max: 100 },
};

/** One key a line, then `name=`, `rpm=`, `tpm=`, `priority=`, `share=`, `admin=` in any order. Throws KeyFileError. */
export function parseKeyFile(text: string, defaults: KeyDefaults = unlimited): StoredKey[] {
  const owners = new Map<string, KeyOwner>();
  const keys: StoredKey[] = [];
  for (const [at, raw] of text.split('\n').entries()) {
    const [key, ...options] = raw.trim().split(/\s+/);
    if (!key || key.startsWith('#')) continue;
    const hash = hashOf(key);
    const owner = plain(nameOf(hash), defaults);
    for (const option of options) readOption(option, owner, at + 1);
    const known = owners.get(owner.name) ?? owner;
    if (JSON.stringify(known) !== JSON.stringify(owner)) {
      throw new KeyFileError(`line ${at + 1}: '${owner.name}' has other options than on an earlier line`);
    }
    owners.set(owner.name, known);
    keys.push({ hash, owner: known });
  }
  return keys;
}

function readOption(option: string, owner: KeyOwner, line: number): void {
  const equals = option.indexOf('=');
  const name = option.slice(0, Math.max(0, equals));
  const value = option.slice(equals + 1);
  if (name === 'name') {
    if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(value) || value === anonymousName) {
      throw new KeyFileError(`line ${line}: a name has up to 64 letters, digits, dots, dashes and underscores`);
    }
    owner.name = value;
    return;
  }
  if (name === 'admin') {
    if (value !== 'yes' && value !== 'no') throw new KeyFileError(`line ${line}: admin= takes yes or no`);
    owner.admin = value === 'yes';
    return;
  }
  const field = Object.hasOwn(fields, name) ? fields[name] : undefined;
  // What is not an option may be part of a key: it is not repeated.
  if (!field)
    throw new KeyFileError(`line ${line}: after the key come name=, rpm=, tpm=, priority=, share= and admin=`);
  const number = /^-?\d{1,10}$/.test(value) ? Number(value) : Number.NaN;
  if (!(number >= field.min && number <= field.max)) {
    throw new KeyFileError(`line ${line}: ${name}= takes a whole number from ${field.min} to ${field.max}`);
  }
  owner[field.field] = number;
}
