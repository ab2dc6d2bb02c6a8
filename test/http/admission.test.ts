// Keys take turns in front of a busy engine.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { EngineError } from '../../server/engine/port.ts';
import { FairQueue } from '../../server/http/admission.ts';
import { ask, post, server, until } from '../contract/support.ts';
import { type Gate, gate } from '../support/gate.ts';

const folder = mkdtempSync(join(tmpdir(), 'hearth-fair-'));
afterAll(() => rmSync(folder, { recursive: true }));

const owner = (name: string, extra = {}) => ({
  name,
  requestsPerMinute: 0,
  tokensPerMinute: 0,
  priority: 0,
  share: 1,
  admin: false,
  ...extra,
});
const entry = (name: string, cost = 100, extra = {}) => ({
  owner: owner(name, extra),
  cost,
  start: () => {},
  refuse: () => {},
});
const drain = (queue: FairQueue) => {
  const names: string[] = [];
  for (let next = queue.take(); next; next = queue.take()) names.push(next.owner.name);
  return names;
};

describe('the fair queue', () => {
  it('gives owners equal tokens, whoever asks more often or for more', () => {
    const queue = new FairQueue();
    for (let count = 0; count < 40; count++) queue.push(entry('many', 512));
    for (let count = 0; count < 5; count++) queue.push(entry('few', 512));
    for (let count = 0; count < 5; count++) queue.push(entry('large', 1024));
    const order = drain(queue);
    expect(order).toHaveLength(50);
    const early = order.slice(0, 10);
    expect(early.filter((name) => name === 'many')).toHaveLength(4);
    expect(early.filter((name) => name === 'few')).toHaveLength(4);
    expect(early.filter((name) => name === 'large')).toHaveLength(2);
    expect([queue.requests, queue.tokens]).toEqual([0, 0]);
  });

  it('gives shares, and goes by priority first', () => {
    const queue = new FairQueue();
    for (let count = 0; count < 30; count++) queue.push(entry('one', 512));
    for (let count = 0; count < 30; count++) queue.push(entry('three', 512, { share: 3 }));
    queue.push(entry('first', 5000, { priority: 1 }));
    const order = drain(queue);
    expect(order[0]).toBe('first');
    expect(order.slice(1, 21).filter((name) => name === 'three')).toHaveLength(15);
  });

  it('has the longest queue give way, never the shorter one', () => {
    const queue = new FairQueue();
    for (let count = 0; count < 5; count++) queue.push(entry('long'));
    expect(queue.giveWay(owner('long'))).toBeNull();
    expect(queue.giveWay(owner('new'))!.owner.name).toBe('long');
    expect(queue.giveWay(owner('new', { priority: -1 }))).toBeNull();
    expect(queue.requests).toBe(4);
  });
});

/** A server whose engine has one place (and two that it prepares), keys `a`, `b` and `vip`. */
async function narrow(extra: { settings?: object; answering?: Gate } = {}) {
  const file = join(folder, `keys-${Math.random()}`);
  writeFileSync(file, 'a name=a\nb name=b\nvip name=vip priority=9\n');
  return server({
    models: [{ maxSequences: 1 }],
    settings: { apiKeyFile: file, ...extra.settings },
    reply: ({ text }) =>
      text.includes('refused')
        ? { refuse: new EngineError('busy', 'full') }
        : { tokens: ['x', 'y'], everyMs: 5, ...(extra.answering ? { after: extra.answering.opened } : {}) },
  });
}
type App = Awaited<ReturnType<typeof narrow>>;
const say = (app: App, key: string, text: string, init: RequestInit = {}, extra = {}) =>
  post(app, '/v1/chat/completions', ask({ messages: [{ role: 'user', content: text }], ...extra }), {
    ...init,
    headers: { authorization: `Bearer ${key}` },
  });
const metricsOf = async (app: App) =>
  (await fetch(`${app.url}/metrics`, { headers: { authorization: 'Bearer a' } })).text();
const waiting = async (app: App) =>
  Number(/^vllm:num_requests_waiting\{[^}]*\} (\d+)$/m.exec(await metricsOf(app))![1]);
const saidOf = (app: App) => app.engine.requests.map(({ text }) => /[avb]\d+/.exec(text)![0]);

describe('keys in front of a busy engine', () => {
  it('take turns: one that floods does not keep another waiting, a priority goes first', async () => {
    const answering = gate();
    const app = await narrow({ answering });
    const flood = Array.from({ length: 20 }, (_, at) => say(app, 'a', `a${at}`));
    await until(async () => (await waiting(app)) === 17);
    const others = [say(app, 'b', 'b1'), say(app, 'b', 'b2'), say(app, 'vip', 'v1')];
    await until(async () => (await waiting(app)) === 20);
    answering.open();
    const done = await Promise.all([...flood, ...others]);
    expect(done.every(({ status }) => status === 200)).toBe(true);
    const order = saidOf(app);
    expect(order).toHaveLength(23);
    // Three had begun; then the priority, and the two owners in turns.
    expect(order[3]).toBe('v1');
    expect(Math.max(order.indexOf('b1'), order.indexOf('b2'))).toBeLessThan(10);
    expect(app.engine.requests.find(({ text }) => text.includes('v1'))!.priority).toBe(9);
    expect(await waiting(app)).toBe(0);
  });

  it('never have more in the engine than it has places for', async () => {
    const answering = gate();
    const app = await narrow({ answering });
    let most = 0;
    const watch = setInterval(() => {
      most = Math.max(most, app.engine.live.size);
    }, 1);
    const all = Array.from({ length: 30 }, (_, at) => say(app, at % 2 ? 'a' : 'b', `a${at}`));
    await until(async () => (await waiting(app)) === 27);
    expect(app.engine.live.size).toBe(3);
    answering.open();
    await Promise.all(all);
    clearInterval(watch);
    expect(most).toBe(3);
  });

  it('are a 400, not a 429 for ever, when they would not fit into an empty queue', async () => {
    const app = await server({ settings: { queueTokens: 1000 } });
    const long = await post(
      app,
      '/v1/chat/completions',
      ask({ messages: [{ role: 'user', content: 'ö'.repeat(2100) }] }),
    );
    expect([long.status, await long.json()]).toMatchObject([
      400,
      { error: { message: expect.stringMatching(/10\d\d tokens, of which 1000/), code: 'context_length_exceeded' } },
    ]);
    const ids = await post(app, '/v1/completions', { prompt: Array(1001).fill(5) });
    expect(ids.status).toBe(400);
  });

  it('are bounded: 429 queue_full for the one who fills the queue, room for the other', async () => {
    const answering = gate();
    const app = await narrow({ settings: { queueRequests: 4 }, answering });
    const flood = Array.from({ length: 12 }, (_, at) => say(app, 'a', `a${at}`));
    const first = await Promise.race(
      flood.map(async (one) => ((await one).status === 429 ? one : new Promise<Response>(() => {}))),
    );
    expect(first.headers.get('retry-after')).toBe('1');
    expect(await first.clone().json()).toMatchObject({ error: { code: 'queue_full' } });
    // None ends before the other key has its place in the full queue.
    const other = say(app, 'b', 'b1');
    await until(async () => (await metricsOf(app)).includes('hearth:key_requests_waiting{key="b"} 1'));
    answering.open();
    expect((await other).status).toBe(200);
    const statuses = (await Promise.all(flood)).map(({ status }) => status);
    expect(statuses.filter((status) => status === 200)).toHaveLength(6);
    expect(statuses.filter((status) => status === 429)).toHaveLength(6);
  });

  it('leave the queue when their client leaves, and free the place of what failed', async () => {
    const answering = gate();
    const app = await narrow({ answering });
    const running = Array.from({ length: 3 }, (_, at) => say(app, 'a', `a${at}`));
    await until(() => app.engine.live.size === 3);
    const leaving = new AbortController();
    const left = say(app, 'b', 'b1', { signal: leaving.signal }).catch(() => 'left');
    await until(async () => (await waiting(app)) === 1);
    leaving.abort();
    expect(await left).toBe('left');
    await until(() => app.lifecycle.active === 3);
    expect(await waiting(app)).toBe(0);
    answering.open();
    await Promise.all(running);
    expect(saidOf(app)).not.toContain('b1');
    for (let round = 0; round < 5; round++) {
      expect((await say(app, 'a', 'a0 refused')).status).toBe(429);
      expect((await say(app, 'a', 'a0')).status).toBe(200);
    }
  });

  it('wait together for all answers of one request', async () => {
    const app = await narrow();
    const answer = await say(app, 'a', 'a0', {}, { n: 6 });
    expect(((await answer.json()) as { choices: unknown[] }).choices).toHaveLength(6);
  });
});
