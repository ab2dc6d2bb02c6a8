// What a launcher prepares before anything runs, in trees of its own.

import {
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'hearth-prepare-'));
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true, force: true });
});

/** A tree with the launcher's own scripts; an `npm` that only writes down that it ran stands first in PATH. */
async function tree() {
  const root = join(folder, 'tree');
  cpSync('scripts/lib', join(root, 'scripts/lib'), { recursive: true });
  writeFileSync(join(root, 'package-lock.json'), '{}');
  const ran = join(folder, 'ran');
  mkdirSync(join(folder, 'bin'));
  writeFileSync(join(folder, 'bin/npm'), `#!/bin/sh\necho "$@" > '${ran}'\n`, { mode: 0o755 });
  vi.stubEnv('PATH', `${join(folder, 'bin')}${delimiter}${process.env.PATH}`);
  const module = pathToFileURL(join(root, 'scripts/lib/prepare.mjs')).href;
  const { installNpmPackages } = (await import(/* @vite-ignore */ module)) as { installNpmPackages: () => void };
  const npmRan = () => (existsSync(ran) ? readFileSync(ran, 'utf8').trim() : null);
  return { root, installNpmPackages, npmRan };
}

it('packages are installed into a folder of one’s own, once', async () => {
  const { root, installNpmPackages, npmRan } = await tree();
  mkdirSync(join(root, 'node_modules'));
  installNpmPackages();
  expect(npmRan()).toMatch(/^ci /);
  rmSync(join(folder, 'ran'));
  installNpmPackages();
  expect(npmRan()).toBeNull();
});

it('packages are never installed through a link: npm would empty the folder that others use', async () => {
  const { root, installNpmPackages, npmRan } = await tree();
  const shared = join(folder, 'shared');
  mkdirSync(shared);
  symlinkSync(shared, join(root, 'node_modules'));
  installNpmPackages();
  expect(npmRan()).toBeNull();
  expect(existsSync(join(shared, '.hearth-lock'))).toBe(false);
  expect(lstatSync(join(root, 'node_modules')).isSymbolicLink()).toBe(true);
});
