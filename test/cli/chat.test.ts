// hearth chat against servers that fail: every failure is a sentence, and no half answer passes for a whole one.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { run } from '../../server/cli/chat.ts';
import { UsageError } from '../../server/config.ts';

type Handler = (request: IncomingMessage, response: ServerResponse) => void;

let server: Server;
let written = '';
const asked: Array<Record<string, unknown>> = [];

beforeEach(() => {
  written = '';
  asked.length = 0;
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    written += text;
    return true;
  });
  vi.spyOn(console, 'log').mockImplementation((text) => {
    written += `${text}\n`;
  });
});
afterEach(() => {
  vi.restoreAllMocks();
  server.closeAllConnections();
  server.close();
});

const event = (text: string) => `data: ${JSON.stringify({ choices: [{ delta: { content: text } }] })}\n\n`;
const json = (response: ServerResponse, body: object) => response.end(JSON.stringify(body));

/** A server whose models and answers are as given. */
async function serve(answer: Handler, models: Handler = (_, response) => json(response, { data: [{ id: 'm' }] })) {
  server = createServer((request, response) => {
    if (request.url === '/health/live') return response.end();
    if (request.url === '/v1/models') return models(request, response);
    let body = '';
    request.on('data', (piece) => (body += piece));
    request.on('end', () => {
      asked.push(JSON.parse(body));
      answer(request, response);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const problem = (url: string) =>
  run(['--url', url, '--once', 'Hi']).then(
    (code) => code,
    (error: unknown) => {
      expect(error).toBeInstanceOf(UsageError);
      return (error as Error).message;
    },
  );

it('prints an answer, of the model that is the default', async () => {
  const data = [{ id: 'first' }, { id: 'second', default: true }];
  const url = await serve(
    (_, response) => response.end(`${event('Good ')}: ping\n\n${event('day')}data: [DONE]\n\n`),
    (_, response) => json(response, { data }),
  );
  expect([await problem(url), written, asked[0]!.model]).toEqual([0, 'Good day\n', 'second']);
});

it('says that an answer broke off, by a word of the server, by silence or by force', async () => {
  const endings: Array<[(response: ServerResponse) => void, string]> = [
    [
      (response) => response.end(`data: ${JSON.stringify({ error: { message: 'The engine has failed.' } })}\n\n`),
      'the answer broke off: The engine has failed.',
    ],
    [(response) => response.end(), 'the answer broke off: the connection ended before it did'],
    [(response) => response.socket!.destroy(), 'the answer broke off: other side closed'],
  ];
  for (const [end, message] of endings) {
    const url = await serve((_, response) => response.write(event('Half'), () => setTimeout(() => end(response), 20)));
    expect(await problem(url)).toBe(message);
    expect(written).toContain('Half');
    server.close();
  }
});

it('says in words what is no model server, and what a proxy answers in place of one', async () => {
  const html: Handler = (_, response) => response.end('<html>');
  const gone: Handler = (_, response) => response.writeHead(502).end('<html>');
  let url = await serve(html, html);
  expect(await problem(url)).toBe(`what answers at ${url} is no model server`);
  server.close();
  url = await serve(gone, gone);
  expect(await problem(url)).toBe(`${url} answered 502 Bad Gateway`);
  server.close();
  url = await serve(gone);
  expect(await problem(url)).toBe(`${url} answered 502 Bad Gateway`);
  server.close();
  url = await serve(gone, (_, response) => json(response, { data: [] }));
  expect(await problem(url)).toBe('the server serves no model');
});
