// Cross-compiling the engine for aarch64: Debian's toolchain, and its libraries for aarch64 unpacked into a folder beside
// the build, so that nothing on the system changes.
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { native, root } from './build.mjs';
import { fail } from './terminal.mjs';

const base = join(native, 'build-aarch64');
const sysroot = join(base, 'sysroot');
const packages = ['libpcre2-dev', 'libutf8proc-dev'];

function run(command, args, options = {}) {
  const result = spawnSync(command, args, { cwd: root, stdio: 'inherit', ...options });
  if (result.error || result.status !== 0) fail(`${command} ${args.slice(0, 4).join(' ')} failed`, 1);
}

/** The CMake settings of a cross build. The toolchain must be there; libraries are downloaded once. */
export function crossSettings() {
  if (spawnSync('aarch64-linux-gnu-g++', ['--version']).error)
    fail('building for aarch64 needs: apt-get install -y g++-aarch64-linux-gnu');
  fillSysroot();
  return toolchain();
}

function toolchain() {
  return [`-DCMAKE_TOOLCHAIN_FILE=${join(native, 'cmake/aarch64.cmake')}`, `-DHEARTH_SYSROOT=${sysroot}`];
}

/** GoogleTest for aarch64, built from Debian's sources into the sysroot. */
export function installGoogleTest() {
  if (existsSync(join(sysroot, 'usr/lib/libgtest.a'))) return;
  if (!existsSync('/usr/src/googletest')) fail('testing for aarch64 needs: apt-get install -y googletest');
  const build = join(base, 'googletest');
  const prefix = `-DCMAKE_INSTALL_PREFIX=${sysroot}/usr`;
  const settings = ['-G', 'Ninja', ...toolchain(), '-DBUILD_GMOCK=OFF', '-DCMAKE_INSTALL_LIBDIR=lib', prefix];
  run('cmake', ['-S', '/usr/src/googletest', '-B', build, ...settings], { stdio: 'ignore' });
  run('ninja', ['-C', build, 'install'], { stdio: 'ignore' });
}

/** Debian's libraries for aarch64, through a package database of our own: apt's is not touched. */
function fillSysroot() {
  if (existsSync(join(sysroot, 'done'))) return;
  const state = join(base, 'apt');
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
  ].flatMap((option) => ['-o', option]);
  run('apt-get', [...options, '-qq', 'update']);
  run('apt-get', [...options, '-qq', 'download', ...packages], { cwd: state });
  for (const file of readdirSync(state).filter((name) => name.endsWith('.deb')))
    run('dpkg', ['-x', join(state, file), sysroot]);
  cpSync('/usr/include/nlohmann', join(sysroot, 'usr/include/nlohmann'), { recursive: true });
  mkdirSync(join(sysroot, 'done'));
}
