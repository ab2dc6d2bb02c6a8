// Serving opens no outgoing connection: the server runs in a network namespace that has nothing but loopback, and the
// kernel counts what found no route. Where no namespace may be made, this says so and a hook in Node looks for attempts.

import { execFile, execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { defaultLibrary } from '../../server/engine/native/library.ts';
import type { Counted } from './offline/inside.ts';

const library = process.env.HEARTH_ENGINE_LIBRARY ?? defaultLibrary;
const here = (name: string) => fileURLToPath(new URL(`offline/${name}`, import.meta.url));
const run = promisify(execFile);

/** A shell that has a network namespace of its own, with loopback up; null where this is not permitted. */
function namespaceShell(): string[] | null {
  const shell = ['unshare', '--map-root-user', '--net', 'sh', '-c', 'ip link set lo up && exec "$@"', 'sh'];
  try {
    execFileSync(shell[0]!, [...shell.slice(1), 'true'], { stdio: 'pipe' });
    return shell;
  } catch (error) {
    const { stderr, code } = error as { stderr?: Buffer; code?: string };
    console.warn(
      `\n!! offline.test.ts: NO NETWORK NAMESPACE can be made here (${code ?? stderr?.toString().trim()}); it needs\n` +
        '!! unshare, ip and the right to use them. Only a hook inside Node looks for outgoing connections now.\n',
    );
    return null;
  }
}

const shell = namespaceShell();

async function count(mode: 'serve' | 'control'): Promise<Counted> {
  const command = [process.execPath, '--import', 'tsx', '--import', here('hook.mjs'), here('inside.ts'), library, mode];
  const [file, ...argv] = [...(shell ?? []), ...command];
  const { stdout } = await run(file!, argv, { maxBuffer: 1 << 24, timeout: 60_000 });
  return JSON.parse(stdout.trim().split('\n').at(-1)!) as Counted;
}

describe('serving', () => {
  it('is told apart from a program that does reach out', async () => {
    const { attempts, withoutRoute, datagrams } = await count('control');
    expect(attempts).toEqual(['connect 192.0.2.1', 'lookup hearth.invalid']);
    if (shell) expect(withoutRoute + datagrams).toBeGreaterThan(0);
  }, 70_000);

  it('opens no outgoing connection', async () => {
    if (!existsSync(library)) throw new Error(`${library} is not built: run npm test, or scripts/build-native.mjs`);
    const { attempts, withoutRoute, datagrams, statuses } = await count('serve');
    expect(attempts).toEqual([]);
    if (shell) expect({ withoutRoute, datagrams }).toEqual({ withoutRoute: 0, datagrams: 0 });
    expect(statuses).toEqual([]);
  }, 70_000);

  it('has an engine that cannot even name a socket’s address', () => {
    const text = readFileSync(library).toString('latin1');
    for (const name of ['connect', 'getaddrinfo', 'gethostbyname', 'sendto']) {
      expect([name, text.includes(`\0${name}\0`)]).toEqual([name, false]);
    }
    expect(text.includes('\0socketpair\0')).toBe(true);
  });
});
