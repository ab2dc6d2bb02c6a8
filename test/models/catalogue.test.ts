// The catalogue that ships, and what it says fits where.
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { bestFit, kvBytesPerToken, readCatalogue, weightBytes } from '../../server/models/catalogue.ts';

const catalogue = readCatalogue(fileURLToPath(new URL('../../models/catalogue.json', import.meta.url)));
const entry = (name: string) => {
  const found = catalogue.find((candidate) => candidate.name === name);
  if (!found) throw new Error(`${name} is not in the catalogue`);
  return found;
};

describe('the catalogue', () => {
  it('has unique names and repositories of the form owner/name', () => {
    expect(new Set(catalogue.map(({ name }) => name)).size).toBe(catalogue.length);
    for (const { repo } of catalogue) expect(repo).toMatch(/^[\w.-]+\/[\w.-]+$/);
  });

  it('plans a 7B model on an 8 GB card at 4 bits, and 8B in 16 bits only on a large one', () => {
    const laptop4070 = { memoryBytes: 8 * 2 ** 30, bandwidthGbS: 256 };
    expect(bestFit(entry('llama-2-7b-chat'), laptop4070)?.precision).toBe('w4a16');
    expect(bestFit(entry('llama-3.1-8b'), { memoryBytes: 24 * 2 ** 30, bandwidthGbS: 1008 })?.precision).toBe('f16');
    expect(bestFit(entry('llama-2-13b-chat'), laptop4070)).toBeNull();
  });

  it('counts the same bytes as the design: 7B at 4 bits is about 3.6 GB a step, KV half a megabyte a token', () => {
    const llama = entry('llama-2-7b-chat');
    const step = weightBytes(llama, 'w4a16') - llama.vocabulary * llama.hidden * 2;
    expect(step / 1e9).toBeGreaterThan(3.4);
    expect(step / 1e9).toBeLessThan(3.7);
    expect(kvBytesPerToken(llama)).toBe(524288);
  });
});
