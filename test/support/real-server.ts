// The whole server in this process: the built engine and the model that ships with the project.

import { existsSync } from 'node:fs';
import { Writable } from 'node:stream';
import { defaultLibrary } from '../../server/engine/native/library.ts';
import { serve } from '../../server/main.ts';

export interface RealServer {
  url: string;
  stop(): Promise<void>;
}

/** Starts it on a port of its own. Fails, and says so, when the engine is not built. */
export async function startRealServer(options: string[] = []): Promise<RealServer> {
  // test:sanitize names a library built with ASan and UBSan here.
  const library = process.env.HEARTH_ENGINE_LIBRARY ?? defaultLibrary;
  if (!existsSync(library)) throw new Error(`${library} is not built: run npm test, or scripts/build-native.mjs`);
  let log = '';
  const out = new Writable({
    write(chunk, _encoding, written) {
      log += chunk;
      written();
    },
  });
  let signal = (_name: string) => {};
  const stop = new Promise<string>((resolve) => {
    signal = resolve;
  });
  const argv = ['--port', '0', '--log-format', 'json', '--device', 'cpu', '--engine-library', library, ...options];
  let ended = false;
  const done = serve({ argv, env: {}, out, stop }).finally(() => {
    ended = true;
  });
  for (;;) {
    const lines = log.split('\n').filter(Boolean);
    const url = lines.map((line) => JSON.parse(line)).find(({ stage }) => stage === 'listening')?.detail ?? '';
    const end = async () => {
      signal('SIGTERM');
      await done;
    };
    // A server that ends between the request and its answer leaves fetch waiting for ever.
    if (url && (await Promise.race([fetch(`${url}/health`).then(({ ok }) => ok), done]))) return { url, stop: end };
    await Promise.race([done, new Promise((resolve) => setTimeout(resolve, 20))]);
    if (ended) throw new Error(`the server ended before it listened:\n${log}`);
  }
}
