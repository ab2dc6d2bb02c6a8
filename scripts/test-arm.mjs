// The native tests for aarch64: cross-compiled with Debian's toolchain, run under qemu-user, and the instruction counts of
// W4A8 and W4A32. Needs g++-aarch64-linux-gnu and qemu-user; libraries for aarch64 are unpacked beside the build, so that
// nothing on the system changes.
//   node scripts/test-arm.mjs [test-ops test-core ...]   default: every native test program
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { native, root } from './lib/build.mjs';

const build = join(native, 'build-aarch64');
const sysroot = join(build, 'sysroot');
const emulator = ['-cpu', 'max', '-L', '/usr/aarch64-linux-gnu'];
const packages = ['libpcre2-dev', 'libutf8proc-dev'];
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
  const missing = [
    ['aarch64-linux-gnu-g++', 'g++-aarch64-linux-gnu'],
    ['qemu-aarch64', 'qemu-user'],
  ].filter(([program]) => spawnSync(program, ['--version']).error);
  if (!existsSync('/usr/src/googletest')) missing.push(['googletest', 'googletest']);
  if (missing.length) fail(`test:arm needs: apt-get install -y ${missing.map(([, name]) => name).join(' ')}`);
}

// Debian's aarch64 libraries, downloaded and unpacked; a package database of our own, so that apt's is not touched.
function fillSysroot() {
  if (existsSync(join(sysroot, 'done'))) return;
  const state = join(build, 'apt');
  mkdirSync(join(state, 'lists/partial'), { recursive: true });
  mkdirSync(join(state, 'cache/archives/partial'), { recursive: true });
  mkdirSync(sysroot, { recursive: true });
  const options = [
    'APT::Architecture=arm64',
    'APT::Architectures=arm64',
    `Dir::State::lists=${state}/lists`,
    `Dir::Cache=${state}/cache`,
    'Dir::State::status=/dev/null',
    'APT::Sandbox::User=root',
  ].flatMap((o) => ['-o', o]);
  run('apt-get', [...options, '-qq', 'update']);
  run('apt-get', [...options, '-qq', 'download', ...packages], { cwd: state });
  for (const file of readdirSync(state).filter((name) => name.endsWith('.deb')))
    run('dpkg', ['-x', join(state, file), sysroot]);
  cpSync('/usr/include/nlohmann', join(sysroot, 'usr/include/nlohmann'), { recursive: true });
  const gtest = join(build, 'googletest');
  run(
    'cmake',
    [
      '-S',
      '/usr/src/googletest',
      '-B',
      gtest,
      '-G',
      'Ninja',
      ...toolchain(),
      '-DBUILD_GMOCK=OFF',
      `-DCMAKE_INSTALL_PREFIX=${sysroot}/usr`,
    ],
    { stdio: 'ignore' },
  );
  run('ninja', ['-C', gtest, 'install'], { stdio: 'ignore' });
  mkdirSync(join(sysroot, 'done'));
}

function toolchain() {
  return [`-DCMAKE_TOOLCHAIN_FILE=${join(native, 'cmake/aarch64.cmake')}`, `-DHEARTH_SYSROOT=${sysroot}`];
}

// Instructions of a program, by qemu's counting plugin-free way: one instruction a translation block, every block logged.
function instructions(program, args) {
  const result = spawnSync(
    'sh',
    [
      '-c',
      `qemu-aarch64 ${emulator.join(' ')} -singlestep -d exec,nochain -D /dev/stdout ${program} ${args.join(' ')} | grep -c '^Trace'`,
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
fillSysroot();
run('cmake', ['-S', native, '-B', build, '-G', 'Ninja', ...toolchain(), '-DHEARTH_CUDA=off'], {
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
for (const name of programs) run('qemu-aarch64', [...emulator, join(build, 'tests', name), '--gtest_brief=1']);
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
