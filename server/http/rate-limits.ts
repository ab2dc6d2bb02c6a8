// Limits of a key on requests and tokens a minute: token buckets that fill continuously, and OpenAI's x-ratelimit-*
// headers. Keys with one name share one pair of buckets.

import { type ApiError, errors } from '../errors.ts';
import type { KeyOwner } from './keys.ts';

export type RateHeaders = Record<string, string>;

/** Names of the headers, for CORS. */
export const rateHeaderNames = ['limit', 'remaining', 'reset'].flatMap((what) => [
  `x-ratelimit-${what}-requests`,
  `x-ratelimit-${what}-tokens`,
]);

/** Holds up to a minute's worth; may be overdrawn, since what an answer costs is known when it has ended. */
class Bucket {
  #level: number;
  #at: number;

  constructor(
    readonly perMinute: number,
    now: number,
  ) {
    this.#level = perMinute;
    this.#at = now;
  }

  level(now: number): number {
    this.#level = Math.min(this.perMinute, this.#level + ((now - this.#at) * this.perMinute) / 60_000);
    this.#at = now;
    return this.#level;
  }

  add(amount: number, now: number): void {
    this.#level = Math.min(this.perMinute, this.level(now) + amount);
  }

  /** Milliseconds until the bucket holds this much. */
  msUntil(amount: number, now: number): number {
    return Math.max(0, ((amount - this.level(now)) * 60_000) / this.perMinute);
  }
}

type Kind = 'requests' | 'tokens';

export class RateLimits {
  readonly #buckets = { requests: new Map<string, Bucket>(), tokens: new Map<string, Bucket>() };
  readonly #now: () => number;
  readonly #onRefused: (owner: KeyOwner, kind: Kind) => void;

  constructor(
    onRefused: (owner: KeyOwner, kind: Kind) => void = () => {},
    now: () => number = () => performance.now(),
  ) {
    this.#onRefused = onRefused;
    this.#now = now;
  }

  /** Counts one request. Throws a 429 with Retry-After when the minute's are used up. */
  takeRequest(owner: KeyOwner): void {
    this.#take(owner, 'requests', 1);
  }

  /**
   * Reserves what a request is expected to cost; `settle` puts it right later. One that is larger than the limit itself
   * passes when nothing else was asked for lately, and is paid off after it. Throws a 429 with Retry-After.
   */
  reserveTokens(owner: KeyOwner, tokens: number): void {
    this.#take(owner, 'tokens', tokens);
  }

  settle(owner: KeyOwner, reserved: number, used: number): void {
    this.#bucket(owner, 'tokens')?.add(reserved - used, this.#now());
  }

  headers(owner: KeyOwner): RateHeaders {
    const headers: RateHeaders = {};
    const now = this.#now();
    for (const kind of ['requests', 'tokens'] as const) {
      const bucket = this.#bucket(owner, kind);
      if (!bucket) continue;
      headers[`x-ratelimit-limit-${kind}`] = String(bucket.perMinute);
      headers[`x-ratelimit-remaining-${kind}`] = String(Math.max(0, Math.floor(bucket.level(now))));
      headers[`x-ratelimit-reset-${kind}`] = duration(bucket.msUntil(bucket.perMinute, now));
    }
    return headers;
  }

  #take(owner: KeyOwner, kind: Kind, amount: number): void {
    const bucket = this.#bucket(owner, kind);
    if (!bucket) return;
    const now = this.#now();
    const waitMs = bucket.msUntil(Math.min(amount, bucket.perMinute), now);
    // A hair under a whole unit is a rounding error of the filling, not a limit.
    if (waitMs > 0.5) {
      this.#onRefused(owner, kind);
      throw this.#refusal(owner, kind, bucket, waitMs);
    }
    bucket.add(-amount, now);
  }

  #refusal(owner: KeyOwner, kind: Kind, bucket: Bucket, waitMs: number): ApiError {
    const error = errors.rateLimit(`${bucket.perMinute} ${kind} per minute`, Math.max(1, Math.ceil(waitMs / 1000)));
    Object.assign(error.headers, this.headers(owner), { 'retry-after-ms': String(Math.ceil(waitMs)) });
    return error;
  }

  /** The bucket of an owner, or null without a limit; a new one when a reload changed the limit. */
  #bucket(owner: KeyOwner, kind: Kind): Bucket | null {
    const perMinute = kind === 'requests' ? owner.requestsPerMinute : owner.tokensPerMinute;
    if (perMinute === 0) return null;
    const buckets = this.#buckets[kind];
    const known = buckets.get(owner.name);
    if (known?.perMinute === perMinute) return known;
    const made = new Bucket(perMinute, this.#now());
    buckets.set(owner.name, made);
    return made;
  }
}

/** As OpenAI writes them: 12ms, 1.5s, 6m0s. */
function duration(ms: number): string {
  if (ms < 1000) return `${Math.ceil(ms)}ms`;
  const seconds = Math.ceil(ms / 100) / 10;
  if (seconds < 60) return `${seconds}s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)}m${whole % 60}s`;
}
