// hearth verify as its user runs it: a report in two files, an exit code, nothing personal in it.

import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { homedir, hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';

const main = join(import.meta.dirname, '../../server/cli/main.ts');
const folder = mkdtempSync(join(tmpdir(), 'hearth-verify-'));
const hearth = (...args: string[]) =>
  new Promise<{ code: number; stdout: string; stderr: string }>((resolve) => {
    const child = execFile(process.execPath, ['--import', 'tsx', main, ...args], (_error, stdout, stderr) =>
      resolve({ code: child.exitCode ?? -1, stdout, stderr }),
    );
  });

let ended: Awaited<ReturnType<typeof hearth>>;
beforeAll(async () => {
  ended = await hearth('verify', '--device', 'cpu', '--quick', '--seed', '11', '--json', '--out', folder);
}, 120_000);
afterAll(() => rmSync(folder, { recursive: true }));

it('passes here and names every kernel it checked', () => {
  expect(ended.stderr).not.toContain('hearth:');
  expect(ended.code).toBe(0);
  const { engine, bench } = JSON.parse(ended.stdout);
  expect(engine).toMatchObject({ seed: 11, passed: true, model: { passed: true, against: 'cpu w4a32' } });
  const ops = new Set(engine.checks.map(({ op }: { op: string }) => op));
  expect([...ops].sort()).toEqual(
    ['add', 'attention', 'embed', 'gate', 'gather', 'linear', 'norm', 'sample', 'vision_attention'].sort(),
  );
  expect(engine.speed[0]).toMatchObject({ what: 'memory, read', unit: 'GB/s' });
  expect(bench).toBeNull();
});

it('writes the same report as text and JSON, without names of the user or the host', () => {
  const text = readFileSync(join(folder, 'hearth-verify.md'), 'utf8');
  expect(text).toMatch(/^# Hearth \d+\.\d+\.\d+ on .+: passed$/m);
  expect(text).toContain('| sample |');
  expect(readFileSync(join(folder, 'hearth-verify.json'), 'utf8')).toBe(ended.stdout);
  for (const name of [homedir(), hostname(), tmpdir()].filter((name) => name.length > 3))
    expect(text + ended.stdout).not.toContain(name);
});

it('refuses what it does not know', async () => {
  const { code, stderr } = await hearth('verify', '--device', 'tpu');
  expect(code).toBe(2);
  expect(stderr).toContain('--device takes auto, cpu, cuda');
}, 30_000);
