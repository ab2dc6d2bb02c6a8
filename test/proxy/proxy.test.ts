// Behind nginx and Caddy: tokens arrive one by one, large bodies pass, WebSockets are upgraded, a leaving client frees the
// engine, prefixes work.

import sharp from 'sharp';
import { afterEach, describe, expect, it } from 'vitest';
import { WebSocket } from 'ws';
import { chatBody, type TestApp, testApp } from '../support/app.ts';
import { caddy, nginx, type RunningProxy } from './harness.ts';

let server: TestApp;
let proxy: RunningProxy;
afterEach(async () => {
  await proxy.close();
  await server.close();
});

const vision = { vision: { family: 'llava', placeholder: '<image>', tokensPerImage: 100 } };
const portOf = (url: string) => Number(new URL(url).port);
const post = (path: string, body: unknown, signal?: AbortSignal) =>
  fetch(`${proxy.url}${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
    ...(signal ? { signal } : {}),
  });

for (const [name, start] of [
  ['nginx', nginx],
  ['Caddy', caddy],
] as const) {
  describe(`behind ${name}`, () => {
    it('passes tokens on as they come', async () => {
      server = await testApp({
        listen: true,
        reply: () => ({ tokens: Array.from({ length: 10 }, () => ' tick'), everyMs: 60 }),
      });
      proxy = await start(portOf(server.url));
      const response = await post('/v1/chat/completions', chatBody({ stream: true }));
      const arrivals: number[] = [];
      for await (const chunk of response.body!)
        if (Buffer.from(chunk).includes('tick')) arrivals.push(performance.now());
      expect(arrivals.length).toBeGreaterThan(5);
      expect(arrivals.at(-1)! - arrivals[0]!).toBeGreaterThan(300);
    });

    it('passes a comment on while nothing else is said', async () => {
      server = await testApp({
        listen: true,
        settings: { keepAliveSeconds: 1 },
        reply: () => ({ tokens: ['late'], firstMs: 2500 }),
      });
      proxy = await start(portOf(server.url));
      const response = await post('/v1/chat/completions', chatBody({ stream: true }));
      const text = await response.text();
      expect(text).toMatch(/^:/m);
      expect(text).toContain('[DONE]');
    });

    it('passes a 20 MB picture', async () => {
      server = await testApp({ listen: true, models: [vision], reply: () => ({ tokens: ['seen'] }) });
      proxy = await start(portOf(server.url));
      const side = 2236;
      const noise = Buffer.allocUnsafe(side * side * 3);
      for (let at = 0, state = 1; at < noise.length; at++) {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        noise[at] = state >>> 24;
      }
      const png = await sharp(noise, { raw: { width: side, height: side, channels: 3 } })
        .png({ compressionLevel: 0 })
        .toBuffer();
      const url = `data:image/png;base64,${png.toString('base64')}`;
      expect(url.length).toBeGreaterThan(20_000_000);
      const content = [
        { type: 'image_url', image_url: { url } },
        { type: 'text', text: 'What?' },
      ];
      const response = await post('/v1/chat/completions', chatBody({ messages: [{ role: 'user', content }] }));
      expect(response.status).toBe(200);
      expect(server.engine.requests[0]?.images?.[0]?.width).toBe(side);
    });

    it('upgrades a WebSocket and passes its events on as they come', async () => {
      server = await testApp({
        listen: true,
        reply: () => ({ tokens: Array.from({ length: 10 }, () => ' tick'), everyMs: 60 }),
      });
      proxy = await start(portOf(server.url));
      const socket = new WebSocket(`${proxy.url.replace('http', 'ws')}/v1/responses`);
      await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject));
      const arrivals: number[] = [];
      const done = new Promise<void>((resolve) => {
        socket.on('message', (data) => {
          const { type } = JSON.parse(String(data)) as { type: string };
          if (type === 'response.output_text.delta') arrivals.push(performance.now());
          if (type === 'response.completed') resolve();
        });
      });
      socket.send(JSON.stringify({ type: 'response.create', model: 'default', input: 'tick' }));
      await done;
      expect(arrivals.length).toBeGreaterThan(5);
      expect(arrivals.at(-1)! - arrivals[0]!).toBeGreaterThan(300);
      socket.close();
    });

    it('frees the engine when the client leaves', async () => {
      server = await testApp({
        listen: true,
        reply: () => ({ tokens: Array.from({ length: 10_000 }, () => ' x'), everyMs: 10 }),
      });
      proxy = await start(portOf(server.url));
      const abort = new AbortController();
      const response = await post('/v1/chat/completions', chatBody({ stream: true }), abort.signal);
      await response.body!.getReader().read();
      abort.abort();
      await expect.poll(() => server.engine.live.size, { timeout: 5000 }).toBe(0);
    });
  });
}

describe('under a path prefix', () => {
  for (const [name, start] of [
    ['nginx', nginx],
    ['Caddy', caddy],
  ] as const)
    it(`serves the page, the API and a stream below it, behind ${name}`, async () => {
      server = await testApp({ listen: true, settings: { basePath: '/ai' }, reply: () => ({ tokens: ['hello'] }) });
      proxy = await start(portOf(server.url), '/ai/');
      const answer = await post('/ai/v1/chat/completions', chatBody());
      expect(
        ((await answer.json()) as { choices: Array<{ message: { content: string } }> }).choices[0]?.message.content,
      ).toBe('hello');
      const stream = await post('/ai/v1/chat/completions', chatBody({ stream: true }));
      expect(await stream.text()).toContain('[DONE]');
      const page = await fetch(`${proxy.url}/ai/`);
      expect(page.headers.get('content-type')).toContain('text/html');
      const script = /(?:src|href)="([^"]+\.js)"/.exec(await page.text())?.[1];
      expect((await fetch(new URL(script!, `${proxy.url}/ai/`))).status).toBe(200);
      // What the proxy answers outside the prefix is its own affair (nginx 404, Caddy an empty 200), but it is not Hearth.
      expect(await (await fetch(`${proxy.url}/v1/models`)).text()).not.toContain('"object"');
    });
});
