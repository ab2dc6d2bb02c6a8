#!/usr/bin/env node
// hearth <command>. In a clone (npm run hearth -- <command>) everything is built first when that is needed; an installed
// package brings its engine and its page along, so there the command runs at once.
import { existsSync } from 'node:fs';

if (existsSync(new URL('../engine-native/CMakeLists.txt', import.meta.url))) {
  process.argv.splice(2, 0, 'cli');
  await import('./start.mjs');
} else {
  // Node itself strips no types under node_modules; tsx does.
  const { register } = await import('tsx/esm/api');
  register();
  await import('../server/cli/main.ts');
}
