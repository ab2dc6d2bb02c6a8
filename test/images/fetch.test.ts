// Pictures from the web when names lie and servers dawdle. Names are resolved by a script here.

import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

const answers: Array<string | Promise<never>> = [];
const asked: string[] = [];
vi.mock('node:dns/promises', () => ({
  lookup: async (host: string) => {
    asked.push(host);
    return [{ address: await answers.shift(), family: 4 }];
  },
}));
const { fetchImage } = await import('../../server/images/fetch.ts');

let server: Server;
let port: number;
let hits: string[];
beforeEach(async () => {
  hits = [];
  answers.length = asked.length = 0;
  server = createServer((request, response) => {
    hits.push(request.url!);
    if (request.url === '/ok') return response.end('picture');
    if (request.url === '/away') return response.writeHead(302, { location: `http://second.test:${port}/ok` }).end();
    if (request.url === '/silent') return;
    response.writeHead(200);
    const drip = setInterval(() => response.write('.'), 20);
    response.on('close', () => clearInterval(drip));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  port = (server.address() as AddressInfo).port;
});
afterEach(() => {
  server.closeAllConnections();
  server.close();
});

const named = { hosts: ['changing.test'], bytesMax: 1000 };

describe('a name whose address changes', () => {
  it('is asked for once a connection, which goes where the answer was looked at', async () => {
    answers.push('127.0.0.1', '169.254.169.254');
    expect(Buffer.from(await fetchImage(`http://changing.test:${port}/ok`, named)).toString()).toBe('picture');
    expect([asked, hits]).toEqual([['changing.test'], ['/ok']]);
  });

  it('is looked at again after a redirect', async () => {
    // The first host is the operator's own; what it leads to is not.
    const any = { hosts: ['*', 'first.test'], bytesMax: 1000 };
    answers.push('127.0.0.1', '127.0.0.1');
    await expect(fetchImage(`http://first.test:${port}/away`, any)).rejects.toThrow(/not allowed/);
    expect([asked, hits]).toEqual([['first.test', 'second.test'], ['/away']]);
  });
});

describe('time', () => {
  const soon = { ...named, timeoutMs: 300 };
  const late = /took too long/;

  it('bounds a body that drips', async () => {
    answers.push('127.0.0.1');
    await expect(fetchImage(`http://changing.test:${port}/drip`, soon)).rejects.toThrow(late);
    expect(hits).toEqual(['/drip']);
  });

  it('bounds a server that says nothing', async () => {
    answers.push('127.0.0.1');
    await expect(fetchImage(`http://changing.test:${port}/silent`, soon)).rejects.toThrow(late);
  });

  it('bounds a name that is never resolved', async () => {
    answers.push(new Promise<never>(() => {}));
    await expect(fetchImage(`http://changing.test:${port}/ok`, soon)).rejects.toThrow(late);
    expect(hits).toEqual([]);
  });
});
