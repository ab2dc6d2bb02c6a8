// hearth eval --vqa from the command line: the model that ships, asked about the pictures drawn for it.

import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const questions = 'test/fixtures/default-model/examples/questions.jsonl';

const hearth = (...args: string[]) =>
  spawnSync(process.execPath, ['--import', 'tsx', 'server/cli/main.ts', 'eval', ...args], {
    cwd: root,
    encoding: 'utf8',
  });

it('scores the default model, in the form it ships and in FP16', () => {
  const { status, stdout, stderr } = hearth('hearth-tiny-vl', 'hearth-tiny-vl-awq', '--vqa', questions, '--json');
  expect(stderr + stdout).not.toMatch(/hearth:/);
  expect(status).toBe(0);
  const scores = JSON.parse(stdout);
  expect(scores).toHaveLength(2);
  for (const { asked, right, replies } of scores) {
    expect(asked).toBeGreaterThanOrEqual(4);
    expect(right, JSON.stringify(replies)).toBe(asked);
  }
}, 120_000);

it('refuses what does not go together', () => {
  expect(hearth('hearth-tiny-vl', '--vqa', questions, '--text', 'README.md').stderr).toContain('one at a time');
  expect(hearth('hearth-tiny-vl', '--vqa', questions, '--window', '64').stderr).toContain('--window goes with --text');
  expect(hearth('tinystories-656k', '--vqa', questions).stderr).toMatch(/question .*: .*image/i);
}, 60_000);
