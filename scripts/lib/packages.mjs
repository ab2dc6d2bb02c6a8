// The system packages the native build stands on: found, installed where that needs no question, else named with the
// one line that installs them.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';

const onPath = (program) =>
  (process.env.PATH ?? '').split(delimiter).some((folder) => existsSync(join(folder, program)));
const includeFolders = ['/usr/include', '/usr/local/include', '/opt/homebrew/include'];
const header = (name) =>
  [...includeFolders, ...(process.env.CPLUS_INCLUDE_PATH ?? '').split(delimiter)].some(
    (folder) => folder && existsSync(join(folder, name)),
  );

/** What the build needs, how to see that it is there, and its package by package manager. */
const needs = [
  {
    what: 'a C++20 compiler',
    there: () => onPath('c++') || onPath('g++') || onPath('clang++'),
    apt: 'g++',
    dnf: 'gcc-c++',
    pacman: 'gcc',
    brew: 'llvm',
  },
  { what: 'CMake', there: () => onPath('cmake'), apt: 'cmake', dnf: 'cmake', pacman: 'cmake', brew: 'cmake' },
  {
    what: 'make or ninja',
    there: () => onPath('ninja') || onPath('make'),
    apt: 'ninja-build',
    dnf: 'ninja-build',
    pacman: 'ninja',
    brew: 'ninja',
  },
  {
    what: 'nlohmann-json',
    there: () => header('nlohmann/json.hpp'),
    apt: 'nlohmann-json3-dev',
    dnf: 'json-devel',
    pacman: 'nlohmann-json',
    brew: 'nlohmann-json',
  },
  {
    what: 'PCRE2',
    there: () => header('pcre2.h'),
    apt: 'libpcre2-dev',
    dnf: 'pcre2-devel',
    pacman: 'pcre2',
    brew: 'pcre2',
  },
  {
    what: 'utf8proc',
    there: () => header('utf8proc.h'),
    apt: 'libutf8proc-dev',
    dnf: 'utf8proc-devel',
    pacman: 'libutf8proc',
    brew: 'utf8proc',
  },
  {
    what: 'GoogleTest',
    tests: true,
    there: () => header('gtest/gtest.h'),
    apt: 'libgtest-dev',
    dnf: 'gtest-devel',
    pacman: 'gtest',
    brew: 'googletest',
  },
];

const installers = {
  apt: 'apt-get install -y --no-install-recommends',
  dnf: 'dnf install -y',
  pacman: 'pacman -S --needed --noconfirm',
  brew: 'brew install',
};

function packageManager() {
  if (onPath('apt-get')) return 'apt';
  return ['dnf', 'pacman', 'brew'].find(onPath) ?? 'apt';
}

const mayInstall = (manager) => manager === 'apt' && process.getuid?.() === 0 && /debian|ubuntu/i.test(osRelease());
const osRelease = () => {
  try {
    return readFileSync('/etc/os-release', 'utf8');
  } catch {
    return '';
  }
};

/**
 * Makes sure that everything the build (and, with `tests`, the native tests) needs is there.
 * @returns {{installed: string[]} | {missing: string}} packages installed, or a message that says how to.
 */
export function ensureSystemPackages({ tests }) {
  const missing = needs.filter((need) => (tests || !need.tests) && !need.there());
  if (missing.length === 0) return { installed: [] };
  const manager = packageManager();
  const names = missing.map((need) => need[manager]);
  const command = `${installers[manager]} ${names.join(' ')}`;
  if (mayInstall(manager)) {
    const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
    spawnSync('apt-get', ['update', '-qq'], { stdio: 'ignore', env });
    const run = spawnSync('sh', ['-c', `${command} -qq`], { stdio: ['ignore', 'ignore', 'inherit'], env });
    if (run.status === 0 && missing.every((need) => need.there())) return { installed: names };
  }
  const sudo = manager === 'brew' || process.getuid?.() === 0 ? '' : 'sudo ';
  return { missing: `missing: ${missing.map((need) => need.what).join(', ')}. Install with:\n  ${sudo}${command}` };
}
