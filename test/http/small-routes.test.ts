// Embeddings, tokenize, detokenize, apply-template, metrics.

import OpenAI from 'openai';
import supertest from 'supertest';
import { afterEach, describe, expect, it } from 'vitest';
import { chatBody, type TestApp, testApp } from '../support/app.ts';

let current: TestApp;
afterEach(() => current.close());
const post = (path: string, body: object) => supertest(current.app.server).post(path).send(body);

describe('POST /v1/embeddings', () => {
  it('gives the SDK vectors, which it asks for in base64', async () => {
    current = await testApp({
      listen: true,
      reply: (request) => ({ embedding: [request.text.length, -0.5], promptTokens: 4 }),
    });
    const client = new OpenAI({ baseURL: `${current.url}/v1`, apiKey: 'x' });
    const answer = await client.embeddings.create({ model: 'tiny', input: ['one', 'three'] });
    expect(answer.data.map(({ index, embedding }) => [index, [...embedding]])).toEqual([
      [0, [3, -0.5]],
      [1, [5, -0.5]],
    ]);
    expect(answer.usage).toEqual({ prompt_tokens: 8, total_tokens: 8 });
    expect(current.engine.requests[0]).toMatchObject({
      kind: 'embed',
      pooling: 'mean',
      normalize: true,
      literal: [[0, 3]],
    });
  });

  it('gives floats, takes token ids, dimensions and pooling, and refuses empty input', async () => {
    current = await testApp({ reply: () => ({ embedding: [1] }) });
    const body = { input: [5, 6], encoding_format: 'float', dimensions: 8, pooling: 'last', normalize: false };
    const answer = await post('/v1/embeddings', body);
    expect(answer.body.data[0].embedding).toEqual([1]);
    expect(current.engine.requests[0]).toMatchObject({ dimensions: 8, pooling: 'last', normalize: false });
    expect([...current.engine.requests[0]!.ids!]).toEqual([5, 6]);
    for (const input of ['', [], [''], [[]], [-1], null])
      expect((await post('/v1/embeddings', { input })).status).toBe(400);
  });
});

describe('tokens', () => {
  it('of a text, of a conversation, and back', async () => {
    current = await testApp();
    expect((await post('/tokenize', { prompt: 'Hi' })).body).toEqual({
      count: 3,
      max_model_len: 512,
      tokens: [1, 72, 105],
    });
    expect((await post('/tokenize', { prompt: 'Hi', add_special_tokens: false })).body.tokens).toEqual([72, 105]);
    const chat = await post('/tokenize', chatBody());
    expect(Buffer.from(chat.body.tokens).toString()).toBe('<s><|user|>Hi<|assistant|>');
    expect((await post('/detokenize', { tokens: [72, 105] })).body).toEqual({ prompt: 'Hi' });
    expect((await post('/apply-template', chatBody({ add_generation_prompt: false }))).body.prompt).toBe(
      '<s><|user|>Hi',
    );
    expect((await post('/detokenize', { tokens: [999] })).status).toBe(400);
    expect((await post('/tokenize', {})).status).toBe(400);
  });
});

describe('a model without a template', () => {
  it('gets BOS and the contents joined by newlines, all of it literal', async () => {
    current = await testApp({ models: [{ chatTemplate: null }] });
    const messages = [
      { role: 'system', content: 'Be brief </s>' },
      { role: 'user', content: [{ type: 'text', text: 'Hí' }] },
    ];
    await post('/v1/chat/completions', { messages });
    expect(current.engine.requests[0]).toMatchObject({
      text: 'Be brief </s>\nHí',
      literal: [[0, 17]],
      addSpecialTokens: true,
    });
  });
});

describe('GET /metrics', () => {
  it('speaks vLLM’s names', async () => {
    current = await testApp({ reply: () => ({ tokens: ['a', 'b'], promptTokens: 7 }) });
    await post('/v1/chat/completions', chatBody());
    await post('/v1/chat/completions', {});
    const { text } = await supertest(current.app.server).get('/metrics');
    for (const line of [
      'vllm:request_success_total{model_name="tiny",finished_reason="stop"} 1',
      'vllm:time_to_first_token_seconds_count{model_name="tiny"} 1',
      'vllm:inter_token_latency_seconds_count{model_name="tiny"} 1',
      'vllm:request_prompt_tokens_sum{model_name="tiny"} 7',
      'vllm:num_requests_running{model_name="tiny"} 0',
      'vllm:kv_cache_usage_perc{model_name="tiny"} 0',
      'hearth:requests_refused_total{status="400",code=""} 1',
    ]) {
      expect(text).toContain(line);
    }
    expect(text).toContain('nodejs_eventloop_lag');
  });
});
