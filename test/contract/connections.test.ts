// wire-contract.md, F: connections.

import { connect } from 'node:net';
import { describe, expect, it } from 'vitest';
import { gate } from '../support/gate.ts';
import { ask, post, server, textWhen, until } from './support.ts';

const slow = () => ({ tokens: Array.from({ length: 500 }, () => 'word '), everyMs: 10 });

describe('F. Connections', () => {
  it('40. a client that leaves frees its place, streaming or not, before or after the first token', async () => {
    const app = await server({ reply: (_request, index) => (index % 2 ? slow() : { ...slow(), firstMs: 60_000 }) });
    for (const stream of [true, false]) {
      for (let round = 0; round < 2; round++) {
        const before = app.engine.cancelled;
        const leaving = new AbortController();
        const answer = post(app, '/v1/chat/completions', ask({ stream, n: 1 }), { signal: leaving.signal })
          .then((response) => response.text())
          .catch(() => 'left');
        await until(() => app.engine.live.size === 1);
        await new Promise((resolve) => setTimeout(resolve, 30));
        leaving.abort();
        expect(await answer).toBe('left');
        await until(() => app.engine.live.size === 0);
        expect(app.engine.cancelled).toBe(before + 1);
      }
    }
    expect(app.lifecycle.active).toBe(0);
  });

  it('40. survives a storm of 200 clients that leave at random, and has places again after it', async () => {
    // Answers without an end: only a client that leaves frees its place.
    const endless = { tokens: ['word'], after: new Promise<void>(() => {}) };
    const app = await server({
      models: [{ maxSequences: 8 }],
      reply: (request) => (request.maxTokens === 1 ? { tokens: ['still here'] } : endless),
    });
    const storm = Array.from({ length: 200 }, async (_, index) => {
      const leaving = new AbortController();
      // Half leave whenever it is, the others once the engine works, however slow the machine.
      const working = index % 2 ? until(() => app.engine.requests.length > 8) : Promise.resolve();
      const left = working
        .then(() => new Promise((resolve) => setTimeout(resolve, Math.random() * 400)))
        .finally(() => leaving.abort());
      const answer = post(app, '/v1/chat/completions', ask({ stream: index % 3 > 0, n: 1 + (index % 2) }), {
        signal: leaving.signal,
      });
      await answer.then((response) => response.text()).catch(() => {});
      await left;
    });
    await Promise.all(storm);
    const answer = await post(app, '/v1/chat/completions', ask({ max_tokens: 1 }));
    expect(await answer.json()).toMatchObject({ choices: [{ message: { content: 'still here' } }] });
    // Nothing is left: not in the engine, not in the queue in front of it, not among the running requests.
    await until(() => app.engine.live.size === 0 && app.lifecycle.active === 0);
    expect(app.engine.cancelled).toBeGreaterThan(0);
    const metrics = await (await fetch(`${app.url}/metrics`)).text();
    expect(metrics).toMatch(/^vllm:num_requests_waiting\{[^}]*\} 0$/m);
  });

  it('40. a reader that stops reading is dropped after 1 MiB, and others keep their speed', async () => {
    const big = 'x'.repeat(64 * 1024);
    const app = await server({
      reply: (_request, index) => (index === 0 ? { tokens: Array(2000).fill(big), everyMs: 1 } : { tokens: ['quick'] }),
    });
    const body = JSON.stringify(ask({ stream: true }));
    const socket = connect(Number(new URL(app.url).port), '127.0.0.1');
    socket.pause();
    socket.on('error', () => {});
    socket.write(
      `POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    );
    await until(() => app.engine.live.size === 1);
    expect((await post(app, '/v1/chat/completions', ask())).status).toBe(200);
    await until(() => app.engine.live.size === 0);
    expect(app.engine.cancelled).toBe(1);
    socket.destroy();
  });

  it('41. writes white space into a long answer when asked to', async () => {
    const answering = gate();
    const app = await server({
      settings: { heartbeatSeconds: 0.05 },
      reply: () => ({ tokens: ['done'], after: answering.opened }),
    });
    const response = await post(app, '/v1/chat/completions', ask());
    expect(response.headers.get('content-type')).toMatch(/^application\/json/);
    expect(response.headers.get('x-request-id')).toBeTruthy();
    const text = await textWhen(response, /^ {3}/, answering.open);
    expect(text).toMatch(/^ {3,}\{/);
    expect(JSON.parse(text)).toMatchObject({ choices: [{ message: { content: 'done' } }] });
  });

  it('42. keeps idle connections longer than a proxy does, and never cuts an answer', async () => {
    const app = await server();
    expect(app.app.server.keepAliveTimeout).toBeGreaterThan(60_000);
    expect(app.app.server.timeout).toBe(0);
  });

  it('43. accepts Expect: 100-continue', async () => {
    const app = await server();
    const body = JSON.stringify(ask());
    const socket = connect(Number(new URL(app.url).port), '127.0.0.1');
    let received = '';
    socket.on('data', (data) => {
      received += data;
    });
    socket.write(
      'POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n' +
        `Expect: 100-continue\r\nConnection: close\r\nContent-Length: ${body.length}\r\n\r\n`,
    );
    await until(() => received.includes('100 Continue'));
    socket.write(body);
    await until(() => received.includes('Hello, world!'));
    socket.destroy();
  });

  it('42. closes after a stream when the client asked for it', async () => {
    const app = await server();
    const body = JSON.stringify(ask({ stream: true }));
    const socket = connect(Number(new URL(app.url).port), '127.0.0.1');
    socket.resume();
    socket.write(
      'POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n' +
        `Connection: close\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    );
    await new Promise((resolve) => socket.once('end', resolve));
  });

  it('44. works behind a path prefix', async () => {
    const app = await server({ settings: { basePath: '/llm' } });
    expect((await post(app, '/llm/v1/chat/completions', ask())).status).toBe(200);
    expect((await post(app, '/v1/chat/completions', ask())).status).toBe(404);
  });

  it('45. drains: readiness goes, streams finish, new requests are refused', async () => {
    const answering = gate();
    const app = await server({ reply: () => ({ tokens: ['a', 'b', 'c'], after: answering.opened }) });
    const running = post(app, '/v1/chat/completions', ask({ stream: true })).then((response) => response.text());
    await until(() => app.engine.live.size === 1);
    const drained = app.lifecycle.drain(60_000);
    expect((await fetch(`${app.url}/health/ready`)).status).toBe(503);
    const refused = await post(app, '/v1/chat/completions', ask());
    expect([refused.status, refused.headers.has('retry-after')]).toEqual([503, true]);
    answering.open();
    expect(await running).toMatch(/\[DONE\]\n\n$/);
    await drained;
  });

  it('45. drains: what does not finish in time ends with an error event', async () => {
    const app = await server({ reply: slow });
    const running = post(app, '/v1/chat/completions', ask({ stream: true })).then((response) => response.text());
    await until(() => app.engine.live.size === 1);
    await app.lifecycle.drain(100);
    const text = await running;
    expect(JSON.parse(text.trimEnd().split('\n\n').at(-1)!.slice(6))).toMatchObject({
      error: { code: 'shutting_down' },
    });
    expect(app.engine.live.size).toBe(0);
  });

  it('upgrades that are no handshake of a WebSocket are not taken, and the request is answered', async () => {
    const app = await server({ reply: () => ({ tokens: ['Hi'] }) });
    const { port } = new URL(app.url);
    const body = JSON.stringify(ask({ padding: null, messages: [{ role: 'user', content: 'x'.repeat(200_000) }] }));
    // What Java's own client sends with every request over plain HTTP, and curl --http2; and what some proxies do.
    const head = (protocol: string, extra: string) =>
      `POST /v1/chat/completions HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings${extra}\r\nHost: localhost\r\n` +
      `HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: ${protocol}\r\n` +
      `Content-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n`;
    const socket = connect(Number(port), '127.0.0.1');
    let received = '';
    socket.on('data', (data) => {
      received += data;
    });
    // Twice on one connection, the second time with the body in pieces.
    socket.write(head('h2c', '') + body);
    await until(() => received.includes('"content":"Hi"'));
    expect(received).toMatch(/^HTTP\/1\.1 200 OK/);
    received = '';
    const closed = new Promise((resolve) => socket.once('close', resolve));
    socket.write(head('websocket', ', close') + body.slice(0, 10));
    await new Promise((resolve) => setTimeout(resolve, 20));
    socket.write(body.slice(10));
    await closed;
    expect(received).toMatch(/^HTTP\/1\.1 200 OK[\s\S]*"content":"Hi"/);
    expect(app.engine.requests.map(({ text }) => text.length > 200_000)).toEqual([true, true]);
  });
});
