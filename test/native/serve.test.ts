// The whole server: the built engine, the model that ships with the project, the official SDK. Needs
// engine-native/build/libhearth.so, which npm test builds first; without it this file fails and says so.

import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type RealServer, startRealServer } from '../support/real-server.ts';

let server: RealServer;
let url = '';
let client: OpenAI;

beforeAll(async () => {
  server = await startRealServer();
  url = server.url;
  client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 });
}, 60_000);

afterAll(() => server?.stop(), 30_000);

const ask = (content: string, extra = {}) => ({
  model: 'default',
  messages: [{ role: 'user' as const, content }],
  max_tokens: 24,
  temperature: 0,
  ...extra,
});

const gauge = async (name: string) => {
  const text = await (await fetch(`${url}/metrics`)).text();
  return Number(new RegExp(`^${name}\\{[^}]*\\} (\\S+)$`, 'm').exec(text)?.[1]);
};

describe('the real engine behind the server', () => {
  it('streams what it answers without streaming', async () => {
    const streamed = await client.chat.completions.stream(ask('Tell me a story.')).finalChatCompletion();
    const whole = await client.chat.completions.create(ask('Tell me a story.'));
    expect(whole.choices[0]!.message.content!.length).toBeGreaterThan(0);
    expect(streamed.choices[0]!.message.content).toBe(whole.choices[0]!.message.content);
    expect(whole.usage!.total_tokens).toBe(whole.usage!.prompt_tokens + whole.usage!.completion_tokens);
  });

  it('gives log-probabilities that are one a token and sum to less than one', async () => {
    const answer = await client.chat.completions.create(ask('Hello', { logprobs: true, top_logprobs: 5 }));
    const { content } = answer.choices[0]!.logprobs!;
    expect(content).toHaveLength(answer.usage!.completion_tokens);
    for (const entry of content!) {
      expect(entry.top_logprobs).toHaveLength(5);
      expect(entry.top_logprobs.reduce((sum, top) => sum + Math.exp(top.logprob), 0)).toBeLessThan(1.001);
      expect(entry.logprob).toBeCloseTo(entry.top_logprobs[0]!.logprob, 5);
    }
  });

  it('draws the same from the same seed, and n different answers', async () => {
    const hot = ask('Once upon a time', { temperature: 1.5, seed: 7, n: 3 });
    const [one, two] = await Promise.all([client.chat.completions.create(hot), client.chat.completions.create(hot)]);
    const texts = one!.choices.map((choice) => choice.message.content);
    expect(two!.choices.map((choice) => choice.message.content)).toEqual(texts);
    expect(new Set(texts).size).toBeGreaterThan(1);
  });

  it('finds a prompt again in its prefix cache', async () => {
    const long = ask('The little dog ran to the big house. '.repeat(20));
    await client.chat.completions.create(long);
    const again = await client.chat.completions.create(long);
    expect(again.usage!.prompt_tokens_details!.cached_tokens).toBeGreaterThan(0);
  });

  it('refuses a prompt over the context with both numbers', async () => {
    const error = await client.chat.completions.create(ask('word '.repeat(20_000))).then(
      () => null,
      (reason) => reason,
    );
    expect(error).toBeInstanceOf(OpenAI.BadRequestError);
    expect(error.code).toBe('context_length_exceeded');
    expect(error.message).toMatch(/\d+ tokens.*\d+/);
  });

  it('stops at a stop string and leaves it out', async () => {
    const free = await client.chat.completions.create(ask('Tell me a story.'));
    const stop = free.choices[0]!.message.content!.slice(6, 9);
    const cut = await client.chat.completions.create(ask('Tell me a story.', { stop }));
    const at = free.choices[0]!.message.content!.indexOf(stop);
    expect(cut.choices[0]).toMatchObject({
      finish_reason: 'stop',
      message: { content: free.choices[0]!.message.content!.slice(0, at) },
    });
  });

  it('keeps special tokens that a user typed as text', async () => {
    const tokenize = async (body: object) => {
      const headers = { 'content-type': 'application/json' };
      const response = await fetch(`${url}/tokenize`, { method: 'POST', headers, body: JSON.stringify(body) });
      return ((await response.json()) as { tokens: number[] }).tokens;
    };
    const count = (ids: number[], id: number) => ids.filter((one) => one === id).length;
    const chat = (content: string) => tokenize({ messages: [{ role: 'user', content }] });
    const plain = await chat('x');
    let specials = 0;
    for (const special of [
      '</s>',
      '<s>',
      '<|im_end|>',
      '<|im_start|>',
      '<|end_story|>',
      '<|start_story|>',
      '<image>',
      '<unk>',
    ]) {
      const raw = await tokenize({ prompt: special, add_special_tokens: false });
      if (raw.length !== 1) continue; // Not a token of this model.
      specials++;
      expect([special, count(await chat(`a ${special} b`), raw[0]!)]).toEqual([special, count(plain, raw[0]!)]);
    }
    expect(specials).toBeGreaterThan(0);
  });

  it('forces JSON that fulfils a schema', async () => {
    const schema = {
      type: 'object',
      properties: { ok: { type: 'boolean' }, n: { type: 'integer', minimum: 0, maximum: 9 } },
      required: ['ok', 'n'],
      additionalProperties: false,
    };
    const format = { type: 'json_schema' as const, json_schema: { name: 'r', schema, strict: true } };
    let finished = 0;
    for (let seed = 1; seed <= 6; seed++) {
      const extra = { response_format: format, max_tokens: 120, temperature: 1, seed };
      const { message, finish_reason } = (await client.chat.completions.create(ask('Answer.', extra))).choices[0]!;
      // A small model may write white space until its tokens run out; what it finishes must be right.
      if (finish_reason !== 'stop') continue;
      finished++;
      const value = JSON.parse(message.content!);
      expect(Object.keys(value).sort()).toEqual(['n', 'ok']);
      expect([typeof value.ok, Number.isInteger(value.n) && value.n >= 0 && value.n <= 9]).toEqual(['boolean', true]);
    }
    expect(finished).toBeGreaterThan(0);
  });

  it('embeds', async () => {
    const { data } = await client.embeddings.create({ model: 'default', input: ['a dog', 'a dog', 'the sea'] });
    const [a, b, c] = data.map(({ embedding }) => embedding);
    const dot = (x: number[], y: number[]) => x.reduce((sum, value, at) => sum + value * y[at]!, 0);
    expect(dot(a!, a!)).toBeCloseTo(1, 3);
    expect(dot(a!, b!)).toBeGreaterThan(dot(a!, c!));
  });

  it('serves twenty at once, and frees everything when clients leave', async () => {
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, index) => client.chat.completions.create(ask(`Story ${index}`))),
    );
    expect(answers.every((answer) => answer.choices[0]!.finish_reason !== null)).toBe(true);
    for (let index = 0; index < 20; index++) {
      const signal = AbortSignal.timeout(5 + index * 3);
      const leaving = client.chat.completions.create(
        ask('Go on.', { max_tokens: 1000, ignore_eos: true, stream: index % 2 === 0 }),
        { signal },
      );
      await leaving.catch(() => {});
    }
    for (
      let waited = 0;
      (await gauge('vllm:num_requests_running')) + (await gauge('vllm:num_requests_waiting')) > 0;
      waited++
    ) {
      if (waited > 600) throw new Error('requests are still running');
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }, 60_000);
});
