// Models while running: first uses, memory, idleness, failures; and a storm of everything at once.

import { afterEach, describe, expect, it, vi } from 'vitest';
import { type Lease, ModelSet, type ModelSetOptions } from '../../server/engine/model-set.ts';
import { EngineError } from '../../server/engine/port.ts';
import { ApiError } from '../../server/errors.ts';
import { until } from '../contract/support.ts';
import { gate } from '../support/gate.ts';
import { ScriptedEngine, type ScriptedModel } from '../support/scripted-engine.ts';

const delay = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));
const open: ModelSet[] = [];

afterEach(async () => {
  for (const set of open.splice(0)) await set.close();
});

function setOf(
  loadable: Record<string, ScriptedModel>,
  options: Partial<ModelSetOptions> & { memoryMb?: number; planIsLate?: boolean } = {},
): { set: ModelSet; engine: ScriptedEngine } {
  const { memoryMb, planIsLate = false, ...rest } = options;
  const engine = new ScriptedEngine({ models: [], loadable, planIsLate, ...(memoryMb ? { memoryMb } : {}) });
  const names = Object.keys(loadable);
  const offered = names.map((name) => ({ load: { name, path: `/secret/${name}` } }));
  const set = new ModelSet(engine, offered, { defaultModel: names[0]!, turnMs: 50, ...rest });
  open.push(set);
  return { set, engine };
}

async function use(set: ModelSet, name: string, ms = 0): Promise<void> {
  const lease = await set.acquire(name);
  await delay(ms);
  lease.release();
}

const refusal = (work: Promise<unknown>): Promise<ApiError> =>
  work.then(
    () => {
      throw new Error('it was not refused');
    },
    (error: ApiError) => error,
  );
const stateOf = (set: ModelSet, name: string) => set.statusOf(name).state;

class Client {
  reason: Error | null = null;
  #cancels: Array<() => void> = [];

  onAbort(cancel: () => void): void {
    this.#cancels.push(cancel);
  }

  leave(): void {
    this.reason = new Error('gone');
    for (const cancel of this.#cancels) cancel();
  }
}

describe('first use', () => {
  it('loads once for everybody who came meanwhile', async () => {
    const { set, engine } = setOf({ a: { loadMs: 20 } });
    const leases = await Promise.all(Array.from({ length: 50 }, () => set.acquire('a')));
    expect(engine.changes).toEqual(['load a']);
    expect(set.statusOf('a')).toMatchObject({ state: 'loaded', inUse: 50, waiting: 0, counts: { loads: 1 } });
    for (const lease of leases) lease.release();
    expect(set.statusOf('a').inUse).toBe(0);
  });

  it('counts a release once', async () => {
    const { set } = setOf({ a: {} });
    const [one, two] = [await set.acquire('a'), await set.acquire(undefined)];
    one.release();
    one.release();
    expect(set.statusOf('default').inUse).toBe(1);
    two.release();
  });

  it('refuses names that are not offered', async () => {
    const { set } = setOf({ a: {} });
    expect(await refusal(set.acquire('b'))).toMatchObject({ status: 404, code: 'model_not_found' });
  });

  it('tells everybody why a load failed, without the path, and does not try again at once', async () => {
    const fail = new EngineError('corrupt', '/secret/a/model.safetensors: tensor w overlaps');
    const { set, engine } = setOf({ a: { loadMs: 10, fail } }, { failureMs: 60_000 });
    const answers = await Promise.all([1, 2, 3].map(() => refusal(set.acquire('a'))));
    for (const answer of [...answers, await refusal(set.acquire('a'))]) {
      expect(answer).toMatchObject({ status: 503, code: 'model_load_failed' });
      expect(answer.message).toMatch(/could not be loaded: a\/model.safetensors: tensor w overlaps/);
      expect(answer.headers).toMatchObject({ 'retry-after': '30', 'x-should-retry': 'false' });
    }
    expect(engine.changes).toEqual(['load a']);
    expect(set.statusOf('a')).toMatchObject({ state: 'available', failure: expect.stringContaining('overlaps') });
    await refusal(set.load('a'));
    expect(engine.changes).toEqual(['load a', 'load a']);
    const later = performance.now() + 60_001;
    const clock = vi.spyOn(performance, 'now').mockImplementation(() => later);
    await refusal(set.acquire('a')).finally(() => clock.mockRestore());
    expect(engine.changes).toEqual(['load a', 'load a', 'load a']);
  });

  it('bounds who waits, and for how long', async () => {
    const loading = gate();
    const { set } = setOf({ a: { after: loading.opened } }, { waitersMax: 2, waitMs: 30 });
    const early = [refusal(set.acquire('a')), refusal(set.acquire('a'))];
    expect(await refusal(set.acquire('a'))).toMatchObject({ status: 429, code: 'queue_full' });
    for (const one of early) expect(await one).toMatchObject({ status: 503, code: 'model_loading' });
    loading.open();
    await until(() => stateOf(set, 'a') === 'loaded');
    await use(set, 'a');
  });

  it('lets go of a client that leaves while it waits', async () => {
    const { set } = setOf({ a: { loadMs: 30 } });
    const client = new Client();
    const gone = refusal(set.acquire('a', client));
    client.leave();
    expect(await gone).toMatchObject({ message: 'gone' });
    await use(set, 'a');
    expect(set.statusOf('a')).toMatchObject({ inUse: 0, waiting: 0 });
  });
});

describe('memory', () => {
  const three = { a: { mb: 40 }, b: { mb: 40 }, c: { mb: 40 } };

  it('makes room by unloading the least recently used', async () => {
    const { set, engine } = setOf(three, { memoryMb: 100 });
    await use(set, 'a');
    await use(set, 'b');
    await use(set, 'a');
    await use(set, 'c');
    expect(engine.changes).toEqual(['load a', 'load b', 'unload b', 'load c']);
    expect(set.statusOf('b').counts.unloads).toEqual({ idle: 0, memory: 1, request: 0 });
  });

  it('keeps what is in use, however long ago it was begun', async () => {
    const { set, engine } = setOf(three, { memoryMb: 100 });
    const held = await set.acquire('a');
    await use(set, 'b');
    await use(set, 'c');
    expect(engine.changes).toEqual(['load a', 'load b', 'unload b', 'load c']);
    held.release();
  });

  it('waits for a model in use, and gets its turn though requests for that one keep coming', async () => {
    const { set, engine } = setOf({ a: { mb: 80 }, b: { mb: 80 } }, { memoryMb: 100, turnMs: 30 });
    let stop = false;
    const crowd = Array.from({ length: 4 }, async (_, at) => {
      await delay(at * 3);
      while (!stop) await use(set, 'a', 12);
    });
    await delay(20);
    await use(set, 'b', 5);
    stop = true;
    await Promise.all(crowd);
    expect(engine.changes.slice(0, 3)).toEqual(['load a', 'unload a', 'load b']);
    expect(engine.violations).toEqual([]);
  });

  it('refuses what would not fit alone with the plan, and unloads nothing for it', async () => {
    const { set, engine } = setOf({ a: { mb: 40 }, big: { mb: 500 } }, { memoryMb: 100 });
    await use(set, 'a');
    const answer = await refusal(set.acquire('big'));
    expect(answer).toMatchObject({ status: 503, code: 'model_load_failed' });
    expect(answer.message).toContain('500 MiB');
    expect(stateOf(set, 'a')).toBe('loaded');
    expect(engine.changes).toEqual(['load a']);
  });

  it('keeps to the operator’s limit for all models together', async () => {
    const { set, engine } = setOf(three, { memoryLimitMb: 90 });
    for (const name of ['a', 'b', 'c']) await use(set, name);
    expect(engine.changes).toEqual(['load a', 'load b', 'unload a', 'load c']);
  });

  it('unloads what is idle, one by one, when the plan’s memory went elsewhere; and fails when all are in use', async () => {
    const { set, engine } = setOf(three, { memoryMb: 100, planIsLate: true });
    const held = await set.acquire('a');
    await use(set, 'b');
    await use(set, 'c');
    expect(engine.changes).toEqual(['load a', 'load b', 'load c', 'unload b', 'load c']);
    const other = await set.acquire('c');
    expect(await refusal(set.acquire('b'))).toMatchObject({ code: 'model_load_failed' });
    held.release();
    other.release();
  });

  it('gives up on a load for which nobody waits any more', async () => {
    const { set, engine } = setOf({ a: { mb: 80 }, b: { mb: 80 } }, { memoryMb: 100, turnMs: 60_000 });
    const held = await set.acquire('a');
    const client = new Client();
    const waiting = refusal(set.acquire('b', client));
    await delay(10);
    client.leave();
    await waiting;
    held.release();
    await use(set, 'a');
    expect(engine.changes).toEqual(['load a']);
  });
});

describe('idle models', () => {
  it('are unloaded, but not the default one', async () => {
    const { set, engine } = setOf({ a: {}, b: {} }, { idleMs: 40 });
    await use(set, 'a');
    await use(set, 'b', 80);
    expect(stateOf(set, 'b')).toBe('loaded');
    await until(() => stateOf(set, 'b') === 'available');
    expect(stateOf(set, 'a')).toBe('loaded');
    await use(set, 'b');
    expect(engine.changes).toEqual(['load a', 'load b', 'unload b', 'load b']);
  });
});

describe('unloading by request', () => {
  it('is refused while the model is in use, and waits when asked to', async () => {
    const { set, engine } = setOf({ a: {}, b: {} });
    const lease = await set.acquire('a');
    expect(await refusal(set.unload('a'))).toMatchObject({ status: 409, code: 'model_in_use' });
    expect(await refusal(set.unload('a', 20))).toMatchObject({ code: 'model_in_use' });
    const gone = set.unload('a', 60_000);
    const later = use(set, 'a');
    await delay(5);
    expect(stateOf(set, 'a')).toBe('loaded');
    lease.release();
    await gone;
    await later;
    expect(engine.changes).toEqual(['load a', 'unload a', 'load a']);
    await set.unload('b');
  });
});

/** Mulberry32. */
function makeRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function checkRefusal(error: unknown, name: string): void {
  if (!(error instanceof ApiError)) return expect((error as Error).message).toBe('gone');
  expect(['model_load_failed', 'model_in_use', 'model_loading']).toContain(error.code);
  if (error.code === 'model_load_failed') expect(['broken', 'huge']).toContain(name);
}

describe('a storm of uses, loads, unloads, failures and leavers', () => {
  for (const seed of [1, 2, 3, 4, 5, 6]) {
    it(`keeps every promise (seed ${seed})`, async () => {
      const random = makeRandom(seed);
      const fail = new EngineError('corrupt', 'damaged');
      const loadable = {
        a: { mb: 40, loadMs: 2 },
        b: { mb: 50, loadMs: 1 },
        c: { mb: 60, loadMs: 3 },
        broken: { mb: 10, fail },
        huge: { mb: 900 },
      };
      const options = { memoryMb: 100, idleMs: 15, failureMs: 5, turnMs: 8, waitMs: 3000, waitersMax: 1000 };
      const { set, engine } = setOf(loadable, options);
      const names = Object.keys(loadable);
      let served = 0;
      const one = async () => {
        const name = names[Math.floor(random() * names.length)]!;
        const action = random();
        const client = new Client();
        if (random() < 0.2) setTimeout(() => client.leave(), random() * 10);
        try {
          if (action < 0.1) await set.load(name);
          else if (action < 0.2) await set.unload(name, random() < 0.5 ? 0 : 20);
          else await serve(name, client);
        } catch (error) {
          checkRefusal(error, name);
        }
      };
      const serve = async (name: string, client: Client) => {
        const lease: Lease = await set.acquire(name, client);
        expect([lease.info.name, stateOf(set, name)]).toEqual([name, 'loaded']);
        expect(engine.models().map((model) => model.name)).toContain(name);
        await delay(random() * 4);
        expect(engine.models().map((model) => model.name)).toContain(name);
        served++;
        lease.release();
      };
      await Promise.all(
        Array.from({ length: 24 }, async () => {
          for (let turn = 0; turn < 25; turn++) await one();
        }),
      );
      expect(engine.violations).toEqual([]);
      expect(served).toBeGreaterThan(100);
      for (const status of set.status()) expect(status).toMatchObject({ inUse: 0, waiting: 0 });
      await until(() => !engine.models().some(({ name }) => name === 'b' || name === 'c'));
    });
  }
});
