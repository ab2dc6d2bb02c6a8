// What there is around stored responses: their input items, the tokens of a prompt, cancelling; by the wire and the SDK.

import { readFileSync } from 'node:fs';
import OpenAI from 'openai';
import { afterEach, describe, expect, it } from 'vitest';
import { type TestApp, testApp } from '../support/app.ts';

const picture = `data:image/png;base64,${readFileSync(new URL('../fixtures/images/pillow-hopper.png', import.meta.url)).toString('base64')}`;
const vision = { family: 'x', placeholder: '<image>', tokensPerImage: 4 };

let app: TestApp;
let sdk: OpenAI;
async function serve(options: Parameters<typeof testApp>[0] = {}): Promise<void> {
  app = await testApp({ listen: true, models: [{ vision }], reply: () => ({ tokens: ['Yes'] }), ...options });
  sdk = new OpenAI({ baseURL: `${app.url}/v1`, apiKey: 'one', maxRetries: 0 });
}
afterEach(() => app.close());

// biome-ignore lint/suspicious/noExplicitAny: whatever the test looks for.
type Answer = Record<string, any>;
const get = async (path: string): Promise<Answer> => {
  const response = await fetch(app.url + path);
  return { status: response.status, allow: response.headers.get('allow'), ...((await response.json()) as Answer) };
};
const post = async (path: string, body: string | object, headers: Record<string, string> = {}): Promise<Answer> => {
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  const json = { 'content-type': 'application/json', ...headers };
  const response = await fetch(app.url + path, { method: 'POST', body: text, headers: json });
  return { status: response.status, ...((await response.json()) as Answer) };
};

describe('GET /v1/responses/{id}/input_items', () => {
  it('lists every kind of item in one form, whatever form it was sent in', async () => {
    await serve();
    const call = { type: 'function_call' as const, call_id: 'c1', name: 'f', arguments: '{}' };
    const image = { type: 'input_image' as const, image_url: picture, detail: 'auto' as const };
    const { id } = await sdk.responses.create({
      model: 'tiny',
      instructions: 'Be brief.',
      input: [
        { role: 'system', content: 'S' },
        { role: 'user', content: [{ type: 'input_text', text: 'Look' }, image] },
        { role: 'assistant', content: 'Before' },
        {
          id: 'msg_mine',
          type: 'message',
          role: 'assistant',
          status: 'incomplete',
          content: [{ type: 'refusal', refusal: 'No' }],
        },
        { type: 'reasoning', id: 'rs_mine', summary: [], content: [{ type: 'reasoning_text', text: 'hm' }] },
        call,
        { type: 'function_call_output', call_id: 'c1', output: [{ type: 'input_text', text: 'Done' }, image] },
        { type: 'function_call_output', call_id: 'c2', output: 'plain' },
      ],
    });
    const { data } = await sdk.responses.inputItems.list(id, { order: 'asc' });
    const hidden = { type: 'input_image', detail: 'auto', file_id: null, image_url: null };
    const output = (text: string) => ({ type: 'output_text', text, annotations: [], logprobs: [] });
    const completed = { id: expect.stringMatching(/^[a-z]+_[0-9a-f]{32}$/), status: 'completed' };
    expect(data).toEqual([
      { ...completed, type: 'message', role: 'system', content: [{ type: 'input_text', text: 'S' }] },
      { ...completed, type: 'message', role: 'user', content: [{ type: 'input_text', text: 'Look' }, hidden] },
      { ...completed, type: 'message', role: 'assistant', content: [output('Before')] },
      { ...completed, type: 'message', role: 'assistant', content: [{ type: 'refusal', refusal: 'No' }] },
      { id: completed.id, type: 'reasoning', summary: [], content: [{ type: 'reasoning_text', text: 'hm' }] },
      { ...completed, ...call },
      {
        ...completed,
        type: 'function_call_output',
        call_id: 'c1',
        output: [{ type: 'input_text', text: 'Done' }, hidden],
      },
      { ...completed, type: 'function_call_output', call_id: 'c2', output: 'plain' },
    ]);
    const shown = await sdk.responses.inputItems.list(id, { order: 'asc', include: ['message.input_image.image_url'] });
    expect(JSON.stringify(shown.data).split(picture)).toHaveLength(3);
    expect(JSON.stringify(shown.data).replaceAll(JSON.stringify(picture), 'null')).toBe(JSON.stringify(data));
  });

  it('has the whole conversation up to the response, the latest first unless asked otherwise', async () => {
    await serve();
    const first = await sdk.responses.create({ model: 'tiny', input: 'One' });
    const second = await sdk.responses.create({ model: 'tiny', input: 'Two', previous_response_id: first.id });
    const { data } = await sdk.responses.inputItems.list(second.id);
    const texts = data.map((item) => (item as unknown as { content: Array<{ text: string }> }).content[0]!.text);
    expect(texts).toEqual(['Two', 'Yes', 'One']);
    expect(data[1]).toEqual(first.output[0]);
    const before = await sdk.responses.inputItems.list(first.id);
    expect(before.data).toEqual([data[2]]);
  });

  it('turns pages, forwards and backwards, over the same ids each time', async () => {
    await serve();
    const input = Array.from({ length: 7 }, (_, at) => ({ role: 'user' as const, content: `n${at}` }));
    const { id } = await sdk.responses.create({ model: 'tiny', input });
    const textsOf = async (query: object) => {
      const texts: string[] = [];
      for await (const item of sdk.responses.inputItems.list(id, query))
        texts.push(JSON.stringify(item).match(/n\d/)![0]);
      return texts.join();
    };
    expect(await textsOf({ order: 'asc', limit: 3 })).toBe('n0,n1,n2,n3,n4,n5,n6');
    expect(await textsOf({ limit: 7 })).toBe('n6,n5,n4,n3,n2,n1,n0');
    const path = `/v1/responses/${id}/input_items`;
    const all = await get(`${path}?limit=100`);
    expect(all).toMatchObject({ object: 'list', has_more: false, first_id: all.data[0].id, last_id: all.data[6].id });
    expect(await get(`${path}?limit=2&after=${all.data[3].id}`)).toMatchObject({
      data: [{ id: all.data[4].id }, { id: all.data[5].id }],
      has_more: true,
    });
    expect(await get(`${path}?after=${all.data[6].id}`)).toMatchObject({
      data: [],
      first_id: null,
      last_id: null,
      has_more: false,
    });
  });

  it('ends also where a conversation refers twice to one item, and items can be referred to by their ids', async () => {
    await serve();
    const first = await sdk.responses.create({ model: 'tiny', input: 'One' });
    const [listed] = (await sdk.responses.inputItems.list(first.id)).data;
    const reference = { type: 'item_reference' as const, id: listed!.id! };
    const previous_response_id = first.id;
    const { id } = await sdk.responses.create({ model: 'tiny', input: [reference, reference], previous_response_id });
    expect(app.engine.requests[1]!.text).toBe('<s><|user|>One<|assistant|>Yes<|user|>One<|user|>One<|assistant|>');
    const ids: string[] = [];
    for await (const item of sdk.responses.inputItems.list(id, { order: 'asc', limit: 1 })) {
      ids.push(item.id!);
      if (ids.length > 9) break;
    }
    expect([ids.length, new Set(ids).size]).toEqual([4, 4]);
  });

  it('refuses what it does not know, in words', async () => {
    await serve({ settings: { apiKey: ['one', 'two'] } });
    const { id } = await sdk.responses.create({ model: 'tiny', input: 'x' });
    const problem = (query: object, of = id, by = sdk): Promise<unknown> =>
      by.responses.inputItems.list(of, query).then(
        () => null,
        (error: InstanceType<typeof OpenAI.APIError>) => [
          error.status,
          error.param,
          error.code,
          error.message.slice(4),
        ],
      );
    const limits = "Invalid 'limit': must be an integer from 1 to 100.";
    for (const limit of [0, 101, -1, 'abc', '', '1.5', '1e1', '99999999999999999999']) {
      expect(await problem({ limit })).toEqual([400, 'limit', null, limits]);
    }
    expect(await problem({ order: 'up' })).toEqual([400, 'order', null, "Invalid 'order': must be 'asc' or 'desc'."]);
    expect(await problem({ before: 'x' })).toEqual([400, 'before', 'unsupported_parameter', expect.any(String)]);
    expect(await problem({ include: ['file_search_call.results'] })).toEqual([
      400,
      'include[0]',
      null,
      expect.any(String),
    ]);
    expect(await problem({ after: 'msg_x' })).toEqual([400, 'after', null, expect.stringContaining('msg_x')]);
    expect(await problem({}, 'resp_x')).toEqual([404, null, 'response_not_found', expect.any(String)]);
    const other = new OpenAI({ baseURL: `${app.url}/v1`, apiKey: 'two', maxRetries: 0 });
    expect(await problem({}, id, other)).toEqual([404, null, 'response_not_found', expect.any(String)]);
  });

  it('reads a query as it is written elsewhere, and is for GET alone', async () => {
    await serve();
    const { id } = await sdk.responses.create({
      model: 'tiny',
      input: [{ role: 'user', content: [{ type: 'input_image', image_url: picture, detail: 'low' }] }],
    });
    const path = `/v1/responses/${id}/input_items`;
    const include = 'message.input_image.image_url';
    for (const query of [
      `include=${include}`,
      `include[]=${include}&include[]=${include}`,
      `include%5B0%5D=${include}`,
    ]) {
      expect(JSON.stringify(await get(`${path}?${query}&beta=true`))).toContain(picture);
    }
    expect(await get(`${path}?limit=1&limit=2`)).toMatchObject({ status: 400, error: { param: 'limit' } });
    const refused = await fetch(app.url + path, { method: 'POST' });
    expect([refused.status, refused.headers.get('allow')]).toEqual([405, 'GET']);
  });
});

describe('GET /v1/responses/{id}', () => {
  it('takes the queries that ask for nothing else, and refuses the others', async () => {
    await serve();
    const { id } = await sdk.responses.create({ model: 'tiny', input: 'x' });
    const found = await sdk.responses.retrieve(id, { include: ['reasoning.encrypted_content'], stream: false });
    expect(found.output_text).toBe('Yes');
    expect((await sdk.beta.responses.retrieve(id)).id).toBe(id);
    for (const query of ['stream=true', 'starting_after=3', 'include[]=code_interpreter_call.outputs']) {
      expect((await get(`/v1/responses/${id}?${query}`)).status).toBe(400);
    }
  });
});

describe('POST /v1/responses/{id}/cancel', () => {
  it('says that only background responses can be cancelled, and what to do instead', async () => {
    await serve();
    const { id } = await sdk.responses.create({ model: 'tiny', input: 'x' });
    await expect(sdk.responses.cancel(id)).rejects.toThrow(OpenAI.BadRequestError);
    await expect(sdk.responses.cancel('resp_x')).rejects.toThrow(OpenAI.NotFoundError);
    // The Python SDK announces JSON with every request.
    const { status, error } = await post(`/v1/responses/${id}/cancel`, '');
    expect([status, error.message]).toEqual([400, expect.stringContaining('close its connection')]);
    expect(await get(`/v1/responses/${id}/cancel`)).toMatchObject({ status: 405, allow: 'POST' });
    await expect(sdk.responses.create({ model: 'tiny', input: 'x', background: true })).rejects.toMatchObject({
      status: 400,
      param: 'background',
    });
  });
});

describe('POST /v1/responses/input_tokens', () => {
  const bytes = (text: string) => Buffer.byteLength(text);

  it('counts the prompt that a create would send, and generates nothing', async () => {
    await serve();
    const first = await sdk.responses.create({ model: 'tiny', input: 'One' });
    const body = { model: 'tiny', input: 'Two', instructions: 'Brief.', previous_response_id: first.id };
    const counted = await sdk.responses.inputTokens.count(body);
    expect(app.engine.requests).toHaveLength(1);
    await sdk.responses.create(body);
    const { text } = app.engine.requests[1]!;
    expect(text).toContain('<|system|>Brief.<|user|>One<|assistant|>Yes<|user|>Two');
    expect(counted).toEqual({ object: 'response.input_tokens', input_tokens: bytes(text) });
  });

  it('counts pictures as the engine does, which gets no further than accepting them', async () => {
    await serve({ reply: () => ({ promptTokens: 77, tokens: Array(50).fill('x'), everyMs: 5 }) });
    const content = [{ type: 'input_image' as const, image_url: picture, detail: 'auto' as const }];
    expect((await sdk.responses.inputTokens.count({ input: [{ role: 'user', content }] })).input_tokens).toBe(77);
    expect(app.engine.requests[0]!.images).toMatchObject([{ width: 128, height: 128 }]);
    expect(app.engine.cancelled).toBe(1);
  });

  it('refuses what the create would be refused for, and what it has no use for', async () => {
    await serve();
    const refusal = async (body: string | object) => {
      const { status, error } = await post('/v1/responses/input_tokens', body);
      return [status, error.param, error.code];
    };
    const tools = [{ type: 'function', name: 'f', parameters: { type: 'object', properties: {} } }];
    expect(await refusal({ input: 'x', tools })).toEqual([400, 'tools', 'unsupported_value']);
    expect(await refusal({ input: 'x', tool_choice: 'required' })).toEqual([400, 'tool_choice', null]);
    expect(await refusal({ input: 'x', previous_response_id: 'resp_x' })).toEqual([
      400,
      'previous_response_id',
      'previous_response_not_found',
    ]);
    expect(await refusal({ input: 'x', model: 'other' })).toEqual([404, 'model', 'model_not_found']);
    expect(await refusal({ input: 'x', conversation: 'conv_1' })).toEqual([
      400,
      'conversation',
      'unsupported_parameter',
    ]);
    expect(await refusal({ input: 'x', truncation: 'auto' })).toEqual([400, 'truncation', null]);
    expect(await refusal({})).toEqual([400, 'input', null]);
    expect(await refusal('')).toEqual([400, null, null]);
    await expect(sdk.responses.inputTokens.count()).rejects.toThrow(OpenAI.BadRequestError);
    expect(await get('/v1/responses/input_tokens')).toMatchObject({ status: 405, allow: 'POST' });
  });
});
