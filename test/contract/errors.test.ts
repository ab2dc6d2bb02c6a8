// wire-contract.md, E: errors.

import { request as httpRequest } from 'node:http';
import { connect } from 'node:net';
import OpenAI from 'openai';
import { describe, expect, it } from 'vitest';
import { EngineError } from '../../server/engine/port.ts';
import type { TestApp } from '../support/app.ts';
import { ask, client, post, server } from './support.ts';

type ErrorBody = { error: { message: string; type: string; param: string | null; code: string | null } };
const errorOf = async (response: Response) => ((await response.json()) as ErrorBody).error;

const refusing = (error: EngineError) => server({ reply: () => ({ refuse: error }) });
const sdkError = (app: TestApp) =>
  client(app)
    .chat.completions.create(ask() as never)
    .then(
      () => null,
      (error) => error,
    );

describe('E. Errors', () => {
  it('34. are always the error object, with a code that is a string or null', async () => {
    const app = await server();
    for (const response of [
      await post(app, '/v1/chat/completions', '{"model":'),
      await post(app, '/v1/chat/completions', '[]'),
      await post(app, '/v1/chat/completions', ''),
      await post(app, '/v1/chat/completions', ask({ n: 'x' })),
      await post(app, '/nowhere', {}),
      await fetch(`${app.url}/v1/embeddings`),
      await fetch(`${app.url}/v1/models/%ff`),
    ]) {
      const body = (await response.json()) as ErrorBody;
      expect(Object.keys(body)).toEqual(['error']);
      expect(Object.keys(body.error).sort()).toEqual(['code', 'message', 'param', 'type']);
      expect(['string', 'object']).toContain(typeof body.error.code);
      expect(response.status).toBeGreaterThanOrEqual(400);
      expect(response.status).toBeLessThan(500);
    }
  });

  it('35. a prompt that is too long is told by the name of its field', async () => {
    const app = await refusing(new EngineError('context_length_exceeded', 'x', { prompt_tokens: 9, context: 8 }));
    for (const [path, body, field] of [
      ['/v1/chat/completions', ask(), 'messages'],
      ['/v1/completions', { prompt: 'x' }, 'prompt'],
      ['/v1/embeddings', { input: 'x' }, 'input'],
      ['/v1/responses', { input: 'x' }, 'input'],
    ] as const) {
      const error = await errorOf(await post(app, path, body));
      expect(error).toMatchObject({ code: 'context_length_exceeded', param: field });
      expect(error.message).toBe(
        `This model's maximum context length is 8 tokens. However, your ${field} resulted in 9 tokens. ` +
          `Please reduce the length of the ${field}.`,
      );
    }
  });

  it('35. map to the statuses and SDK classes of the table', async () => {
    const bad = await sdkError(await refusing(new EngineError('invalid', 'temperature is out of range')));
    expect(bad).toBeInstanceOf(OpenAI.BadRequestError);
    const busy = await sdkError(await refusing(new EngineError('busy', 'full')));
    expect(busy).toBeInstanceOf(OpenAI.RateLimitError);
    expect(busy.code).toBe('queue_full');
    expect(busy.headers.get('retry-after')).toMatch(/^\d+$/);
    const ours = await sdkError(await refusing(new EngineError('internal', 'boom')));
    expect(ours).toBeInstanceOf(OpenAI.InternalServerError);
    expect(ours.message).not.toContain('boom');
    const unknown = await client(await server())
      .models.retrieve('nope')
      .then(
        () => null,
        (error) => error,
      );
    expect(unknown).toBeInstanceOf(OpenAI.NotFoundError);
  });

  it('35. 401 without a key or with a wrong one, and a challenge', async () => {
    const app = await server({ settings: { apiKey: ['right'] } });
    const wrong: Array<Record<string, string>> = [
      {},
      { authorization: 'Bearer wrong' },
      { authorization: 'Basic cmlnaHQ=' },
    ];
    for (const headers of wrong) {
      const response = await post(app, '/v1/chat/completions', ask(), { headers });
      expect(response.status).toBe(401);
      expect(response.headers.get('www-authenticate')).toBe('Bearer');
      expect(await errorOf(response)).toMatchObject({ code: 'invalid_api_key' });
    }
    for (const path of ['//v1/models', '/v1/models/', '/v1%2fmodels', '/V1/models', '/metrics', '/nowhere']) {
      expect([path, (await fetch(app.url + path)).status]).toEqual([path, 401]);
    }
    expect(
      (await post(app, '/v1/chat/completions', ask(), { headers: { authorization: 'Bearer right' } })).status,
    ).toBe(200);
    expect((await post(app, '/v1/chat/completions', ask(), { headers: { 'x-api-key': 'right' } })).status).toBe(200);
    expect((await fetch(`${app.url}/health`)).status).toBe(200);
  });

  it('35. 413 reaches a client that sends its whole body before it reads', async () => {
    const app = await server({ settings: { bodyLimitMb: 1 } });
    const length = 24 * 1024 * 1024;
    const socket = connect(Number(new URL(app.url).port), '127.0.0.1');
    const head = `POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n`;
    for (const body of [
      `Content-Length: ${length}\r\n\r\n`,
      `Transfer-Encoding: chunked\r\n\r\n${length.toString(16)}\r\n`,
    ]) {
      socket.pause();
      socket.write(head + body);
      await new Promise((resolve) => socket.write('x'.repeat(length), resolve));
      if (body.startsWith('T')) socket.write('\r\n0\r\n\r\n');
      const answer = await new Promise((resolve) => socket.once('data', resolve).resume());
      expect(String(answer)).toMatch(/^HTTP\/1\.1 413 [\s\S]*request_too_large/);
    }
    socket.destroy();
  });

  it('35. 404, 405, 413 and 415', async () => {
    const app = await server({ settings: { bodyLimitMb: 1 } });
    expect(await errorOf(await post(app, '/v1/chat', {}))).toMatchObject({
      message: 'Unknown request URL: POST /v1/chat. What there is: GET /docs.',
      code: 'unknown_url',
    });
    for (const url of ['/chat/completions', '/v1/v1/chat/completions', '/v1/chat/completions/']) {
      const message = `Unknown request URL: POST ${url}. It is /v1/chat/completions here: the base URL of clients ends in /v1.`;
      expect(await errorOf(await post(app, url, {}))).toMatchObject({ message, code: 'unknown_url' });
    }
    const slash = await fetch(`${app.url}/v1/responses/`, { method: 'DELETE' });
    expect([slash.status, (await errorOf(slash)).code]).toEqual([404, 'unknown_url']);
    const method = await fetch(`${app.url}/v1/chat/completions`, { method: 'DELETE' });
    expect([method.status, method.headers.get('allow')]).toEqual([405, 'POST, GET']);
    const type = await post(app, '/v1/chat/completions', 'x=1', { headers: { 'content-type': 'text/plain' } });
    expect(type.status).toBe(415);
    const packed = await post(app, '/v1/chat/completions', 'x', { headers: { 'content-encoding': 'gzip' } });
    expect([packed.status, (await errorOf(packed)).message]).toEqual([415, expect.stringContaining('compressed')]);
    const large = await post(app, '/v1/chat/completions', ask({ user: 'x'.repeat(1024 * 1024) }));
    expect(large.status).toBe(413);
    expect(await errorOf(large)).toMatchObject({ code: 'request_too_large' });
  });

  it('35. says what there is instead of those parts of OpenAI’s API that are not served', async () => {
    const app = await server({ settings: { basePath: '/llm' } });
    const sdk = client(app, { baseURL: `${app.url}/llm/v1` });
    const message = (call: PromiseLike<unknown>) =>
      call.then(
        () => 'ok',
        (error: Error) => [error.constructor.name, error.message],
      );
    const refused = (words: string) => ['NotFoundError', expect.stringContaining(words)];
    const compacted = await message(sdk.responses.compact({ model: 'tiny', input: 'x' }));
    expect(compacted).toEqual(refused('POST /llm/v1/responses/compact. Conversations are not compacted here'));
    expect(await message(sdk.conversations.create({}))).toEqual(refused('previous_response_id'));
    expect(await message(sdk.files.list())).toEqual(refused('data: URLs'));
    expect(await message(sdk.vectorStores.search('vs_1', { query: 'x' }))).toEqual(refused('/v1/embeddings'));
    expect(await message(sdk.beta.threads.messages.list('thread_1'))).toEqual(refused('no threads'));
    for (const path of ['/filesystem', '/v1/filesystem', '/llm/v1/filesystem']) {
      expect((await errorOf(await fetch(app.url + path))).message).toContain('What there is: GET /docs.');
    }
  });

  it('35. 503 while loading and when the engine is dead, with Retry-After', async () => {
    const loading = await server({ loading: true });
    for (const path of ['/health', '/health/ready', '/v1/models']) {
      const response = await fetch(loading.url + path);
      expect([path, response.status, response.headers.has('retry-after')]).toEqual([path, 503, true]);
      expect(await errorOf(response)).toMatchObject({ code: 'model_loading', type: 'unavailable_error' });
    }
    expect((await fetch(`${loading.url}/health/live`)).status).toBe(200);
    const dead = await server();
    dead.engine.dead = new EngineError('device', 'CUDA error 700');
    expect((await fetch(`${dead.url}/health`)).status).toBe(503);
    expect((await post(dead, '/v1/chat/completions', ask())).status).toBe(503);
  });

  it('36. are bounded, name the field, and leak nothing', async () => {
    const app = await server();
    const long = 'x'.repeat(100_000);
    const many = Array.from({ length: 5000 }, () => ({ role: 'x'.repeat(1000), content: 1 }));
    for (const body of [
      ask({ messages: many }),
      ask({ [long]: 1 }),
      ask({ model: 'm'.repeat(500) }),
      { model: long },
    ]) {
      const text = await (await post(app, '/v1/chat/completions', body)).text();
      expect(text.length).toBeLessThan(1500);
      expect(text).not.toMatch(/\bat .*\.ts|node_modules|\/work/);
    }
    const error = await errorOf(
      await post(app, '/v1/chat/completions', ask({ messages: [{ role: 'user', content: 5 }] })),
    );
    expect(error.param).toBe('messages[0].content');
  });

  it('37. every response has x-request-id; a short printable one is echoed', async () => {
    const app = await server();
    const id = async (given?: string) => {
      const headers: Record<string, string> = given === undefined ? {} : { 'x-request-id': given };
      const response = await post(app, '/v1/chat/completions', ask({ stream: true }), { headers });
      await response.text();
      return response.headers.get('x-request-id');
    };
    expect(await id('my-id-1')).toBe('my-id-1');
    expect(await id()).toMatch(/^[0-9a-f-]{36}$/);
    expect(await id('x'.repeat(200))).toMatch(/^[0-9a-f-]{36}$/);
    expect((await fetch(`${app.url}/nowhere`)).headers.get('x-request-id')).toBeTruthy();
    const answer = await client(app).chat.completions.create(ask() as never);
    expect(answer._request_id).toBeTruthy();
  });

  it('38. Retry-After is honoured by the SDK', async () => {
    const busy = new EngineError('busy', 'full');
    const app = await server({ reply: (_request, index) => (index === 0 ? { refuse: busy } : { tokens: ['ok'] }) });
    const answer = await client(app, { maxRetries: 1 }).chat.completions.create(ask() as never);
    expect(answer.choices[0]!.message.content).toBe('ok');
    expect(app.engine.requests).toHaveLength(2);
  });

  it('39. preflight and HEAD need no key', async () => {
    const app = await server({ settings: { apiKey: ['k'], corsOrigins: ['http://page.example'] } });
    const preflight = await fetch(`${app.url}/v1/chat/completions`, {
      method: 'OPTIONS',
      headers: {
        origin: 'http://page.example',
        'access-control-request-method': 'POST',
        'access-control-request-headers': 'authorization,content-type',
      },
    });
    expect(preflight.status).toBe(204);
    expect(preflight.headers.get('access-control-allow-origin')).toBe('http://page.example');
    expect(preflight.headers.get('access-control-allow-headers')).toMatch(/authorization/i);
    // What there is of routes: responses can be deleted.
    for (const { method } of app.app.definitions) {
      expect(preflight.headers.get('access-control-allow-methods')?.split(', ')).toContain(method);
    }
    expect((await fetch(`${app.url}/health`, { method: 'HEAD' })).status).toBe(200);
    const headers = { authorization: 'Bearer k', origin: 'http://page.example' };
    const answer = await post(app, '/v1/chat/completions', ask({ stream: true }), { headers });
    await answer.text();
    expect(answer.headers.get('access-control-expose-headers')).toMatch(/x-request-id/);
    expect(answer.headers.get('access-control-allow-origin')).toBe('http://page.example');
  });

  it('39. the preflight allows every header that the SDK sends from a browser', async () => {
    const app = await server({ settings: { corsOrigins: ['*'] } });
    let sent: string[] = [];
    const spy = (url: string | URL | Request, init?: RequestInit) => {
      sent = [...new Headers(init?.headers).keys()];
      return fetch(url, init);
    };
    await client(app, { fetch: spy, dangerouslyAllowBrowser: true }).chat.completions.create(ask() as never);
    expect(sent).toContain('x-stainless-lang');
    const preflight = await fetch(`${app.url}/v1/chat/completions`, {
      method: 'OPTIONS',
      headers: {
        origin: 'http://page.example',
        'access-control-request-method': 'POST',
        'access-control-request-headers': sent.join(','),
      },
    });
    const allowed = preflight.headers.get('access-control-allow-headers')!.toLowerCase().split(/ *, */);
    expect(allowed).toEqual(expect.arrayContaining(sent));
  });

  it('39. CORS is off by default, and foreign Host names are refused', async () => {
    const app = await server();
    const response = await post(app, '/v1/chat/completions', ask(), { headers: { origin: 'http://evil.example' } });
    expect(response.headers.has('access-control-allow-origin')).toBe(false);
    const status = (host: string) =>
      new Promise((resolve, reject) => {
        httpRequest(`${app.url}/v1/models`, { headers: { host } }, (answer) => resolve(answer.resume().statusCode))
          .on('error', reject)
          .end();
      });
    expect(await status('evil.example')).toBe(403);
    for (const host of ['localhost:1', '127.0.0.1', '[::1]:8080', '192.168.1.7']) expect(await status(host)).toBe(200);
  });
});
