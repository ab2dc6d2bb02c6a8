// npm run test:sanitize: the native tests under AddressSanitizer and UndefinedBehaviorSanitizer, then the ABI under the
// HTTP tests with the sanitized library preloaded into Node.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { buildNative, native, root } from './lib/build.mjs';
import { prepare } from './lib/prepare.mjs';
import { fail, green, red } from './lib/terminal.mjs';

const folder = join(native, 'build-sanitize');
await prepare({ targets: ['hearth'] });
const { error } = await buildNative({
  tests: true,
  cuda: 'off',
  folder,
  extra: ['-DHEARTH_SANITIZE=address,undefined', '-DHEARTH_BENCH=OFF'],
});
if (error) fail(`the sanitized engine did not build:\n${error}`, 1);

const runtime = (name) => spawnSync('c++', [`-print-file-name=${name}`], { encoding: 'utf8' }).stdout.trim();
const environment = {
  ...process.env,
  UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1',
  ASAN_OPTIONS: 'detect_leaks=1:strict_string_checks=1',
};
// V8 and npm packages keep memory for ever by design: leaks are judged in the native tests only.
const underNode = {
  ...environment,
  ASAN_OPTIONS: 'detect_leaks=0',
  LD_PRELOAD: ['libasan.so', 'libubsan.so'].map(runtime).filter(existsSync).join(':'),
  HEARTH_ENGINE_LIBRARY: join(folder, 'libhearth.so'),
};

const parts = [
  [
    'native tests',
    'ctest',
    ['--test-dir', folder, '--output-on-failure', '--timeout', '1800', '-j', String(availableParallelism())],
    environment,
  ],
  [
    'ABI under the HTTP tests',
    process.execPath,
    [join(root, 'node_modules/vitest/vitest.mjs'), 'run', '--pool=forks', 'test/abi', 'test/native'],
    underNode,
  ],
];
let failed = 0;
for (const [title, command, args, env] of parts) {
  console.log(`\n── ${title} (ASan, UBSan)`);
  const run = spawnSync(command, args, { cwd: root, stdio: 'inherit', env });
  if (run.status !== 0) failed += 1;
  console.log(run.status === 0 ? green(`✓ ${title}`) : red(`✗ ${title}`));
}
process.exit(failed === 0 ? 0 : 1);
