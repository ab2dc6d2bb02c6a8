// The server as a process of its own, with the model that ships: SIGTERM in the middle of its work, SIGKILL and another
// start. Needs engine-native/build/libhearth.so, as serve.test.ts does.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { defaultLibrary } from '../../server/engine/native/library.ts';
import { ServerProcess } from '../load/server-process.ts';

const library = process.env.HEARTH_ENGINE_LIBRARY ?? defaultLibrary;
const servers: ServerProcess[] = [];

beforeAll(() => {
  if (!existsSync(library)) throw new Error(`${library} is not built: run npm test, or scripts/build-native.mjs`);
});
afterEach(() => {
  for (const server of servers.splice(0)) server.kill();
});

async function start(extra: string[] = []): Promise<ServerProcess> {
  const server = new ServerProcess(['--device', 'cpu', '--engine-library', library, ...extra]);
  servers.push(server);
  await server.ready();
  return server;
}

/** A stream of many tokens; resolves with all of it, or with what came before the connection broke. */
function begin(server: ServerProcess, maxTokens: number) {
  const body = { messages: [{ role: 'user', content: 'Tell me a story.' }], stream: true, ignore_eos: true };
  let text = '';
  let first = () => {};
  const begun = new Promise<void>((resolve) => {
    first = resolve;
  });
  const ended = (async () => {
    const response = await fetch(`${server.url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ ...body, max_tokens: maxTokens, temperature: 1, speculative: false }),
    });
    const decoder = new TextDecoder();
    for await (const piece of response.body!) {
      text += decoder.decode(piece, { stream: true });
      if (text.includes('"content":"') && text.length > 600) first();
    }
    return text;
  })().catch(() => `${text}\nBROKEN`);
  return { begun, ended };
}

/** Processor time of a process, all its threads, so far; 0 once it is gone. In place of the time a busy machine takes. */
function cpuSeconds(pid: number): number {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ');
    return (Number(fields[11]) + Number(fields[12])) / 100; // ticks, a hundred a second on Linux
  } catch {
    return 0;
  }
}

const childrenOf = (pid: number): string[] =>
  readdirSync('/proc')
    .filter((entry) => /^\d+$/.test(entry))
    .filter((entry) => {
      try {
        return new RegExp(`^PPid:\\s+${pid}$`, 'm').test(readFileSync(`/proc/${entry}/status`, 'utf8'));
      } catch {
        return false;
      }
    });

describe('SIGTERM', () => {
  it('lets running streams finish, refuses new requests, and exits with 0', async () => {
    const server = await start();
    const streams = Array.from({ length: 6 }, () => begin(server, 200));
    await Promise.all(streams.map(({ begun }) => begun));
    server.stop();
    const ask = () =>
      fetch(`${server.url}/v1/models`).then(
        (response) => response.status,
        () => 0,
      );
    let late = await ask();
    while (late === 200) late = await ask(); // The signal is on its way.
    expect([503, 0]).toContain(late);
    for (const { ended } of streams) expect((await ended).slice(-40)).toMatch(/data: \[DONE\]\n\n$/);
    expect(await server.exited).toBe(0);
    expect(server.problems).toEqual([]);
  }, 180_000);

  it('is one however often it comes at once: npm, the launcher and a service manager all pass it on', async () => {
    const server = await start();
    const { begun, ended } = begin(server, 1000);
    await begun;
    for (let i = 0; i < 3; i++) {
      server.stop();
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    expect((await ended).slice(-40)).toMatch(/data: \[DONE\]\n\n$/);
    expect(await server.exited).toBe(0);
  }, 180_000);

  it('of npm reaches the program: no shell stands between them', () => {
    const { scripts } = JSON.parse(readFileSync('package.json', 'utf8')) as { scripts: Record<string, string> };
    for (const name of ['start', 'hearth', 'bench']) expect(scripts[name]).toMatch(/^exec node /);
  });

  it('ends what does not finish in time with an error event, and exits with 0 within the limit', async () => {
    const server = await start(['--drain-seconds', '1']);
    const streams = Array.from({ length: 40 }, () => begin(server, 4000));
    await Promise.all(streams.slice(0, 4).map(({ begun }) => begun));
    expect(childrenOf(server.pid)).toEqual([]);
    server.stop();
    const texts = await Promise.all(streams.map(({ ended }) => ended));
    expect(await server.exited).toBe(0);
    let cut = 0;
    for (const text of texts) {
      const last = text.trimEnd().split('\n\n').at(-1)!;
      if (last === 'data: [DONE]') continue;
      // A plain 503 for those that had not begun.
      const isEvent = last.startsWith('data: ');
      if (isEvent) cut++;
      expect(JSON.parse(isEvent ? last.slice(6) : text)).toMatchObject({ error: { code: 'shutting_down' } });
      // Nothing that looks like success came before it.
      expect(text).not.toMatch(/"finish_reason":"/);
    }
    expect(cut).toBeGreaterThan(0);
    expect(server.problems).toEqual([]);
  }, 180_000);
});

describe('SIGTERM while a model loads', () => {
  it('gives the load up and exits with 0 at once', async () => {
    // Random weights of 1.1 billion parameters: some twenty seconds of work.
    const server = new ServerProcess(['--device', 'cpu', '--engine-library', library, '--shape', 'llama-1.1b']);
    servers.push(server);
    const reason = async () => {
      const response = await fetch(`${server.url}/health`).catch(() => null);
      return response?.status === 503 ? ((await response.json()) as { error: { message: string } }).error.message : '';
    };
    while (!server.url || !/weights [1-9]/.test(await reason()))
      await new Promise((resolve) => setTimeout(resolve, 50));
    const before = cpuSeconds(server.pid);
    let spent = before;
    const watch = setInterval(() => {
      spent = Math.max(spent, cpuSeconds(server.pid));
    }, 20);
    server.stop();
    expect(await server.exited).toBe(0);
    clearInterval(watch);
    // Whoever loads to the end works for many times as long.
    expect(spent - before).toBeLessThan(5);
    expect([...server.problems, ...server.errors]).toEqual([]);
  }, 180_000);
});

describe('SIGKILL', () => {
  it('leaves nothing behind: the next start serves as soon as the first did, on the same port', async () => {
    const first = await start();
    const firstSeconds = cpuSeconds(first.pid);
    const port = new URL(first.url).port;
    const streams = Array.from({ length: 4 }, () => begin(first, 4000));
    await Promise.all(streams.map(({ begun }) => begun));
    first.kill();
    expect(await first.exited).toBe('SIGKILL');
    for (const { ended } of streams) expect(await ended).toMatch(/BROKEN$/);
    const second = await start(['--port', port]);
    expect(cpuSeconds(second.pid)).toBeLessThan(firstSeconds * 2 + 3);
    expect((await begin(second, 20).ended).slice(-40)).toMatch(/\[DONE\]\n\n$/);
  }, 180_000);
});
