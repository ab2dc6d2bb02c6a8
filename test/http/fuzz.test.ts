// Any body gets a 4xx with an error object or a 200, never a 500, and bad numbers never reach the engine.

import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type TestApp, testApp } from '../support/app.ts';

let app: TestApp;
beforeAll(async () => {
  app = await testApp({ models: [{ vision: { family: 'x', placeholder: '<i>', tokensPerImage: 1 } }] });
});
afterAll(() => app.close());

const send = async (url: string, payload: string) => {
  const response = await app.app.inject({
    method: 'POST',
    url,
    payload,
    headers: { 'content-type': 'application/json' },
  });
  if (response.statusCode !== 200) {
    expect(response.statusCode).toBeGreaterThanOrEqual(400);
    expect([response.statusCode < 500, payload.slice(0, 300)]).toEqual([true, payload.slice(0, 300)]);
    expect(response.json()).toMatchObject({ error: { message: expect.any(String), type: expect.any(String) } });
    expect(response.body.length).toBeLessThan(2000);
  }
  return response;
};

const numbers = [-1, 0, 0.5, 2 ** 31, 2 ** 32, 2 ** 53, 2 ** 63, -(2 ** 63), 1e308, '5', true, [], {}, null];
const numericFields = [
  'n',
  'max_tokens',
  'max_completion_tokens',
  'temperature',
  'top_p',
  'top_k',
  'min_p',
  'seed',
  'frequency_penalty',
  'presence_penalty',
  'repetition_penalty',
  'top_logprobs',
  'min_tokens',
];

describe('bodies', () => {
  it('every numeric field with every odd number: 200 in range, else 400 naming the field', async () => {
    for (const field of numericFields) {
      for (const value of numbers) {
        const body = { messages: [{ role: 'user', content: 'x' }], [field]: value, max_choices: undefined };
        const response = await send('/v1/chat/completions', JSON.stringify(body));
        if (response.statusCode === 400) expect(response.json().error.param).toBe(field);
        else expect(typeof value === 'number' || value === null).toBe(true);
      }
    }
    for (const request of app.engine.requests) {
      const { temperature = 1, topP = 1, seed = 0, topK = 0 } = request.sampling ?? {};
      expect(temperature >= 0 && temperature <= 2 && topP > 0 && topP <= 1 && topK >= 0).toBe(true);
      expect(seed >>> 0).toBe(seed);
    }
  });

  const field = fc.constantFrom(
    ...numericFields,
    'model',
    'messages',
    'stream',
    'stop',
    'tools',
    'tool_choice',
    'response_format',
    'logit_bias',
    'prompt',
    'input',
    'echo',
  );
  const message = fc.record(
    {
      role: fc.constantFrom('user', 'system', 'assistant', 'tool', 'x'),
      content: fc.oneof(fc.string({ unit: 'binary' }), fc.jsonValue({ maxDepth: 3 })),
      tool_calls: fc.jsonValue({ maxDepth: 3 }),
    },
    { requiredKeys: ['role'] },
  );
  const body = fc.tuple(
    fc.array(message, { maxLength: 3 }),
    fc.dictionary(field, fc.jsonValue({ maxDepth: 4 }), { maxKeys: 4 }),
  );

  for (const url of [
    '/v1/chat/completions',
    '/v1/completions',
    '/v1/embeddings',
    '/v1/messages',
    '/v1/messages/count_tokens',
    '/v1/responses',
    '/v1/responses/input_tokens',
    '/tokenize',
    '/detokenize',
    '/apply-template',
    '/admin/models/load',
    '/admin/models/unload',
  ]) {
    it(`any JSON on ${url}`, async () => {
      await fc.assert(
        fc.asyncProperty(body, async ([messages, fields]) => {
          await send(
            url,
            JSON.stringify({ ...(/chat|template|v1\/messages/.test(url) ? { messages } : {}), ...fields }),
          );
        }),
        { numRuns: 60 },
      );
    });
  }

  it('any text', async () => {
    await fc.assert(
      fc.asyncProperty(fc.string({ unit: 'binary' }), async (text) => {
        expect((await send('/v1/chat/completions', text)).statusCode).toBe(400);
      }),
      { numRuns: 100 },
    );
  });

  it('deep, prototype-poisoning and lone-surrogate bodies', async () => {
    const deep = '['.repeat(50_000) + ']'.repeat(50_000);
    for (const payload of [
      deep,
      `{"messages":${deep}}`,
      `{"messages":[{"role":"user","content":"x"}],"tools":[{"type":"function","function":{"name":"f","parameters":{"a":${deep}}}}]}`,
      '{"__proto__":{"admin":true},"messages":[{"role":"user","content":"x"}]}',
    ]) {
      expect((await send('/v1/chat/completions', payload)).statusCode).toBe(400);
    }
    const lone = '{"messages":[{"role":"user","content":"\\ud800 x \\udfff"}]}';
    expect((await send('/v1/chat/completions', lone)).statusCode).toBe(200);
    const { text, literal } = app.engine.requests.at(-1)!;
    expect(literal.at(-1)![1]).toBeLessThanOrEqual(Buffer.byteLength(text));
  });
});

describe('queries', () => {
  const key = fc.oneof(
    fc.constantFrom(
      'limit',
      'order',
      'after',
      'include',
      'include[]',
      'include[0]',
      'metadata[a]',
      'metadata[__proto__]',
    ),
    fc.constantFrom(
      'metadata',
      'metadata[]',
      'metadata[a][b]',
      'metadata[',
      '__proto__',
      '__proto__[x]',
      'constructor[]',
    ),
    fc.string({ unit: 'binary' }),
  );
  const value = fc.oneof(
    fc.constantFrom('', '0', '1', '100', '101', '-1', '1e9', 'asc', 'desc', 'message.input_image.image_url'),
    fc.string({ unit: 'binary' }),
  );
  const raw = fc.stringMatching(/^[a-z[\]%&=;+0-9]{0,40}$/);
  const written = fc
    .array(fc.tuple(key, value), { maxLength: 4 })
    .map((pairs) => new URLSearchParams(pairs).toString());

  it('of lists: 200, or a 400 in few words', async () => {
    const inject = (method: 'GET' | 'POST', url: string, payload?: object) =>
      app.app.inject({ method, url, ...(payload ? { payload } : {}) });
    const messages = [{ role: 'user', content: 'x' }];
    const { id } = (await inject('POST', '/v1/responses', { input: 'x' })).json();
    const { id: chat } = (await inject('POST', '/v1/chat/completions', { messages, store: true })).json();
    const lists = [
      `/v1/responses/${id}/input_items`,
      `/v1/responses/${id}`,
      '/v1/chat/completions',
      `/v1/chat/completions/${chat}/messages`,
    ];
    const seen = new Set<number>();
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...lists), fc.oneof(written, raw), async (url, query) => {
        const { statusCode, body } = await inject('GET', `${url}?${query}`);
        seen.add(statusCode);
        expect([query, [200, 400].includes(statusCode), body.length < 3000]).toEqual([query, true, true]);
      }),
      { numRuns: 500 },
    );
    expect([...seen].sort()).toEqual([200, 400]);
  });
});
