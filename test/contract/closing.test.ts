// wire-contract.md, F, and robustness.md: clients that close at every byte, of what they send and of what they get, and
// a thousand that only sit there.

import { connect, type Socket } from 'node:net';
import { describe, expect, it } from 'vitest';
import type { TestApp } from '../support/app.ts';
import { ask, post, server, until } from './support.ts';

const rawRequest = (body: string, connection = 'keep-alive') =>
  'POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n' +
  `Connection: ${connection}\r\n` +
  `Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;

const portOf = (app: TestApp) => Number(new URL(app.url).port);
const connected = (app: TestApp) =>
  new Promise<Socket>((resolve, reject) => {
    const socket = connect(portOf(app), '127.0.0.1', () => resolve(socket));
    socket.on('error', reject);
  });

/** Nothing is left of those who closed, and the next is served. */
async function expectFresh(app: TestApp): Promise<void> {
  await until(() => app.lifecycle.active === 0 && app.engine.live.size === 0);
  expect((await post(app, '/v1/chat/completions', ask())).status).toBe(200);
  expect(app.lifecycle.models().statusOf(undefined).inUse).toBeLessThanOrEqual(1);
  await until(() => app.lifecycle.models().statusOf(undefined).inUse === 0);
  const open = await new Promise<number>((resolve) => app.app.server.getConnections((_, count) => resolve(count)));
  expect(open).toBeLessThan(20);
}

/** In tens, so that it takes seconds and not minutes. */
async function inParallel(count: number, work: (at: number) => Promise<void>): Promise<void> {
  let next = 0;
  const worker = async () => {
    while (next < count) await work(next++);
  };
  await Promise.all(Array.from({ length: 10 }, worker));
}

describe('40. a client that closes', () => {
  for (const stream of [true, false]) {
    it(`at every byte of its request (${stream ? '' : 'not '}streamed)`, async () => {
      const app = await server({ reply: () => ({ tokens: ['a', 'b'], everyMs: 5 }) });
      const raw = rawRequest(JSON.stringify(ask({ stream, n: 2 })));
      await inParallel(raw.length + 1, async (at) => {
        const socket = await connected(app);
        socket.on('error', () => {});
        const closed = new Promise((resolve) => socket.once('close', resolve));
        socket.write(raw.slice(0, at), () => (at % 2 ? socket.destroy() : socket.resetAndDestroy()));
        await closed;
      });
      await expectFresh(app);
    }, 60_000);

    it(`at every place of its answer (${stream ? '' : 'not '}streamed)`, async () => {
      const app = await server({ reply: () => ({ tokens: ['a', 'é', '🦔'], everyMs: 1 }) });
      const raw = rawRequest(JSON.stringify(ask({ stream })), 'close');
      // What arrives together cannot be told apart by whoever reads it: every fifth byte meets every piece and more.
      const length = 600 + (await (await post(app, '/v1/chat/completions', ask({ stream }))).text()).length;
      await inParallel(Math.ceil(length / 5), async (at) => {
        const socket = await connected(app);
        socket.on('error', () => {});
        let received = 0;
        const closed = new Promise((resolve) => socket.once('close', resolve));
        socket.on('data', (data) => {
          received += data.length;
          if (received > at * 5) socket.destroy();
        });
        socket.write(raw);
        await closed;
      });
      await expectFresh(app);
    }, 60_000);
  }

  it('in the middle of a frame of the WebSocket mode, and of its handshake', async () => {
    const app = await server({ reply: () => ({ tokens: ['a', 'b'], everyMs: 5 }) });
    const handshake =
      'GET /v1/responses HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
      'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n';
    const payload = Buffer.from(JSON.stringify({ type: 'response.create', model: 'tiny', input: 'Hi' }));
    // A masked text frame; a mask of zeros leaves the text as it is.
    const frame = Buffer.concat([Buffer.from([0x81, 0x80 | payload.length, 0, 0, 0, 0]), payload]);
    const raw = Buffer.concat([Buffer.from(handshake), frame]);
    expect(payload.length).toBeLessThan(126);
    await inParallel(raw.length + 1, async (at) => {
      const socket = await connected(app);
      socket.on('error', () => {});
      const closed = new Promise((resolve) => socket.once('close', resolve));
      socket.write(raw.subarray(0, at), () => socket.destroy());
      await closed;
    });
    await expectFresh(app);
  }, 30_000);
});

describe('a thousand idle connections', () => {
  it('cost others nothing, and a half-sent request holds no place', async () => {
    const app = await server({ models: [{ maxSequences: 4 }] });
    const raw = rawRequest(JSON.stringify(ask()));
    const idle = await Promise.all(
      Array.from({ length: 1000 }, async (_, at) => {
        const socket = await connected(app);
        socket.on('error', () => {});
        socket.write(raw.slice(0, at % 2 ? 0 : raw.length - 5));
        return socket;
      }),
    );
    const costs: number[] = [];
    for (let round = 0; round < 20; round++) {
      const begin = process.cpuUsage();
      expect((await post(app, '/v1/chat/completions', ask())).status).toBe(200);
      const { user, system } = process.cpuUsage(begin);
      costs.push((user + system) / 1000);
    }
    expect(costs.sort((a, b) => a - b)[10]).toBeLessThan(1000); // ms of processor time
    expect(app.engine.requests).toHaveLength(20);
    for (const socket of idle) socket.destroy();
    await expectFresh(app);
  }, 60_000);
});
