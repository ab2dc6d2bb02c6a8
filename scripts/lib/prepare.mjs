// Everything between a fresh clone (or a package that npm installed without an engine for this platform) and a runnable
// tree: Node's version, npm packages, system packages, the engine.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, lstatSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { buildNative, root, sourcesStamp } from './build.mjs';
import { ensureSystemPackages } from './packages.mjs';
import { fail, stageDone } from './terminal.mjs';

function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < 20 || (major === 20 && minor < 19)) {
    fail(`Node ${process.versions.node} is too old: Hearth needs Node 20.19 or newer (22 and 24 work too).`);
  }
}

/** npm ci, unless node_modules already holds what package-lock.json asks for. */
export function installNpmPackages() {
  // A link leads to another tree's packages, and npm ci would empty that one.
  if (lstatSync(join(root, 'node_modules'), { throwIfNoEntry: false })?.isSymbolicLink()) return;
  const lock = join(root, 'package-lock.json');
  const stampFile = join(root, 'node_modules', '.hearth-lock');
  const stamp = createHash('sha256').update(readFileSync(lock)).update(process.version).digest('hex');
  if (existsSync(stampFile) && readFileSync(stampFile, 'utf8') === stamp) return;
  const startedAt = performance.now();
  const run = spawnSync('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'], {
    cwd: root,
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  if (run.status !== 0) fail('npm could not install the packages of package-lock.json; its own message stands above.');
  writeFileSync(stampFile, stamp);
  stageDone('npm packages installed', startedAt);
}

function installSystemPackages(tests) {
  const startedAt = performance.now();
  const result = ensureSystemPackages({ tests });
  if (result.missing) fail(result.missing);
  if (result.installed.length) stageDone(`system packages installed: ${result.installed.join(' ')}`, startedAt);
}

/** The page people see, built by Vite into server/web/dist. */
export function buildPage() {
  const folder = join(root, 'server', 'web');
  const stampFile = join(folder, 'dist', '.hearth-stamp');
  const stamp = sourcesStamp(folder);
  if (existsSync(stampFile) && readFileSync(stampFile, 'utf8') === stamp) return;
  const startedAt = performance.now();
  const vite = join(root, 'node_modules', 'vite', 'bin', 'vite.js');
  const run = spawnSync(process.execPath, [vite, 'build', folder, '--logLevel', 'error'], {
    cwd: root,
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  if (run.status !== 0) fail('the page (server/web) did not build; its own message stands above.', 1);
  writeFileSync(stampFile, stamp);
  stageDone('page built', startedAt);
}

/** Prepares the tree; prints a line for each thing it had to do, and ends the process when it cannot. */
export async function prepare({ tests = false, targets = [] } = {}) {
  checkNode();
  installSystemPackages(tests);
  if (existsSync(join(root, 'package-lock.json'))) {
    // A clone. An installed package has its npm packages beside it and its page inside.
    installNpmPackages();
    buildPage();
  }
  const startedAt = performance.now();
  const { built, error } = await buildNative({ tests, targets });
  if (error) fail(`the engine did not build:\n${error}`, 1);
  if (built) stageDone(tests ? 'engine and its tests built' : 'engine built', startedAt);
}
