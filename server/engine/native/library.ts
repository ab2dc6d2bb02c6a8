// Where the engine's binaries are. In a file of its own, so that a command can name them without loading the server.
//
// In a clone the build puts them into engine-native/build. An installed package finds them in the optional package of its
// platform (hearth-engine-linux-x64, ...), and where npm had none, in the same build folder, made at the first start.

import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

export const platformPackage = `hearth-engine-${process.platform}-${process.arch}`;

/** A binary of the engine: the one that was built here, else the platform package's, else where a build would put it. */
function engineFile(name: string): string {
  const built = fileURLToPath(new URL(`../../../engine-native/build/${name}`, import.meta.url));
  if (existsSync(built)) return built;
  try {
    return createRequire(import.meta.url).resolve(`${platformPackage}/${name}`);
  } catch {
    return built;
  }
}

export const defaultLibrary = engineFile('libhearth.so');
export const benchBinary = engineFile('hearth-bench');
