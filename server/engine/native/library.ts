// Where the build puts the engine. In a file of its own, so that a command can name it without loading the server.

import { fileURLToPath } from 'node:url';

export const defaultLibrary = fileURLToPath(new URL('../../../engine-native/build/libhearth.so', import.meta.url));
