// npm run build:native -- [--cuda=auto|off|all|87;89] [--tests] [--folder=NAME]: builds the engine and says where it is.
import { join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import { buildNative, native, root } from './lib/build.mjs';
import { ensureSystemPackages } from './lib/packages.mjs';
import { fail, stageDone } from './lib/terminal.mjs';

let options;
try {
  options = parseArgs({
    options: {
      cuda: { type: 'string', default: 'auto' },
      tests: { type: 'boolean', default: false },
      folder: { type: 'string', default: 'build' },
    },
  }).values;
} catch (error) {
  fail(error.message);
}
const startedAt = performance.now();
const packages = ensureSystemPackages({ tests: options.tests });
if (packages.missing) fail(packages.missing);
const folder = join(native, options.folder);
const { built, error } = await buildNative({
  ...options,
  folder,
  targets: options.tests ? [] : ['hearth', 'hearth-bench'],
});
if (error) fail(`the engine did not build:\n${error}`, 1);
stageDone(
  `${relative(root, join(folder, 'libhearth.so'))} ${built ? 'built' : 'is up to date'} (CUDA: ${options.cuda})`,
  startedAt,
);
