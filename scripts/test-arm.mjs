// The native tests for aarch64: cross-compiled with Debian's toolchain, run under qemu-user, and the instruction counts of
// W4A8 and W4A32. Needs g++-aarch64-linux-gnu, qemu-user and googletest.
//   node scripts/test-arm.mjs [test-ops test-core ...]   default: every native test program
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { crossSettings, installGoogleTest } from './lib/aarch64.mjs';
import { native, root } from './lib/build.mjs';

const build = join(native, 'build-aarch64');
const emulator = ['-cpu', 'max', '-L', '/usr/aarch64-linux-gnu'];
// W4A8 must need at most a third of W4A32's instructions (targets.md).
const instructionRatioMin = 3;

function fail(message) {
  console.error(message);
  process.exit(1);
}

function run(command, args, options = {}) {
  const result = spawnSync(command, args, { cwd: root, stdio: 'inherit', ...options });
  if (result.error || result.status !== 0) fail(`test:arm: ${command} ${args.slice(0, 4).join(' ')} failed`);
  return result;
}

function checkTools() {
  if (spawnSync('qemu-aarch64', ['--version']).error) fail('test:arm needs: apt-get install -y qemu-user');
}

// Instructions of a program, by qemu's counting plugin-free way: one instruction a translation block, every block logged.
function instructions(program, args) {
  const result = spawnSync(
    'sh',
    [
      '-c',
      `qemu-aarch64 ${emulator.join(' ')} -singlestep -d exec,nochain ${program} ${args.join(' ')} 2>&1 >/dev/null | grep -c '^Trace'`,
    ],
    { encoding: 'utf8' },
  );
  const count = Number(result.stdout);
  if (!(count > 0)) fail(`test:arm: cannot count the instructions of ${program}`);
  return count;
}

// The difference between many calls and few is what the calls alone cost.
function perCall(mode) {
  const program = join(build, 'bench/bench-instructions');
  return (instructions(program, [mode, 3]) - instructions(program, [mode, 1])) / 2;
}

checkTools();
const settings = crossSettings();
installGoogleTest();
run('cmake', ['-S', native, '-B', build, '-G', 'Ninja', ...settings, '-DHEARTH_CUDA=off'], {
  stdio: ['ignore', 'ignore', 'inherit'],
});
const wanted = process.argv.slice(2);
run('ninja', [
  '-C',
  build,
  `-j${availableParallelism()}`,
  ...(wanted.length ? [...wanted, 'bench-instructions'] : ['all']),
]);
const programs = wanted.length
  ? wanted
  : readdirSync(join(build, 'tests')).filter((name) => /^test-[a-z]+$/.test(name));
const failed = programs.filter((name) => {
  console.log(name);
  const tests = spawnSync('qemu-aarch64', [...emulator, join(build, 'tests', name), '--gtest_brief=1'], {
    stdio: 'inherit',
  });
  return tests.status !== 0;
});
if (failed.length) fail(`test:arm: failed under qemu-aarch64: ${failed.join(', ')}`);
const [int8, exact] = [perCall('w4a8'), perCall('w4a32')];
console.log(
  JSON.stringify({
    w4a8_instructions: int8,
    w4a32_instructions: exact,
    ratio: exact / int8,
    goal: instructionRatioMin,
  }),
);
if (exact / int8 < instructionRatioMin) fail('test:arm: W4A8 needs more than a third of the instructions of W4A32');
