// The tables of README.md and docs/performance.md and the charts hold the figures of docs/measured.json, and hide no miss.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, describe, expect, it } from 'vitest';
import { root } from './pages.ts';

interface Row {
  id: string;
  measured: number | number[];
  reached?: number;
}
interface Measured {
  tables: Record<string, { rows: Row[] }>;
  missed: string[];
}

const folder = mkdtempSync(join(tmpdir(), 'hearth-measured-'));
afterAll(() => rmSync(folder, { recursive: true }));
const data = join(folder, 'measured.json');
const original = readFileSync(join(root, 'docs/measured.json'), 'utf8');
const charts = (...args: string[]) =>
  spawnSync(process.execPath, ['scripts/charts.mjs', ...args], { cwd: root, encoding: 'utf8' });

function changed(change: (measured: Measured) => void) {
  const measured = JSON.parse(original) as Measured;
  change(measured);
  writeFileSync(data, JSON.stringify(measured));
  return charts('--check', '--data', data);
}
const rowOf = ({ tables }: Measured, table: string, id: string) => tables[table]!.rows.find((row) => row.id === id)!;

describe('measured figures', () => {
  it('are those of the pages and the charts', () => {
    const { status, stderr } = charts('--check');
    expect(stderr).toBe('');
    expect(status).toBe(0);
  });

  it('that change make pages and charts stale', () => {
    const { status, stderr } = changed((measured) => (rowOf(measured, 'h200', '7b-1').measured = 1121));
    expect(status).toBe(1);
    for (const name of ['h200-decode-light.svg', 'h200-decode-dark.svg', 'README.md', 'docs/performance.md'])
      expect(stderr).toContain(name);
    expect(stderr).not.toContain('cpu-ratio');
  });

  it('cannot miss a goal that no sentence names', () => {
    const { status, stderr } = changed((measured) => (rowOf(measured, 'h200', '7b-p512').measured = 900));
    expect(status).toBe(1);
    expect(stderr).toContain('h200.7b-p512');
  });

  it('are taken from a run on a GPU, where it has the row', () => {
    writeFileSync(data, original);
    const run = join(folder, 'engine.jsonl');
    const line = {
      row: '7b',
      phase: 'decode',
      batch: 8,
      prompt: 128,
      tokens_per_second: 5000.4,
      fraction_of_limit: 0.63617,
    };
    writeFileSync(run, `{"row":"machine"}\n${JSON.stringify(line)}\n`);
    charts('--check', '--data', data, '--import', run);
    const taken = JSON.parse(readFileSync(data, 'utf8')) as Measured;
    expect(rowOf(taken, 'h200', '7b-8')).toMatchObject({ measured: 5000, reached: 0.636, goal: { measured: 7400 } });
    expect(rowOf(taken, 'h200', '7b-16')).toEqual(rowOf(JSON.parse(original) as Measured, 'h200', '7b-16'));
  });

  it('are drawn in pictures that can be read', async () => {
    const names = readdirSync(join(root, 'docs/charts'));
    expect(names.length).toBeGreaterThan(0);
    for (const name of names) {
      const { format, width } = await sharp(join(root, 'docs/charts', name)).metadata();
      expect([name, format, width]).toEqual([name, 'svg', 640]);
      expect(readFileSync(join(root, 'docs/charts', name), 'utf8')).not.toMatch(/NaN|undefined|Infinity/);
    }
  });
});
