// Limits a minute by key, usage by key, the key file.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import OpenAI from 'openai';
import { afterAll, describe, expect, it } from 'vitest';
import type { ApiError } from '../../server/errors.ts';
import { KeyFileError, KeyRing, parseKeyFile } from '../../server/http/keys.ts';
import { RateLimits } from '../../server/http/rate-limits.ts';
import { ask, client, post, server } from '../contract/support.ts';

const folder = mkdtempSync(join(tmpdir(), 'hearth-keys-'));
afterAll(() => rmSync(folder, { recursive: true }));
const keyFile = (text: string) => {
  const path = join(folder, `keys-${Math.random()}`);
  writeFileSync(path, text);
  return path;
};

const owner = (extra = {}) => ({
  name: 'a',
  requestsPerMinute: 0,
  tokensPerMinute: 0,
  priority: 0,
  share: 1,
  admin: false,
  ...extra,
});
const refusal = (work: () => void): ApiError | null => {
  try {
    work();
    return null;
  } catch (error) {
    return error as ApiError;
  }
};

describe('the key file', () => {
  it('has a key a line, then options in any order', () => {
    const keys = parseKeyFile(
      '# comment\n\nplain\nk1 name=team rpm=60 tpm=1000 priority=-5 share=3 admin=yes\n  k2\tshare=3 admin=yes priority=-5 tpm=1000 rpm=60 name=team \n',
      { requestsPerMinute: 7, tokensPerMinute: 8 },
    );
    expect(keys.map((key) => key.owner)).toEqual([
      {
        name: expect.stringMatching(/^key-[0-9a-f]{8}$/),
        requestsPerMinute: 7,
        tokensPerMinute: 8,
        priority: 0,
        share: 1,
        admin: false,
      },
      { name: 'team', requestsPerMinute: 60, tokensPerMinute: 1000, priority: -5, share: 3, admin: true },
      { name: 'team', requestsPerMinute: 60, tokensPerMinute: 1000, priority: -5, share: 3, admin: true },
    ]);
    expect(keys[1]!.owner).toBe(keys[2]!.owner);
  });

  it('is refused with its line, and never with a key', () => {
    for (const [text, words] of [
      ['a\nsecret nam=x', /^line 2: after the key/],
      ['secret name=anonymous', /^line 1: a name/],
      ['secret name=a"b', /^line 1: a name/],
      ['secret rpm=-1', /^line 1: rpm= takes a whole number from 0/],
      ['secret rpm=1e3', /^line 1: rpm=/],
      ['secret share=0', /^line 1: share=/],
      ['secret admin=true', /^line 1: admin= takes yes or no/],
      ['secret name=a admin=yes\nother name=a', /^line 2: 'a' has other/],
      ['secret more secret', /^line 1: after the key/],
      ['secret constructor=1', /^line 1: after the key/],
      ['secret name=a rpm=1\nother name=a rpm=2', /^line 2: 'a' has other options/],
    ] as const) {
      expect(() => parseKeyFile(text)).toThrow(KeyFileError);
      expect(() => parseKeyFile(text)).toThrow(words);
      expect(() => parseKeyFile(text)).not.toThrow(/secret/);
    }
  });

  it('with a mistake in it, the keys before stay and the log says so', async () => {
    const path = keyFile('good\n');
    const problems: string[] = [];
    const ring = new KeyRing([], path, undefined, (problem) => problems.push(problem));
    await new Promise((resolve) => setTimeout(resolve, 1100));
    writeFileSync(path, 'good\nnew rpm=x\n');
    expect([ring.identify('good') !== null, ring.identify('new')]).toEqual([true, null]);
    expect(problems).toEqual([expect.stringMatching(/not taken over: line 2: rpm=/)]);
  });
});

describe('the buckets', () => {
  it('hold a minute’s worth and fill continuously', () => {
    let now = 0;
    const refused: string[] = [];
    const limits = new RateLimits(
      (who, kind) => refused.push(`${who.name} ${kind}`),
      () => now,
    );
    const who = owner({ requestsPerMinute: 6 });
    for (let count = 0; count < 6; count++) limits.takeRequest(who);
    const error = refusal(() => limits.takeRequest(who))!;
    expect(error).toMatchObject({ status: 429, type: 'rate_limit_error', code: 'rate_limit_exceeded' });
    expect(error.headers).toMatchObject({
      'retry-after': '10',
      'retry-after-ms': '10000',
      'x-ratelimit-limit-requests': '6',
      'x-ratelimit-remaining-requests': '0',
      'x-ratelimit-reset-requests': '1m0s',
    });
    expect(refused).toEqual(['a requests']);
    limits.takeRequest(owner({ name: 'b', requestsPerMinute: 6 }));
    now = 9_000;
    expect(refusal(() => limits.takeRequest(who))).not.toBeNull();
    now = 10_000;
    limits.takeRequest(who);
    now = 1_000_000;
    expect(limits.headers(who)['x-ratelimit-remaining-requests']).toBe('6');
  });

  it('of tokens reserve what is expected and settle what was used', () => {
    let now = 0;
    const limits = new RateLimits(undefined, () => now);
    const who = owner({ tokensPerMinute: 600 });
    limits.reserveTokens(who, 500);
    expect(refusal(() => limits.reserveTokens(who, 200))!.headers['retry-after']).toBe('10');
    limits.settle(who, 500, 100);
    limits.reserveTokens(who, 200);
    expect(limits.headers(who)['x-ratelimit-remaining-tokens']).toBe('300');
    // More than was reserved is a debt that later requests wait for.
    limits.settle(who, 200, 800);
    expect(limits.headers(who)).toMatchObject({
      'x-ratelimit-remaining-tokens': '0',
      'x-ratelimit-reset-tokens': '1m30s',
    });
    expect(refusal(() => limits.reserveTokens(who, 1))!.headers['retry-after']).toBe('31');
    // Tenths of a second that round up to a minute are one.
    now = 30_300;
    expect(limits.headers(who)['x-ratelimit-reset-tokens']).toBe('59.7s');
    limits.settle(who, 0, 600);
    expect(limits.headers(who)['x-ratelimit-reset-tokens']).toBe('2m0s');
    limits.settle(who, 600, 0);
    now = 90_000;
    // Larger than the limit itself: passes alone.
    limits.reserveTokens(who, 10_000);
    expect(refusal(() => limits.reserveTokens(who, 1))).not.toBeNull();
  });

  it('without a limit say nothing', () => {
    const limits = new RateLimits();
    limits.takeRequest(owner());
    limits.reserveTokens(owner(), 1e9);
    expect(limits.headers(owner())).toEqual({});
  });
});

const bearer = (key: string) => ({ headers: { authorization: `Bearer ${key}` } });

describe('over HTTP', () => {
  it('requests a minute, by key: 429 as the SDK knows it, other keys unharmed', async () => {
    const app = await server({ settings: { apiKeyFile: keyFile('one name=one rpm=2\ntwo name=two\n') } });
    const first = await post(app, '/v1/chat/completions', ask(), bearer('one'));
    expect(first.headers.get('x-ratelimit-limit-requests')).toBe('2');
    expect(first.headers.get('x-ratelimit-remaining-requests')).toBe('1');
    // A bad request counts: otherwise it would be free.
    expect((await post(app, '/v1/chat/completions', '{', bearer('one'))).status).toBe(400);
    const error = await client(app, { apiKey: 'one' })
      .chat.completions.create(ask() as never)
      .then(
        () => null,
        (reason) => reason,
      );
    expect(error).toBeInstanceOf(OpenAI.RateLimitError);
    expect(error.code).toBe('rate_limit_exceeded');
    expect(Number(error.headers.get('retry-after'))).toBeGreaterThanOrEqual(29);
    expect(error.headers.get('x-ratelimit-remaining-requests')).toBe('0');
    const other = await post(app, '/v1/chat/completions', ask(), bearer('two'));
    expect([other.status, other.headers.has('x-ratelimit-limit-requests')]).toEqual([200, false]);
    expect((await fetch(`${app.url}/v1/models`, bearer('one'))).status).toBe(200);
    expect(app.engine.requests).toHaveLength(2);
  });

  it('tokens a minute: reserved while it runs, settled by what was used, refunded when refused', async () => {
    const app = await server({
      settings: { apiKey: ['k'], tokensPerMinute: 300 },
      reply: () => ({ tokens: ['a', 'b', 'c', 'd'], everyMs: 20 }),
    });
    const send = (extra = {}) => post(app, '/v1/chat/completions', ask({ max_tokens: 100, ...extra }), bearer('k'));
    const first = await send({ stream: true });
    expect(first.headers.get('x-ratelimit-limit-tokens')).toBe('300');
    expect(Number(first.headers.get('x-ratelimit-remaining-tokens'))).toBeLessThanOrEqual(200);
    await first.text();
    // 3 prompt tokens and 4 of the answer.
    const second = await send({ n: 2 });
    await second.text();
    expect(Number(second.headers.get('x-ratelimit-remaining-tokens'))).toBeLessThanOrEqual(93);
    await (await send({ max_tokens: 250 })).text();
    const metrics = await (await fetch(`${app.url}/metrics`, bearer('k'))).text();
    expect(metrics).toMatch(/hearth:key_prompt_tokens_total\{key="key-[0-9a-f]{8}"\} 12/);
    expect(metrics).toMatch(/hearth:key_generation_tokens_total\{key="key-[0-9a-f]{8}"\} 16/);
    expect(metrics).toMatch(/hearth:key_requests_total\{key="key-[0-9a-f]{8}"\} 3/);
    expect(metrics).not.toContain('"k"');
    await (await send({ max_tokens: 290 })).text();
    const over = await Promise.all([send({ max_tokens: 250 }), send({ max_tokens: 250 })]);
    expect(over.map(({ status }) => status).sort()).toEqual([200, 429]);
    const refused = over.find(({ status }) => status === 429)!;
    expect(await refused.json()).toMatchObject({ error: { message: expect.stringMatching(/300 tokens per minute/) } });
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);
  });

  it('without keys the limits hold for everybody together', async () => {
    const app = await server({ settings: { requestsPerMinute: 1 } });
    const statuses = [];
    for (let count = 0; count < 2; count++) statuses.push((await post(app, '/tokenize', { prompt: 'x' })).status);
    expect(statuses).toEqual([200, 429]);
    expect(await (await fetch(`${app.url}/metrics`)).text()).toContain(
      'hearth:key_rate_limited_total{key="anonymous",limit="requests"} 1',
    );
  });

  it('Anthropic’s clients get their own form of it', async () => {
    const app = await server({ settings: { requestsPerMinute: 1 } });
    const body = { model: 'tiny', max_tokens: 5, messages: [{ role: 'user', content: 'x' }] };
    await post(app, '/v1/messages', body);
    expect(await (await post(app, '/v1/messages', body)).json()).toMatchObject({
      type: 'error',
      error: { type: 'rate_limit_error' },
    });
  });
});
