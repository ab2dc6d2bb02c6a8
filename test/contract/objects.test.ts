// wire-contract.md, D: the objects that are not streamed.

import { describe, expect, it } from 'vitest';
import { ask, chunks, client, post, server } from './support.ts';

// biome-ignore lint/suspicious/noExplicitAny: the tests say field by field what an answer holds
const json = async (response: Response) => (await response.json()) as Record<string, any>;

describe('D. Non-stream objects', () => {
  it('26. has every required field', async () => {
    const answer = await json(await post(await server(), '/v1/chat/completions', ask()));
    expect(Object.keys(answer)).toEqual(expect.arrayContaining(['id', 'object', 'created', 'model', 'choices']));
    expect(answer['choices'][0]).toMatchObject({
      index: 0,
      message: { role: 'assistant', content: 'Hello, world!', refusal: null },
      logprobs: null,
      finish_reason: 'stop',
    });
  });

  it('27. counts tokens so that they add up', async () => {
    const app = await server({ reply: () => ({ tokens: ['a', 'b'], promptTokens: 9, cachedTokens: 5 }) });
    const { usage } = await json(await post(app, '/v1/chat/completions', ask({ n: 2 })));
    expect(usage).toMatchObject({
      prompt_tokens: 9,
      completion_tokens: 4,
      total_tokens: 13,
      prompt_tokens_details: { cached_tokens: 5 },
      completion_tokens_details: { reasoning_tokens: 0 },
    });
  });

  it('28. gives as many log-probabilities as tokens, streamed or not', async () => {
    const app = await server({ reply: () => ({ tokens: ['a', '', { text: '', special: true }, 'b'], heldBack: 'c' }) });
    const answer = await client(app).chat.completions.create(ask({ logprobs: true, top_logprobs: 2 }) as never);
    const { content } = answer.choices[0]!.logprobs!;
    expect(content).toHaveLength(answer.usage!.completion_tokens);
    expect(content![0]).toEqual({
      token: 'a',
      logprob: -0.25,
      bytes: [97],
      top_logprobs: [
        { token: 'a', logprob: -0.25, bytes: [97] },
        { token: 'a', logprob: -1.25, bytes: [97] },
      ],
    });
    const streamed = await chunks(app, { logprobs: true });
    expect(streamed.flatMap((chunk) => chunk.choices[0]!.logprobs?.content ?? [])).toHaveLength(4);
    for (const bad of [{ top_logprobs: 3 }, { logprobs: true, top_logprobs: 21 }]) {
      expect((await post(app, '/v1/chat/completions', ask(bad))).status).toBe(400);
    }
  });

  it('29. completions take strings, arrays of them, token ids and arrays of those', async () => {
    const app = await server({ reply: (request) => ({ tokens: [request.text || `#${[...request.ids!]}`] }) });
    const texts = async (prompt: unknown, extra = {}) => {
      const answer = await json(await post(app, '/v1/completions', { model: 'tiny', prompt, ...extra }));
      expect(answer).toMatchObject({ object: 'text_completion' });
      expect(answer['id']).toMatch(/^cmpl-/);
      return (answer['choices'] as Array<{ text: string; index: number }>).map(({ text, index }) => `${index}:${text}`);
    };
    expect(await texts('one')).toEqual(['0:one']);
    expect(await texts(['one', 'two'], { n: 2 })).toEqual(['0:one', '1:one', '2:two', '3:two']);
    expect(await texts([72, 105])).toEqual(['0:#72,105']);
    expect(await texts([[72, 105], [33]], { echo: true })).toEqual(['0:Hi#72,105', '1:!#33']);
  });

  it('29. completions echo the prompt with its log-probabilities', async () => {
    const app = await server({ reply: () => ({ tokens: [' a', ' time'] }) });
    const body = { model: 'tiny', prompt: '<s>Once upon', echo: true, logprobs: 1 };
    const whole = await json(await post(app, '/v1/completions', body));
    expect(whole['choices'][0]).toMatchObject({
      text: '<s>Once upon a time',
      logprobs: {
        tokens: ['<s>', 'Once', ' upon', ' a', ' time'],
        token_logprobs: [null, -0.5, -0.5, -0.25, -0.25],
        text_offset: [0, 3, 7, 12, 14],
      },
    });
    const text = await (await post(app, '/v1/completions', { ...body, stream: true })).text();
    const events = text.split('\n\n').filter((event) => event.startsWith('data: {'));
    const streamed = events.map((event) => JSON.parse(event.slice(6)).choices[0]);
    expect(streamed.map((choice) => choice.text).join('')).toBe('<s>Once upon a time');
    expect(streamed.flatMap((choice) => choice.logprobs?.tokens ?? [])).toHaveLength(5);
    const scored = await json(await post(app, '/v1/completions', { ...body, max_tokens: 0 }));
    expect(app.engine.requests.at(-1)!.kind).toBe('score');
    expect(scored['choices'][0]).toMatchObject({ text: '<s>Once upon', finish_reason: 'length' });
  });

  it('29. completions refuse suffix and ids outside the vocabulary', async () => {
    const app = await server();
    const refused = async (extra: object) => {
      const response = await post(app, '/v1/completions', { model: 'tiny', prompt: 'x', ...extra });
      return [response.status, (await json(response))['error']];
    };
    expect(await refused({ suffix: 'tail' })).toMatchObject([400, { code: 'unsupported_parameter', param: 'suffix' }]);
    expect(await refused({ prompt: [1, 999_999] })).toMatchObject([400, { param: 'prompt' }]);
    expect(await refused({ max_tokens: 0 })).toMatchObject([400, { param: 'max_tokens' }]);
  });

  it('30. lists models, and finds one with a slash in its name', async () => {
    const app = await server({ models: [{ name: 'org/model' }] });
    const list = await client(app).models.list();
    expect(list.data).toMatchObject([{ id: 'org/model', object: 'model', owned_by: 'hearth' }]);
    expect(Number.isInteger(list.data[0]!.created)).toBe(true);
    for (const path of ['org/model', 'org%2Fmodel', 'default']) {
      const response = await fetch(`${app.url}/v1/models/${path}`);
      expect([path, response.status]).toEqual([path, 200]);
    }
    const unknown = await fetch(`${app.url}/v1/models/nope`);
    expect(unknown.status).toBe(404);
    expect((await json(unknown))['error']).toMatchObject({ code: 'model_not_found', param: 'model' });
  });

  it('31. has a stable system_fingerprint', async () => {
    const app = await server();
    const one = await json(await post(app, '/v1/chat/completions', ask()));
    const two = await json(await post(app, '/v1/chat/completions', ask()));
    expect(one['system_fingerprint']).toBe('fp_test');
    expect(two['system_fingerprint']).toBe('fp_test');
  });

  it('32. takes max_tokens and max_completion_tokens, and null as absent', async () => {
    const app = await server();
    await post(app, '/v1/chat/completions', ask({ max_tokens: 2 }));
    await post(app, '/v1/chat/completions', ask({ max_completion_tokens: 3 }));
    expect(app.engine.requests.map((request) => request.maxTokens)).toEqual([2, 3]);
    const nulls = Object.fromEntries(
      ['temperature', 'top_p', 'n', 'seed', 'stop', 'logit_bias', 'tools', 'user', 'stream', 'stream_options'].map(
        (field) => [field, null],
      ),
    );
    expect((await post(app, '/v1/chat/completions', ask(nulls))).status).toBe(200);
    // What is not implemented asks for nothing either when it is null, wherever it stands.
    const message = { role: 'user', content: 'Hi', audio: null };
    const unset = { messages: [message], audio: null, function_call: null, prediction: null, web_search_options: null };
    expect((await post(app, '/v1/chat/completions', unset)).status).toBe(200);
    expect((await post(app, '/v1/completions', { prompt: 'x', suffix: null })).status).toBe(200);
    expect((await post(app, '/v1/responses', { input: 'x', conversation: null, top_logprobs: null })).status).toBe(200);
    const mixed = await json(await post(app, '/v1/chat/completions', ask({ audio: null, web_search_options: {} })));
    expect(mixed['error']).toMatchObject({ code: 'unsupported_parameter', param: 'web_search_options' });
  });

  it('32. accepts fields without effect, refuses others by name, and drops them when lenient', async () => {
    const ignored = { user: 'u', metadata: { a: 'b' }, store: false, service_tier: 'auto', prompt_cache_key: 'k' };
    const strict = await server();
    expect((await post(strict, '/v1/chat/completions', ask(ignored))).status).toBe(200);
    const refused = await post(strict, '/v1/chat/completions', ask({ web_search_options: {} }));
    expect(refused.status).toBe(400);
    expect((await json(refused))['error']).toMatchObject({
      code: 'unsupported_parameter',
      param: 'web_search_options',
    });
    expect((await post(strict, '/v1/chat/completions', ask({ verbosity: 'high' }))).status).toBe(400);
    const lenient = await server({ settings: { lenient: true } });
    expect((await post(lenient, '/v1/chat/completions', ask({ web_search_options: {} }))).status).toBe(200);
    expect((await post(lenient, '/v1/chat/completions', ask({ web_search_options: {}, n: -1 }))).status).toBe(400);
  });

  it('33. says application/json', async () => {
    const app = await server();
    for (const response of [
      await post(app, '/v1/chat/completions', ask()),
      await post(app, '/v1/chat/completions', {}),
      await fetch(`${app.url}/v1/models`),
      await fetch(`${app.url}/nowhere`),
    ]) {
      expect(response.headers.get('content-type')).toMatch(/^application\/json/);
    }
  });

  it('gives n choices seeds of their own', async () => {
    const app = await server();
    await post(app, '/v1/chat/completions', ask({ n: 3, seed: 7 }));
    const seeds = app.engine.requests.map((request) => request.sampling!.seed);
    expect(seeds[0]).toBe(7);
    expect(new Set(seeds).size).toBe(3);
  });
});
