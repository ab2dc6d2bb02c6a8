// wire-contract.md, A and B: one numbered test a statement.

import { describe, expect, it } from 'vitest';
import { EngineError } from '../../server/engine/port.ts';
import { gate } from '../support/gate.ts';
import { ask, chunks, client, post, server, textWhen } from './support.ts';

const streamed = ask({ stream: true });

describe('A. SSE framing', () => {
  it('1. has the headers of an event stream and no length', async () => {
    const app = await server();
    const response = await post(app, '/v1/chat/completions', streamed, { headers: { 'accept-encoding': 'gzip' } });
    await response.text();
    const header = (name: string) => response.headers.get(name);
    expect(header('content-type')).toMatch(/^text\/event-stream/);
    expect(header('cache-control')).toBe('no-cache');
    expect(header('x-accel-buffering')).toBe('no');
    expect(header('connection')).toBe('keep-alive');
    expect(header('content-length')).toBeNull();
    expect(header('content-encoding')).toBeNull();
  });

  it('2. sends each event as one line of JSON after "data: "', async () => {
    const app = await server({ reply: () => ({ tokens: ['line\nbreak', '\r\n', '\u2028'] }) });
    const text = await (await post(app, '/v1/chat/completions', streamed)).text();
    const events = text.split('\n\n').slice(0, -1);
    for (const event of events) expect(event).toMatch(/^data: (\{[^\r\n]*\}|\[DONE\])$/);
    expect(text.endsWith('\n\n')).toBe(true);
  });

  it('3. ends with exactly data: [DONE]', async () => {
    const app = await server();
    const text = await (await post(app, '/v1/chat/completions', streamed)).text();
    expect(text.endsWith('\n\ndata: [DONE]\n\n')).toBe(true);
    expect(text.match(/\[DONE\]/g)).toHaveLength(1);
  });

  it('5. sends a comment when nothing else was written, also before the first token', async () => {
    const answering = gate();
    const reply = () => ({ tokens: ['a'], after: answering.opened });
    const app = await server({ settings: { keepAliveSeconds: 0.05 }, reply });
    const response = await post(app, '/v1/chat/completions', streamed);
    const text = await textWhen(response, /(^|\n\n)(: keep-alive\n\n){2}/, answering.open);
    expect(text).toMatch(/data: \[DONE\]\n\n$/);
    const stream = await client(app).chat.completions.create({ ...ask(), stream: true } as never);
    let content = '';
    for await (const chunk of stream as never as AsyncIterable<{ choices: Array<{ delta: { content?: string } }> }>) {
      content += chunk.choices[0]?.delta.content ?? '';
    }
    expect(content).toBe('a');
  });

  it('6. passes whole characters on, whatever plane they come from', async () => {
    const tokens = ['🦔', '漢', 'é', '👩‍👩‍👧', '\u{10ffff}'];
    const app = await server({ reply: () => ({ tokens }) });
    const received = (await chunks(app)).map((chunk) => chunk.choices[0]!.delta.content ?? '').filter(Boolean);
    expect(received).toEqual(tokens);
  });

  it('7. releases text that was held back for a stop string', async () => {
    const app = await server({ reply: () => ({ tokens: ['abc'], heldBack: 'STO', reason: 'length' }) });
    const received = await chunks(app, { stop: 'STOP' });
    expect(received.map((chunk) => chunk.choices[0]!.delta.content ?? '').join('')).toBe('abcSTO');
    expect(app.engine.requests[0]!.stop).toEqual(['STOP']);
  });

  it('8. flushes the head on acceptance, long before the first token', async () => {
    const settings = { keepAliveSeconds: 1000 }; // a comment would flush it too
    const app = await server({ settings, reply: () => ({ tokens: ['late'], firstMs: 1_000_000 }) });
    for (const [url, body] of [
      ['/v1/chat/completions', streamed],
      ['/v1/completions', { prompt: 'Once', stream: true }],
    ] as const) {
      const response = await post(app, url, body);
      expect(response.status).toBe(200);
      await response.body!.cancel();
    }
  });

  it('8. gives a plain status for whatever is wrong before that', async () => {
    const detail = { prompt_tokens: 900, context: 512 };
    const tooLong = new EngineError('context_length_exceeded', 'too long', detail);
    const app = await server({ reply: () => ({ tokens: [], silent: true, fail: tooLong }) });
    const response = await post(app, '/v1/chat/completions', streamed);
    expect(response.status).toBe(400);
    const { error } = (await response.json()) as { error: { code: string; message: string } };
    expect(error.code).toBe('context_length_exceeded');
    expect(error.message).toMatch(/512.*900/);
    for (const [body, status] of [
      [{ ...streamed, model: 'nope' }, 404],
      [{ ...streamed, messages: [] }, 400],
    ] as const) {
      expect((await post(app, '/v1/chat/completions', body)).status).toBe(status);
    }
  });

  it('9. sends a failure after the first byte as an error event, with no finish before it', async () => {
    const fail = new EngineError('internal', 'secret detail at 0x7f');
    const app = await server({ reply: () => ({ tokens: ['a', 'b'], fail }) });
    const text = await (await post(app, '/v1/chat/completions', streamed)).text();
    const events = text.split('\n\n').filter(Boolean);
    expect(JSON.parse(events.at(-1)!.slice(6))).toMatchObject({ error: { type: 'server_error', code: null } });
    expect(text).not.toContain('[DONE]');
    expect(text).not.toContain('"finish_reason":"');
    expect(text).not.toContain('secret');
    const stream = client(app).chat.completions.stream(ask() as never);
    await expect(stream.finalChatCompletion()).rejects.toThrow(/had an error/);
  });
});

describe('B. Chat chunks', () => {
  it('10. share id, created, object and model', async () => {
    const all = await chunks(await server(), { n: 2 });
    expect(new Set(all.map(({ id, created, object, model }) => `${id} ${created} ${object} ${model}`)).size).toBe(1);
    expect(all[0]!.id).toMatch(/^chatcmpl-/);
    expect(Number.isInteger(all[0]!.created)).toBe(true);
    expect(all[0]).toMatchObject({ object: 'chat.completion.chunk', model: 'tiny' });
  });

  it('11. name the role once a choice, first', async () => {
    const all = await chunks(await server(), { n: 3 });
    for (const index of [0, 1, 2]) {
      const own = all.filter((chunk) => chunk.choices[0]!.index === index);
      expect(own[0]!.choices[0]!.delta).toEqual({ role: 'assistant', content: '' });
      for (const chunk of own.slice(1)) expect(chunk.choices[0]!.delta).not.toHaveProperty('role');
    }
  });

  it('12. have index, delta, finish_reason and logprobs in every choice', async () => {
    for (const chunk of await chunks(await server(), { n: 2 })) {
      for (const choice of chunk.choices) {
        expect(Object.keys(choice).sort()).toEqual(['delta', 'finish_reason', 'index', 'logprobs']);
        expect([0, 1]).toContain(choice.index);
      }
    }
  });

  it('13. finish each choice once, last and empty', async () => {
    const all = await chunks(await server(), { n: 2, logprobs: true });
    for (const index of [0, 1]) {
      const own = all.filter((chunk) => chunk.choices[0]!.index === index);
      expect(own.filter((chunk) => chunk.choices[0]!.finish_reason !== null)).toHaveLength(1);
      expect(own.at(-1)!.choices[0]).toMatchObject({ delta: {}, finish_reason: 'stop' });
    }
  });

  it('14. say stop or length', async () => {
    const app = await server();
    expect((await chunks(app)).at(-1)!.choices[0]!.finish_reason).toBe('stop');
    expect((await chunks(app, { max_tokens: 2 })).at(-1)!.choices[0]!.finish_reason).toBe('length');
  });

  it('15. bring usage in one more chunk when it was asked for, and only then', async () => {
    const app = await server();
    const withUsage = await chunks(app, { stream_options: { include_usage: true } });
    expect(withUsage.at(-1)).toMatchObject({ choices: [], usage: { prompt_tokens: 3, completion_tokens: 4 } });
    for (const chunk of withUsage.slice(0, -1)) expect(chunk.usage).toBeNull();
    for (const chunk of await chunks(app, { stream_options: { include_usage: false } })) {
      expect(chunk.choices).toHaveLength(1);
      expect(chunk).not.toHaveProperty('usage');
    }
  });

  it('16. stream_options without stream is an error', async () => {
    const app = await server();
    const response = await post(app, '/v1/chat/completions', ask({ stream_options: { include_usage: true } }));
    expect(response.status).toBe(400);
    expect(((await response.json()) as { error: { param: string } }).error.param).toBe('stream_options');
  });

  it('17. concatenate to what is answered without streaming', async () => {
    const tokens = ['Once', ' ', 'upon', ' a\n', 'time "quoted" \\ 🦔'];
    const app = await server({ reply: () => ({ tokens, heldBack: ' end' }) });
    const stream = client(app).chat.completions.stream(ask() as never);
    const accumulated = await stream.finalChatCompletion();
    const whole = await client(app).chat.completions.create(ask() as never);
    expect(accumulated.choices[0]!.message.content).toBe(`${tokens.join('')} end`);
    expect(accumulated.choices[0]!.message.content).toBe(whole.choices[0]!.message.content);
  });
});
