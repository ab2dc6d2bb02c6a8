// NativeEngine over a stub library with hearth.h's surface (stub.c): what crosses the wall, both ways.

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { doctor, NativeEngine } from '../../server/engine/native/engine.ts';
import type { EngineEvent, EngineRequest, EngineStream, Progress } from '../../server/engine/port.ts';

let folder: string;
let library: string;
let engine: NativeEngine;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'hearth-abi-'));
  library = join(folder, 'libstub.so');
  const source = fileURLToPath(new URL('./stub.c', import.meta.url));
  execFileSync('cc', ['-O1', '-Wall', '-shared', '-fPIC', '-pthread', '-Wl,-z,nodelete', '-o', library, source]);
});
afterAll(() => rmSync(folder, { recursive: true }));

const options = { device: 'cpu', threads: 1, queueRequests: 8, queueTokens: 100 } as const;
beforeEach(async () => {
  engine = await NativeEngine.open(library, options);
  await engine.loadModel({ name: 'm', path: '/m' });
});
afterEach(() => engine.close());

const generate = (extra: Partial<EngineRequest> = {}): EngineRequest => ({
  model: 'm',
  kind: 'generate',
  text: 'abc',
  literal: [[1, 3]],
  ...extra,
});

async function all(stream: EngineStream): Promise<EngineEvent[]> {
  const events: EngineEvent[] = [];
  for await (const event of stream) events.push(event);
  return events;
}

describe('NativeEngine', () => {
  it('loads a model with progress, and knows it', async () => {
    const progress: Progress[] = [];
    const info = await engine.loadModel({ name: 'n', path: '/n' }, (step) => progress.push(step));
    expect(progress).toEqual([{ stage: 'weights', done: 1, total: 2 }]);
    expect(info).toMatchObject({
      context: 64,
      maxSequences: 4,
      vision: { placeholder: '<i>', tokensPerImage: 4 },
      sampling: { topK: 5 },
      chatTemplate: null,
      specialTokens: { bos_token: '<s>' },
    });
    expect(engine.models()).toHaveLength(2);
    await expect(engine.loadModel({ name: 'broken', path: '/broken' })).rejects.toMatchObject({
      code: 'corrupt',
      message: 'model.safetensors: tensor x is truncated',
    });
  });

  it('submits text, ranges, ids and pixels, and gives every event in order', async () => {
    const pixels = new Uint8Array(12).fill(2);
    const images = [{ width: 2, height: 2, detail: 'auto' as const, pixels }];
    const events = await all(await engine.submit(generate({ ids: Int32Array.from([42]), images })));
    expect(events.map((event) => event.type)).toEqual(['accepted', 'token', 'token', 'token', 'finished']);
    expect(events.map((event) => (event.type === 'token' ? event.text : '')).join('')).toBe('abc');
    expect(events.at(-1)).toMatchObject({ reason: 'stop', stop: 'literal 1:3 ids 1:42 pixels 12:24' });
  });

  it('loses nothing when a large submit runs on another thread', async () => {
    const image = () => ({
      width: 1000,
      height: 700,
      detail: 'auto' as const,
      pixels: new Uint8Array(2_100_000).fill(1),
    });
    const streams = await Promise.all(Array.from({ length: 8 }, () => engine.submit(generate({ images: [image()] }))));
    for (const events of await Promise.all(streams.map(all))) {
      expect(events).toHaveLength(5);
      expect(events.at(-1)).toMatchObject({ stop: 'literal 1:3 ids 0:0 pixels 2100000:2100000' });
    }
  });

  it('gives the engine’s refusal as an EngineError', async () => {
    await expect(engine.submit(generate({ maxTokens: 13 }))).rejects.toMatchObject({
      name: 'EngineError',
      code: 'invalid',
      message: 'max_tokens: 13 is unlucky',
    });
    await expect(engine.submit(generate({ model: 'other' }))).rejects.toMatchObject({ code: 'not_found' });
    await expect(NativeEngine.open(library, { ...options, device: 'cuda' })).rejects.toMatchObject({ code: 'device' });
  });

  it('cancels, also by leaving the loop', async () => {
    const stream = await engine.submit(generate({ ignoreEos: true }));
    for await (const event of stream) if (event.type === 'token') break;
    const other = await engine.submit(generate({ ignoreEos: true }));
    setTimeout(() => other.cancel(), 5);
    expect((await all(other)).at(-1)).toMatchObject({ type: 'finished', reason: 'cancelled' });
  });

  it('tokenizes and detokenizes into buffers that grow', async () => {
    expect(await engine.tokenize('m', 'aaaaaaaaaa', [], true)).toHaveLength(201);
    expect(await engine.detokenize('m', Int32Array.from([1, 2]), true)).toBe('y'.repeat(200));
    await expect(engine.detokenize('m', Int32Array.from([-1]), true)).rejects.toMatchObject({ code: 'invalid' });
  });

  it('runs jobs to their result, and interrupts them', async () => {
    expect(await engine.job({ job: 'verify' })).toEqual({ passed: 3 });
    const stop = new AbortController();
    const job = engine.job({ job: 'quantize' }, () => {}, stop.signal);
    stop.abort();
    await expect(job).rejects.toMatchObject({ code: 'cancelled' });
  });

  it('reads stats, and the doctor’s report of any length without an engine', () => {
    expect(engine.stats().models[0]).toMatchObject({ model: 'm', running: 2, kvBlocksTotal: 9 });
    expect(doctor(library, {})).toEqual({ cpu: 'x'.repeat(200_000) });
  });

  it('closes twice, ends what is running, and refuses afterwards', async () => {
    const stream = await engine.submit(generate({ ignoreEos: true }));
    const ending = all(stream);
    ending.catch(() => {});
    await Promise.all([engine.close(), engine.close()]);
    await expect(ending).rejects.toMatchObject({ code: 'closed' });
    await expect(engine.submit(generate())).rejects.toMatchObject({ code: 'closed' });
    expect(engine.stats()).toEqual({ models: [], memory: [] });
  });
});
