#!/usr/bin/env node
// hearth <command>. In a clone (npm run hearth -- <command>) everything is built first when that is needed. An installed
// package has its engine in the optional package of its platform and runs at once; where there is none for the platform,
// the engine is built from the sources in the package.
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';

function hasPlatformPackage() {
  try {
    createRequire(import.meta.url).resolve(`hearth-engine-${process.platform}-${process.arch}/libhearth.so`);
    return true;
  } catch {
    return false;
  }
}

const clone = existsSync(new URL('../package-lock.json', import.meta.url));
if (clone || !hasPlatformPackage()) {
  process.argv.splice(2, 0, 'cli');
  await import('./start.mjs');
} else {
  // Node itself strips no types under node_modules; tsx does.
  const { register } = await import('tsx/esm/api');
  register();
  await import('../server/cli/main.ts');
}
