// npm run test:gpu: every kernel against its reference, and whole models against transformers' logits, on this machine's
// GPU. Options go to the kernel tests (for example --gtest_filter=Linear.*). Without Node: scripts/gpu/test.sh.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { buildFolder, root } from './lib/build.mjs';
import { prepare } from './lib/prepare.mjs';
import { fail, green, red } from './lib/terminal.mjs';

await prepare({ tests: true });
const parts = [
  ['kernels against their references', join(buildFolder, 'tests/gpu/hearth-gpu-test'), process.argv.slice(2)],
  ['models against transformers', join(buildFolder, 'tests/hearth-gpu-model-test'), []],
  ['quantizing against the CPU', join(buildFolder, 'tests/hearth-gpu-quantize-test'), []],
];
if (!existsSync(parts[0][1])) {
  fail(
    'this build holds no CUDA kernels: no GPU or no nvcc was found. With a CUDA toolkit (12.6 or newer):\n' +
      '  HEARTH_CUDA=all npm run test:gpu',
  );
}
let failed = 0;
for (const [title, program, args] of parts) {
  console.log(`\n── ${title}`);
  const run = spawnSync(program, args, { cwd: root, stdio: 'inherit' });
  if (run.status !== 0) failed += 1;
  console.log(run.status === 0 ? green(`✓ ${title}`) : red(`✗ ${title}`));
}
process.exit(failed === 0 ? 0 : 1);
