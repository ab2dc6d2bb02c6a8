// Building the engine: only when its sources changed, with the jobs that cores and memory allow.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { availableParallelism, totalmem } from 'node:os';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../..', import.meta.url));
export const native = join(root, 'engine-native');
export const buildFolder = join(native, 'build');

/** Hash of names, sizes and times of everything a build reads: a changed file changes it, reading none of them. */
export function sourcesStamp(folder, settings = {}) {
  const hash = createHash('sha256').update(JSON.stringify(settings)).update(folder);
  const visit = (inner) => {
    for (const entry of readdirSync(inner, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1))) {
      if (/^(build.*|dist)$/.test(entry.name)) continue;
      const path = join(inner, entry.name);
      if (entry.isDirectory()) visit(path);
      else {
        const { size, mtimeMs } = statSync(path);
        hash.update(`${relative(folder, path)}\0${size}\0${mtimeMs}\n`);
      }
    }
  };
  visit(folder);
  return hash.digest('hex');
}

/** One job a core, but no more than memory takes: a heavy C++ unit wants about 1.2 GB (8 GB boards!). */
const jobs = () => Math.max(1, Math.min(availableParallelism(), Math.floor(totalmem() / 1.2e9)));

function run(command, args, log) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
    const progress = (chunk) => {
      log.text = (log.text + chunk).slice(-200_000);
      const steps = [...String(chunk).matchAll(/\[\s*(\d+%|\d+\/\d+)\]/g)].at(-1)?.[1];
      if (steps && process.stdout.isTTY) process.stdout.write(`\r  compiling ${steps} \u001b[K`);
    };
    child.stdout.on('data', progress);
    child.stderr.on('data', progress);
    child.on('error', (error) => {
      log.text += error.message;
      resolve(1);
    });
    child.on('close', (code) => {
      if (process.stdout.isTTY) process.stdout.write('\r\u001b[K');
      resolve(code ?? 1);
    });
  });
}

/** The lines of a failed build that say why. */
function reason(text) {
  const lines = text.split('\n');
  const errors = lines.filter((line) => /error|Error:|undefined reference|No space left/i.test(line)).slice(0, 12);
  return (errors.length ? errors : lines.slice(-12)).join('\n');
}

/**
 * Configures and builds. `targets` empty builds everything, tests included.
 * @returns {Promise<{built: boolean, error?: string}>} built false: nothing had changed.
 */
export async function buildNative({
  targets = [],
  tests = false,
  cuda = process.env.HEARTH_CUDA ?? 'auto',
  folder = buildFolder,
  extra = [],
}) {
  const settings = { targets, tests, cuda, extra, node: process.arch };
  const stampFile = join(folder, `.hearth-stamp-${tests ? 'tests' : 'product'}`);
  const stamp = sourcesStamp(native, settings);
  const library = join(folder, 'libhearth.so');
  if (existsSync(library) && existsSync(stampFile) && readFileSync(stampFile, 'utf8') === stamp)
    return { built: false };

  // A build folder that was copied or moved with its clone names the old place; CMake refuses it, so start afresh.
  const cache = join(folder, 'CMakeCache.txt');
  if (existsSync(cache) && !readFileSync(cache, 'utf8').includes(`CMAKE_HOME_DIRECTORY:INTERNAL=${native}\n`)) {
    rmSync(folder, { recursive: true, force: true });
  }
  mkdirSync(folder, { recursive: true });
  const log = { text: '' };
  const generator = existsSync(cache) || !hasNinja() ? [] : ['-G', 'Ninja'];
  const configure = [
    '-S',
    native,
    '-B',
    folder,
    ...generator,
    `-DHEARTH_CUDA=${cuda}`,
    `-DHEARTH_TESTS=${tests ? 'ON' : 'OFF'}`,
    ...extra,
  ];
  if (await run('cmake', configure, log)) return { built: false, error: reason(log.text) };
  const target = targets.length ? ['--target', ...targets] : [];
  if (await run('cmake', ['--build', folder, '--parallel', String(jobs()), ...target], log)) {
    return { built: false, error: reason(log.text) };
  }
  writeFileSync(stampFile, sourcesStamp(native, settings));
  return { built: true };
}

const hasNinja = () => (process.env.PATH ?? '').split(':').some((folder) => existsSync(join(folder, 'ninja')));
