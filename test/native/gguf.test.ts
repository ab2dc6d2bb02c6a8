// A GGUF file, served as it is and converted for this machine first: over HTTP the same text, which is also the text of
// the folder that the file was made of. Needs engine-native/build/libhearth.so, as serve.test.ts does.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
// @ts-expect-error: a script for Node, without types
import { writeGguf } from '../../scripts/peers/to-gguf.mjs';
import { run as convert } from '../../server/cli/convert.ts';
import { startRealServer } from '../support/real-server.ts';

const source = fileURLToPath(new URL('../../models/tinystories-656k', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'hearth-gguf-'));
const file = join(folder, 'stories.gguf');
beforeAll(() => writeGguf(source, file));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const prompts = ['Once upon a time', 'Lily and Tom went to the park. They', 'The dog said, "'];

/** Greedy continuations by a server of this model. */
async function texts(model: string, options: string[]): Promise<string[]> {
  const server = await startRealServer(['--model', model, ...options]);
  try {
    return await Promise.all(
      prompts.map(async (prompt) => {
        const response = await fetch(`${server.url}/v1/completions`, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify({ model: 'default', prompt, temperature: 0, max_tokens: 64 }),
        });
        const body = (await response.json()) as { choices: [{ text: string }] };
        expect(response.status, JSON.stringify(body)).toBe(200);
        return body.choices[0].text;
      }),
    );
  } finally {
    await server.stop();
  }
}

it.each(['none', 'w4a8'])(
  'is converted without changing a word (%s)',
  async (precision) => {
    const out = join(folder, precision);
    const write = vi.spyOn(process.stdout, 'write').mockReturnValue(true);
    try {
      expect(await convert([file, '--target', 'cpu', '--quantize', precision, '--out', out])).toBe(0);
    } finally {
      write.mockRestore();
    }
    const direct = await texts(file, ['--precision', precision]);
    expect(direct.join('').length).toBeGreaterThan(100);
    expect(await texts(out, [])).toEqual(direct);
    expect(await texts(source, ['--precision', precision])).toEqual(direct);
  },
  60_000,
);
