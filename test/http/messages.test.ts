// Anthropic's API, with its own SDK as the oracle.

import { readFileSync } from 'node:fs';
import Anthropic from '@anthropic-ai/sdk';
import { afterEach, describe, expect, it } from 'vitest';
import { type TestApp, testApp } from '../support/app.ts';
import type { Script } from '../support/scripted-engine.ts';

let current: TestApp;
afterEach(() => current.close());

const templates = readFileSync(
  new URL('../fixtures/chat-templates/cases-huggingface-jinja-e2e.jsonl', import.meta.url),
  'utf8',
);
const chatTemplate = templates
  .split('\n')
  .filter(Boolean)
  .map((line) => JSON.parse(line) as { name: string; chat_template: string })
  .find(({ name }) => name === 'Qwen/Qwen3-0.6B')!.chat_template;

async function client(script: Script, settings = {}) {
  const vision = { family: 'x', placeholder: '<image>', tokensPerImage: 1 };
  current = await testApp({ listen: true, settings, models: [{ chatTemplate, vision }], reply: () => script });
  return new Anthropic({ baseURL: current.url, apiKey: 'key', maxRetries: 0 });
}

const base = { model: 'tiny', max_tokens: 100, messages: [{ role: 'user' as const, content: 'Hi' }] };
const tools = [
  {
    name: 'get_weather',
    description: 'd',
    input_schema: { type: 'object' as const, properties: { city: { type: 'string' } } },
  },
];
const thinkAndCall = [
  '<think>\nhm',
  '</think>\n\nLooking.',
  '\n<tool_call>\n{"name": "get_weather", "arg',
  'uments": {"city": "Oslo"}}\n</tool_call>',
];

describe('POST /v1/messages', () => {
  it('answers', async () => {
    const sdk = await client({ tokens: ['Hello', ' there'], promptTokens: 9, cachedTokens: 4 });
    const answer = await sdk.messages.create({ ...base, system: 'Be kind.' });
    expect(answer).toMatchObject({
      type: 'message',
      role: 'assistant',
      model: 'tiny',
      content: [{ type: 'text', text: 'Hello there' }],
      stop_reason: 'end_turn',
      usage: { input_tokens: 5, cache_read_input_tokens: 4, output_tokens: 2 },
    });
    expect(current.engine.requests[0]!.text).toContain('<|im_start|>system\nBe kind.');
  });

  it('streams thoughts, text and tool calls as blocks', async () => {
    const sdk = await client({ tokens: thinkAndCall, promptTokens: 7 });
    const stream = sdk.messages.stream({ ...base, tools });
    const started: number[] = [];
    stream.on('streamEvent', (event) => {
      if (event.type === 'message_start') started.push(event.message.usage.input_tokens);
    });
    const message = await stream.finalMessage();
    expect(started).toEqual([7]);
    expect(message.stop_reason).toBe('tool_use');
    expect(message.content).toMatchObject([
      { type: 'thinking', thinking: 'hm' },
      { type: 'text', text: 'Looking.' },
      { type: 'tool_use', name: 'get_weather', input: { city: 'Oslo' } },
    ]);
    const whole = await sdk.messages.create({ ...base, tools });
    expect(whole.content).toMatchObject(
      message.content.map((block) => ('id' in block ? { ...block, id: expect.any(String) } : block)),
    );
  });

  it('takes the messages of a tool conversation, and pictures', async () => {
    const sdk = await client({ tokens: ['ok'] });
    const data = readFileSync(new URL('../fixtures/images/pillow-hopper.png', import.meta.url)).toString('base64');
    await sdk.messages.create({
      ...base,
      tools,
      messages: [
        {
          role: 'user',
          content: [
            { type: 'image', source: { type: 'base64', media_type: 'image/png', data } },
            { type: 'text', text: 'What?' },
          ],
        },
        {
          role: 'assistant',
          content: [{ type: 'tool_use', id: 'toolu_1', name: 'get_weather', input: { city: 'Oslo' } }],
        },
        {
          role: 'user',
          content: [
            { type: 'tool_result', tool_use_id: 'toolu_1', content: 'rain' },
            { type: 'text', text: 'So?' },
          ],
        },
      ],
    });
    const { text, images } = current.engine.requests[0]!;
    expect(images).toHaveLength(1);
    expect(text).toContain('<image>\nWhat?');
    expect(text).toContain('{"name": "get_weather", "arguments": {"city": "Oslo"}}');
    expect(text).toContain('<tool_response>\nrain\n</tool_response>');
  });

  it('says in the result that a tool failed, which templates have no place for', async () => {
    const sdk = await client({ tokens: ['ok'] });
    const results: Array<[Anthropic.ToolResultBlockParam['content'], string]> = [
      ['no such city', 'The tool failed:\nno such city'],
      [[{ type: 'text', text: 'no such city' }], 'The tool failed:\nno such city'],
      ['', 'The tool failed.'],
      [undefined, 'The tool failed.'],
    ];
    for (const [content, said] of results) {
      const result = (is_error: boolean) => ({ type: 'tool_result' as const, tool_use_id: 't', content, is_error });
      for (const failed of [true, false]) {
        await sdk.messages.create({
          ...base,
          tools,
          messages: [
            { role: 'user', content: 'Weather?' },
            { role: 'assistant', content: [{ type: 'tool_use', id: 't', name: 'get_weather', input: {} }] },
            { role: 'user', content: [result(failed)] },
          ],
        });
        const { text } = current.engine.requests.at(-1)!;
        if (failed) expect(text).toContain(`<tool_response>\n${said}\n</tool_response>`);
        else expect(text).not.toContain('The tool failed');
      }
    }
  });

  it('an answer cut within a call has no half of it, streamed or not', async () => {
    const sdk = await client({
      tokens: ['<think>\nhm</think>\n\nLooking.', '\n<tool_call>\n{"name": "get_w'],
      reason: 'length',
    });
    const whole = await sdk.messages.create({ ...base, tools });
    const streamed = await sdk.messages.stream({ ...base, tools }).finalMessage();
    for (const message of [whole, streamed]) {
      expect(message.stop_reason).toBe('max_tokens');
      expect(message.content).toMatchObject([{ type: 'thinking' }, { type: 'text', text: 'Looking.' }]);
    }
  });

  it('takes pictures that tools give back, as the SDK types them, and counts them', async () => {
    const sdk = await client({ tokens: ['ok'], promptTokens: 77 });
    const data = readFileSync(new URL('../fixtures/images/pillow-hopper.png', import.meta.url)).toString('base64');
    const messages: Anthropic.MessageParam[] = [
      { role: 'user', content: 'What is on the page?' },
      {
        role: 'assistant',
        content: [{ type: 'tool_use', id: 'toolu_1', name: 'get_weather', input: { city: 'Oslo' } }],
      },
      {
        role: 'user',
        content: [
          {
            type: 'tool_result',
            tool_use_id: 'toolu_1',
            content: [
              { type: 'text', text: 'rain' },
              { type: 'image', source: { type: 'base64', media_type: 'image/png', data } },
            ],
          },
        ],
      },
    ];
    await sdk.messages.create({ ...base, tools, messages });
    const counted = await sdk.messages.countTokens({ model: 'tiny', tools, messages });
    expect(counted.input_tokens).toBe(77);
    for (const { text, images } of current.engine.requests) {
      expect(images).toMatchObject([{ width: 128, height: 128 }]);
      expect(text).toContain('<tool_response>\nrain\n<image>\n</tool_response>');
    }
    expect(current.engine.requests).toHaveLength(2);
  });

  it('maps stops, choices and thinking', async () => {
    const sdk = await client({ tokens: ['a'], stop: 'END' });
    const stopped = await sdk.messages.create({ ...base, stop_sequences: ['END'], thinking: { type: 'disabled' } });
    expect(stopped).toMatchObject({ stop_reason: 'stop_sequence', stop_sequence: 'END' });
    expect(current.engine.requests[0]!.text).toMatch(/<think>\n\n<\/think>\n\n$/);
    await sdk.messages.create({ ...base, thinking: { type: 'adaptive', display: 'summarized' } });
    expect(current.engine.requests[1]!.text).toMatch(/assistant\n$/);
    await sdk.messages.create({ ...base, tools, tool_choice: { type: 'tool', name: 'get_weather' } });
    expect(current.engine.requests[2]!.grammar).toMatchObject({ type: 'tools', spec: { required: true } });
  });

  it('answers in the form of a schema, which the SDK parses', async () => {
    const sdk = await client({ tokens: ['{"a": ', '"b"}'] });
    const schema = { type: 'object' as const, properties: { a: { type: 'string' } }, required: ['a'] };
    const format = { type: 'json_schema' as const, schema, parse: (text: string) => JSON.parse(text) as { a: string } };
    const answer = await sdk.messages.parse({ ...base, thinking: { type: 'disabled' }, output_config: { format } });
    expect(answer.parsed_output).toEqual({ a: 'b' });
    expect(current.engine.requests[0]!.grammar).toMatchObject({ type: 'json_schema', spec: schema });
    const effort = sdk.messages.create({ ...base, output_config: { effort: 'low' } });
    await expect(effort).rejects.toThrow("'output_config.effort': must be 'high'");
  });

  it('does not take a new turn for the continuation of the assistant’s last words', async () => {
    const sdk = await client({ tokens: ['a'] });
    const messages = [...base.messages, { role: 'assistant' as const, content: '{' }];
    await expect(sdk.messages.create({ ...base, messages })).rejects.toThrow(/messages\[1\]': must be the user's/);
    expect(await sdk.messages.countTokens({ model: 'tiny', messages })).toMatchObject({
      input_tokens: expect.any(Number),
    });
  });

  it('takes what the AI SDK adds to streamed tools and for caching', async () => {
    const sdk = await client({ tokens: ['a'] });
    const eager = tools.map((tool) => ({ ...tool, eager_input_streaming: true }));
    const stream = sdk.messages.stream({ ...base, tools: eager, cache_control: { type: 'ephemeral' } });
    expect(await stream.finalText()).toBe('a');
  });

  it('has no threads: the SDK’s tool runner, which asks for one, goes on without, also where much is lenient', async () => {
    for (const lenient of [false, true]) {
      const call = ['<tool_call>', '{"name": "get_weather", "arguments": {"city": "Oslo"}}', '</tool_call>'];
      const script = { tokens: call };
      const sdk = await client(script, { lenient });
      const run = () => {
        script.tokens = ['Sunny.'];
        return 'sun';
      };
      const input_schema = { type: 'object' as const, properties: { city: { type: 'string' } } };
      const tool = {
        type: 'custom' as const,
        name: 'get_weather',
        input_schema,
        run,
        parse: (input: unknown) => input,
      };
      const answer = await sdk.beta.messages.toolRunner({ ...base, tools: [tool] });
      expect(answer.content).toEqual([expect.objectContaining({ type: 'text', text: 'Sunny.' })]);
      expect(current.engine.requests.at(-1)!.text).toMatch(/Hi.*get_weather.*sun/s);
      await current.close();
    }
  });

  it('counts tokens', async () => {
    const sdk = await client({});
    const { input_tokens } = await sdk.messages.countTokens({ model: 'tiny', messages: base.messages });
    expect(input_tokens).toBe(Buffer.byteLength('<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n'));
  });

  it('reports errors as Anthropic’s clients know them', async () => {
    const sdk = await client({ tokens: ['a'] }, { apiKey: ['key'] });
    const bad = await sdk.messages.create({ ...base, max_tokens: 0 }).then(
      () => null,
      (error) => error,
    );
    expect(bad).toBeInstanceOf(Anthropic.BadRequestError);
    expect(bad.error).toMatchObject({ type: 'error', error: { type: 'invalid_request_error' } });
    const lost = await sdk.messages.create({ ...base, model: 'nope' }).then(
      () => null,
      (error) => error,
    );
    expect(lost).toBeInstanceOf(Anthropic.NotFoundError);
    const stranger = new Anthropic({ baseURL: current.url, apiKey: 'wrong', maxRetries: 0 });
    const denied = await stranger.messages.create(base).then(
      () => null,
      (error) => error,
    );
    expect(denied).toBeInstanceOf(Anthropic.AuthenticationError);
  });
});
