// hearth eval with the KV pool at INT8 beside FP16: the cost in perplexity that docs/guides/operate promises, on a trained
// model as it is and with key channels sixteen times as large as the others, which is what large models grow.

import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const trained = join(root, 'models', 'tinystories-656k');
const text = join(root, 'models', 'calibration.txt');
const scratch = mkdtempSync(join(tmpdir(), 'hearth-kv-'));
afterAll(() => rmSync(scratch, { recursive: true }));

/** Tokens come out the same: what key channel c of a head gains, the queries that meet it lose. */
function plantKeyOutliers(folder: string, factor: number) {
  cpSync(trained, folder, { recursive: true });
  const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'));
  const headSize = config.hidden_size / config.num_attention_heads;
  const file = join(folder, 'model.safetensors');
  const bytes = readFileSync(file);
  const headerBytes = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + headerBytes));
  for (const [name, tensor] of Object.entries<{ shape: number[]; data_offsets: number[] }>(header)) {
    const role = /self_attn\.([qk])_proj\.weight$/.exec(name)?.[1];
    if (!role) continue;
    const [rows = 0, width = 0] = tensor.shape;
    for (let row = 0; row < rows; row++) {
      // Rope turns channels c and c + headSize / 2 into one another: both of a pair are scaled.
      if (row % (headSize / 2) !== 3) continue;
      for (let column = 0; column < width; column++) {
        const at = 8 + headerBytes + tensor.data_offsets[0]! + (row * width + column) * 4;
        bytes.writeFloatLE(bytes.readFloatLE(at) * (role === 'k' ? factor : 1 / factor), at);
      }
    }
  }
  writeFileSync(file, bytes);
}

function perplexity(model: string, kv: string): number {
  const { stdout, stderr } = spawnSync(
    process.execPath,
    [
      '--import',
      'tsx',
      'server/cli/main.ts',
      'eval',
      model,
      '--text',
      text,
      '--kv',
      kv,
      '--precision',
      'none',
      '--json',
    ],
    { cwd: root, encoding: 'utf8' },
  );
  const [result] = JSON.parse(stdout || stderr);
  expect(result.kv).toBe(kv);
  return result.perplexity;
}

it('INT8 KV costs a trained model less than 0.5 % of perplexity', () => {
  const exact = perplexity(trained, 'f32');
  expect(perplexity(trained, 'f16') / exact).toBeCloseTo(1, 3);
  expect(Math.abs(perplexity(trained, 'int8') / exact - 1)).toBeLessThan(0.005);
}, 120_000);

it('and with planted key outliers', () => {
  const planted = join(scratch, 'planted');
  plantKeyOutliers(planted, 16);
  const exact = perplexity(planted, 'f32');
  expect(exact / perplexity(trained, 'f32')).toBeCloseTo(1, 4);
  const cost = perplexity(planted, 'int8') / exact - 1;
  expect(cost, 'the outliers are not felt: the test proves nothing').not.toBe(0);
  expect(Math.abs(cost)).toBeLessThan(0.005);
}, 120_000);
