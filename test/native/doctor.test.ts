// hearth doctor over the real engine, with a model and without.

import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const run = (...args: string[]) => {
  const command = ['--import', 'tsx', 'server/cli/main.ts', 'doctor', '--device', 'cpu', ...args];
  const { status, stdout, stderr } = spawnSync(process.execPath, command, { cwd: root, encoding: 'utf8' });
  return { status, stdout, stderr };
};

it.each([
  ['--model', 'models/tinystories-656k', 'tinystories-656k'],
  ['--shape', 'tiny', 'tiny'],
])(
  '%s: says what memory the model takes and which kernels it gets',
  (option, value, name) => {
    const { status, stdout } = run('--json', option, value);
    expect(status).toBe(0);
    const { model, kernels, devices } = JSON.parse(stdout);
    expect(model).toMatchObject({
      name,
      memory: expect.arrayContaining([{ what: 'weights', bytes: expect.any(Number) }]),
    });
    expect(kernels.length).toBeGreaterThan(3);
    expect(devices).toHaveLength(1);
    // A worker a performance core, or one less; fewer where a container's limit is lower.
    const { threads, performance_cores, container_limit } = devices[0];
    const most = Math.min(performance_cores, container_limit ?? performance_cores);
    expect([most, most - 1]).toContain(threads);
  },
  60_000,
);

it('names a model that is not there in one line', () => {
  expect(run('--model', '/nowhere')).toMatchObject({
    status: 2,
    stderr: expect.stringMatching(/^hearth: --model: [^\n]+\n$/),
  });
}, 60_000);
