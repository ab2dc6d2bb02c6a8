// A device that fails in the middle of its work: every stream ends with an error event, /health says 503, and the process
// exits with 1, so that a supervisor starts it again. The engine is the real one over a model without weights
// (libhearth-fake.so, which the native tests build), told to lose its device at a step.

import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { defaultLibrary } from '../../server/engine/native/library.ts';
import { ServerProcess } from '../load/server-process.ts';

const library = join(dirname(process.env.HEARTH_ENGINE_LIBRARY ?? defaultLibrary), 'tests', 'libhearth-fake.so');
const servers: ServerProcess[] = [];

afterEach(() => {
  delete process.env.HEARTH_FAKE_FAIL_AT_STEP;
  for (const server of servers.splice(0)) server.kill();
});

const ask = (server: ServerProcess, prompt: string) =>
  fetch(`${server.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      model: 'default',
      prompt,
      stream: true,
      ignore_eos: true,
      max_tokens: 400,
      speculative: false,
    }),
  });

describe('a device that fails while it works', () => {
  it('ends every stream with an error event, turns /health to 503 and exits with 1', async () => {
    if (!existsSync(library)) throw new Error(`${library} is not built: run npm test, or ninja test-capi-fake`);
    process.env.HEARTH_FAKE_FAIL_AT_STEP = '40';
    const server = new ServerProcess(['--device', 'cpu', '--shape', 'fake-endless', '--engine-library', library]);
    servers.push(server);
    await server.ready();
    const texts = await Promise.all(
      ['one', 'two', 'three'].map(async (prompt) => {
        const response = await ask(server, prompt);
        return { status: response.status, text: await response.text() };
      }),
    );
    for (const { status, text } of texts) {
      if (status !== 200) {
        expect(status).toBe(503);
        continue;
      }
      expect(text).toMatch(/data: \{"error":\{[^\n]*\}\}\n\n/);
      expect(text).not.toContain('"finish_reason":"stop"');
    }
    expect(texts.some(({ status }) => status === 200)).toBe(true);
    expect((await fetch(`${server.url}/health`)).status).toBe(503);
    expect((await ask(server, 'late')).status).toBe(503);
    expect(await server.exited).toBe(1);
    // The engine's own line when it happened, and one of the command when it ends: no stack, nothing else.
    const ends = server.errors.filter((line) => line.startsWith('hearth: '));
    expect(ends).toEqual([expect.stringMatching(/^hearth: the device was lost, and the server with it: \S/)]);
    expect(server.errors.at(-1)).toBe(ends[0]);
    expect(server.errors.join('\n')).not.toMatch(/^\s+at |EngineError|node:internal/m);
    expect(server.errors.length).toBeLessThanOrEqual(2);
  }, 60_000);
});
