// npm test: everything that can be checked on a machine with Node, a C++ compiler and CMake. Each part runs even when an
// earlier one failed, so that one run shows everything that is wrong.
import { spawnSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { buildFolder, root } from './lib/build.mjs';
import { prepare } from './lib/prepare.mjs';
import { green, red, seconds } from './lib/terminal.mjs';

const bin = (name) => join(root, 'node_modules', '.bin', name);
const parts = [
  ['import arrows and file rules (scripts/tidy.mjs)', process.execPath, ['scripts/tidy.mjs']],
  ['lint (biome)', bin('biome'), ['ci', '--error-on-warnings', '.']],
  ['types (tsc)', bin('tsc'), ['--noEmit']],
  [
    'native tests (ctest)',
    'ctest',
    ['--test-dir', buildFolder, '--output-on-failure', '--timeout', '1500', '-j', String(availableParallelism())],
  ],
  ['server tests (vitest)', bin('vitest'), ['run']],
];

await prepare({ tests: true });
let failed = 0;
for (const [title, command, args] of parts) {
  const startedAt = performance.now();
  console.log(`\n── ${title}`);
  const run = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
  const took = seconds(performance.now() - startedAt);
  if (run.status !== 0) failed += 1;
  console.log(run.status === 0 ? green(`✓ ${title} in ${took}`) : red(`✗ ${title} failed after ${took}`));
}
console.log(`\nparts: ${parts.length - failed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
