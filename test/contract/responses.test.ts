// wire-contract.md, G: the Responses API and its WebSocket mode, with the SDK's own clients as oracles.

import { readFileSync } from 'node:fs';
import { ResponsesWS } from 'openai/resources/responses/ws';
import { describe, expect, it } from 'vitest';
import { WebSocket } from 'ws';
import { EngineError } from '../../server/engine/port.ts';
import type { TestApp } from '../support/app.ts';
import type { Script } from '../support/scripted-engine.ts';
import { client, post, server, until } from './support.ts';

const templates = readFileSync(
  new URL('../fixtures/chat-templates/cases-huggingface-jinja-e2e.jsonl', import.meta.url),
  'utf8',
);
const chatTemplate = templates
  .split('\n')
  .filter(Boolean)
  .map((line) => JSON.parse(line) as { name: string; chat_template: string })
  .find(({ name }) => name === 'Qwen/Qwen3-0.6B')!.chat_template;
const vision = { family: 'x', placeholder: '<image>', tokensPerImage: 1 };

const serve = (script: Script | ((index: number) => Script), settings = {}) =>
  server({
    settings,
    models: [{ chatTemplate, vision }],
    reply: (_request, index) => (typeof script === 'function' ? script(index) : script),
  });

const fullAnswer = [
  '<think>\nhm\n</think>\n\n',
  'Look',
  'ing.',
  '\n<tool_call>\n{"name": "f", "arguments": {"a"',
  ': 1}}\n</tool_call>',
];
const tools = [{ type: 'function' as const, name: 'f', parameters: { type: 'object', properties: {} }, strict: false }];

describe('G. Responses', () => {
  it('46. answers text', async () => {
    const app = await serve({ tokens: ['Hel', 'lo'], promptTokens: 5, cachedTokens: 2 });
    const answer = await client(app).responses.create({ model: 'tiny', input: 'Hi', instructions: 'Be kind.' });
    expect(answer.output_text).toBe('Hello');
    expect(answer).toMatchObject({
      object: 'response',
      status: 'completed',
      instructions: 'Be kind.',
      usage: { input_tokens: 5, output_tokens: 2, total_tokens: 7, input_tokens_details: { cached_tokens: 2 } },
    });
    expect(app.engine.requests[0]!.text).toContain('system\nBe kind.');
  });

  it('46. streams named events with growing numbers, and no [DONE]', async () => {
    const app = await serve({ tokens: fullAnswer });
    const text = await (await post(app, '/v1/responses', { input: 'Hi', stream: true, tools })).text();
    expect(text).not.toContain('[DONE]');
    const events = text
      .trimEnd()
      .split('\n\n')
      .map((block) => {
        const [name, data] = block.split('\n');
        const event = JSON.parse(data!.slice(6));
        expect(name).toBe(`event: ${event.type}`);
        return event;
      });
    expect(events.map((event) => event.sequence_number)).toEqual(events.map((_, index) => index));
    expect(events[0].type).toBe('response.created');
    expect(events.at(-1)).toMatchObject({ type: 'response.completed', response: { status: 'completed' } });
    const stream = client(app).responses.stream({ model: 'tiny', input: 'Hi', tools });
    const final = await stream.finalResponse();
    expect(final.output).toMatchObject([
      { type: 'reasoning', content: [{ text: 'hm' }] },
      { type: 'message', status: 'completed', content: [{ type: 'output_text', text: 'Looking.' }] },
      { type: 'function_call', name: 'f', arguments: '{"a": 1}', status: 'completed' },
    ]);
  });

  it('46. incomplete when cut, failed when the engine fails, plain status before that', async () => {
    const cut = await serve({ tokens: ['a', 'b'] });
    const short = await client(cut).responses.create({ model: 'tiny', input: 'Hi', max_output_tokens: 1 });
    expect(short).toMatchObject({ status: 'incomplete', incomplete_details: { reason: 'max_output_tokens' } });
    const failing = await serve({ tokens: ['a'], fail: new EngineError('internal', 'boom') });
    const text = await (await post(failing, '/v1/responses', { input: 'Hi', stream: true })).text();
    expect(text.trimEnd().split('\n\n').at(-1)).toMatch(/^event: response\.failed\n/);
    expect((await post(cut, '/v1/responses', { input: [], stream: true })).status).toBe(400);
    expect((await post(cut, '/v1/responses', { input: 'x', tools: [{ type: 'web_search' }] })).status).toBe(400);
  });

  it('46. goes on from previous_response_id, with calls, results and pictures', async () => {
    const app = await serve((index) => ({ tokens: index === 0 ? fullAnswer : ['done'] }));
    const data = readFileSync(new URL('../fixtures/images/pillow-hopper.png', import.meta.url)).toString('base64');
    const sdk = client(app);
    const first = await sdk.responses.create({
      model: 'tiny',
      tools,
      input: [
        {
          role: 'user',
          content: [
            { type: 'input_text', text: 'See:' },
            { type: 'input_image', image_url: `data:image/png;base64,${data}`, detail: 'low' },
          ],
        },
      ],
    });
    const call = first.output.find((item) => item.type === 'function_call')!;
    const second = await sdk.responses.create({
      model: 'tiny',
      tools,
      previous_response_id: first.id,
      input: [
        {
          type: 'function_call_output',
          call_id: call.call_id,
          output: [
            { type: 'input_text', text: 'forty-two' },
            { type: 'input_image', image_url: `data:image/png;base64,${data}` },
          ],
        },
      ],
    });
    expect(second.output_text).toBe('done');
    const { text, images } = app.engine.requests[1]!;
    expect(images).toMatchObject([
      { width: 128, detail: 'low' },
      { width: 128, detail: 'auto' },
    ]);
    for (const part of [
      'See:\n<image>',
      'Looking.',
      '{"name": "f", "arguments": {"a": 1}}',
      '<tool_response>\nforty-two\n<image>\n</tool_response>',
    ]) {
      expect(text).toContain(part);
    }
    // The whole conversation sent by hand is the same prompt.
    await sdk.responses.create({ model: 'tiny', tools, previous_response_id: second.id, input: 'And now?' });
    expect(app.engine.requests[2]!.text).toContain('done<|im_end|>\n<|im_start|>user\nAnd now?');
    expect(app.engine.requests[2]!.images).toHaveLength(2);
  });

  it('46. gives a response again by its id, and forgets it', async () => {
    const app = await serve({ tokens: fullAnswer });
    const sdk = client(app);
    const first = await sdk.responses.create({ model: 'tiny', input: 'Hi', tools, metadata: { a: 'b' } });
    const { output_text: _, ...sent } = first;
    expect(await sdk.responses.retrieve(first.id)).toMatchObject(sent);
    await sdk.responses.delete(first.id);
    const unkept = await sdk.responses.create({ model: 'tiny', input: 'Hi', store: false });
    for (const id of [first.id, unkept.id, 'resp_x']) {
      await expect(sdk.responses.retrieve(id)).rejects.toMatchObject({ status: 404, code: 'response_not_found' });
      await expect(sdk.responses.delete(id)).rejects.toMatchObject({ status: 404, code: 'response_not_found' });
    }
    const streamed = await fetch(`${app.url}/v1/responses/x?stream=true`);
    expect(streamed.status).toBe(400);
  });

  it('46. previous_response_id: unknown, not stored, or of another key', async () => {
    const app = await serve({ tokens: ['a'] }, { apiKey: ['one', 'two'] });
    const [one, two] = ['one', 'two'].map((apiKey) => client(app, { apiKey }));
    const kept = await one!.responses.create({ model: 'tiny', input: 'x' });
    const lost = await one!.responses.create({ model: 'tiny', input: 'x', store: false });
    const code = (sdk: typeof one, id: string) =>
      sdk!.responses.create({ model: 'tiny', input: 'y', previous_response_id: id }).then(
        () => 'ok',
        (error) => error.code,
      );
    expect(await code(one, kept.id)).toBe('ok');
    for (const [sdk, id] of [
      [two, kept.id],
      [one, lost.id],
      [one, 'resp_nope'],
    ] as const) {
      expect(await code(sdk, id)).toBe('previous_response_not_found');
    }
  });

  it('46. takes items of earlier answers by reference, as the AI SDK sends them', async () => {
    const app = await serve((index) => ({ tokens: index === 0 ? fullAnswer : ['done'] }), { apiKey: ['one', 'two'] });
    const [one, two] = ['one', 'two'].map((apiKey) => client(app, { apiKey }));
    const first = await one!.responses.create({ model: 'tiny', tools, input: 'Look.' });
    const call = first.output.find((item) => item.type === 'function_call')!;
    const input = [
      { role: 'user' as const, content: 'Look.' },
      ...first.output.map(({ id }) => ({ type: 'item_reference' as const, id: id! })),
      { type: 'function_call_output' as const, call_id: call.call_id, output: 'forty-two' },
    ];
    const second = await one!.responses.create({ model: 'tiny', tools, input });
    expect(second.output_text).toBe('done');
    const byHand = [{ type: 'function_call_output' as const, call_id: call.call_id, output: 'forty-two' }];
    await one!.responses.create({ model: 'tiny', tools, previous_response_id: first.id, input: byHand });
    expect(app.engine.requests[1]!.text).toBe(app.engine.requests[2]!.text);
    await expect(two!.responses.create({ model: 'tiny', tools, input })).rejects.toMatchObject({
      status: 404,
      code: 'item_not_found',
      param: 'input',
    });
    await one!.responses.delete(second.id);
    await one!.responses.delete(first.id);
    // The third response still has them.
    expect((await one!.responses.create({ model: 'tiny', tools, input })).output_text).toBe('done');
  });

  it('46. says what is wrong with an item, by its own type', async () => {
    const app = await serve({ tokens: ['a'] });
    const words = async (item: object) => {
      const answer = await post(app, '/v1/responses', { input: [item] });
      return ((await answer.json()) as { error: { message: string } }).error.message;
    };
    expect(await words({ type: 'web_search_call', id: 'x' })).toMatch(
      /input\[0\]': must be a message, function_call, /,
    );
    expect(await words({ type: 'function_call', name: 'f', arguments: '{}' })).toMatch(/input\[0\]\.call_id'/);
    expect(await words({ role: 'nobody', content: 'x' })).toMatch(/input\[0\]\.role'/);
    expect(await words({ role: 'user', content: [{ type: 'input_audio' }] })).toMatch(/audio is not taken/);
  });

  it('46. formats and choices become constraints', async () => {
    const app = await serve({ tokens: ['{}'] });
    const schema = { type: 'object', properties: {} };
    await post(app, '/v1/responses', { input: 'x', text: { format: { type: 'json_schema', name: 'n', schema } } });
    await post(app, '/v1/responses', { input: 'x', tools, tool_choice: { type: 'function', name: 'f' } });
    expect(app.engine.requests.map((request) => request.grammar)).toMatchObject([
      { type: 'json_schema', spec: schema },
      { type: 'tools', spec: { required: true, parallel: false } },
    ]);
  });
});

const open = (app: TestApp, path = '/v1/responses', headers = {}) =>
  new Promise<WebSocket>((resolve, reject) => {
    const socket = new WebSocket(app.url.replace('http', 'ws') + path, { headers });
    socket.once('open', () => resolve(socket));
    socket.once('error', reject);
  });

/** Sends a message and collects events until one ends the turn. */
function turn(socket: WebSocket, message: unknown): Promise<Array<Record<string, never> & { type: string }>> {
  return new Promise((resolve) => {
    const events: Array<Record<string, never> & { type: string }> = [];
    const listen = (data: Buffer) => {
      const event = JSON.parse(data.toString());
      events.push(event);
      if (/^(error|response\.(completed|incomplete|failed))$/.test(event.type)) {
        socket.off('message', listen);
        resolve(events);
      }
    };
    socket.on('message', listen);
    socket.send(typeof message === 'string' ? message : JSON.stringify(message));
  });
}

const create = (extra: object = {}) => ({ type: 'response.create', model: 'tiny', input: 'Hi', ...extra });

describe('G. WebSocket', () => {
  it('47. the SDK’s own client gets its events', async () => {
    const app = await serve({ tokens: ['Hel', 'lo'] });
    const ws = new ResponsesWS(client(app));
    const text = await new Promise<string>((resolve, reject) => {
      let all = '';
      ws.on('response.output_text.delta', (event) => {
        all += event.delta;
      });
      ws.on('response.completed', () => resolve(all));
      ws.on('error', reject);
      ws.send(create() as never);
    });
    expect(text).toBe('Hello');
    ws.close();
  });

  it('47. a later turn sends only what is new, also with store: false', async () => {
    const app = await serve({ tokens: ['Hello'] });
    const socket = await open(app);
    const first = await turn(socket, create({ store: false }));
    const { id } = (first.at(-1) as unknown as { response: { id: string } }).response;
    const second = await turn(socket, create({ store: false, previous_response_id: id, input: 'Again' }));
    expect(second.at(-1)!.type).toBe('response.completed');
    expect(app.engine.requests[1]!.text).toMatch(/Hi<\|im_end\|>[\s\S]*Hello<\|im_end\|>[\s\S]*Again/);
    const other = await open(app);
    const [lost] = await turn(other, create({ previous_response_id: id }));
    expect(lost).toMatchObject({ type: 'error', error: { code: 'previous_response_not_found' } });
    socket.close();
    other.close();
  });

  it('47. bad messages are error events, and the socket stays', async () => {
    const app = await serve({ tokens: ['a'] });
    const socket = await open(app);
    for (const message of [
      '{',
      '[]',
      { type: 'other' },
      create({ stream: true }),
      create({ input: 5 }),
      create({ model: 'nope' }),
      `{"type":"response.create","input":[${'{},'.repeat(200_000)}{}]}`,
    ]) {
      const [event] = await turn(socket, message);
      expect(event).toMatchObject({ type: 'error', error: { message: expect.any(String) } });
    }
    expect((await turn(socket, create({ stream: null }))).at(-1)!.type).toBe('response.completed');
    socket.close();
  });

  it('47. a frame over the limit closes with 1009', async () => {
    const app = await serve({ tokens: ['a'] }, { bodyLimitMb: 1 });
    const socket = await open(app);
    socket.on('error', () => {});
    const code = new Promise((resolve) => socket.once('close', resolve));
    socket.send('x'.repeat(2 * 1024 * 1024));
    expect(await code).toBe(1009);
  });

  it('47. auth is at the handshake, closing cancels what runs, and plain GET is told so', async () => {
    const app = await serve({ tokens: Array(500).fill('word'), everyMs: 10 }, { apiKey: ['k'] });
    await expect(open(app)).rejects.toThrow(/401/);
    const socket = await open(app, '/v1/responses', { authorization: 'Bearer k' });
    socket.send(JSON.stringify(create()));
    socket.send(JSON.stringify(create()));
    await until(() => app.engine.live.size === 1);
    socket.close();
    await until(() => app.engine.live.size === 0 && app.lifecycle.active === 0);
    expect(app.engine.requests).toHaveLength(1);
    const plain = await fetch(`${app.url}/v1/responses`, { headers: { authorization: 'Bearer k' } });
    expect(plain.status).toBe(400);
  });

  it('47. a server that stops says goodbye, and waits for nobody', async () => {
    const app = await serve({ tokens: ['a'] });
    const socket = await open(app);
    const silent = await open(app);
    silent.pause();
    const end = new Promise((resolve) => socket.once('close', (code, reason) => resolve([code, String(reason)])));
    const begin = performance.now();
    await app.app.close(); // A polite ws server would wait 30 s for the silent one.
    expect(await end).toEqual([1001, 'The server is shutting down.']);
    expect(performance.now() - begin).toBeLessThan(25_000);
    silent.terminate();
  });

  it('47. pages of other origins open none, unless they may call the API or show a key', async () => {
    const app = await serve({ tokens: ['a'] }, { corsOrigins: ['https://app.example'] });
    for (const origin of ['https://evil.example', 'http://127.0.0.1:1', 'null']) {
      await expect(open(app, '/v1/responses', { origin })).rejects.toThrow(/403/);
    }
    for (const origin of [app.url, 'https://app.example']) (await open(app, '/v1/responses', { origin })).close();
    const keyed = await serve({ tokens: ['a'] }, { apiKey: ['k'] });
    const headers = { origin: 'https://tool.example', authorization: 'Bearer k' };
    (await open(keyed, '/v1/responses', headers)).close();
  });
});
