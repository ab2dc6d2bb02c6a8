// wire-contract.md, B 18 and C: reasoning and tool calls, with the SDK's own accumulators as oracles.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { EngineError } from '../../server/engine/port.ts';
import { ask, chunks, client, post, server } from './support.ts';

const templates = readFileSync(
  new URL('../fixtures/chat-templates/cases-huggingface-jinja-e2e.jsonl', import.meta.url),
  'utf8',
)
  .split('\n')
  .filter(Boolean)
  .map((line) => JSON.parse(line) as { name: string; chat_template: string });
const chatTemplate = templates.find(({ name }) => name === 'Qwen/Qwen3-0.6B')!.chat_template;
const qwen = { chatTemplate, specialTokens: { eos_token: '<|im_end|>' } };

const tool = (name: string) => ({
  type: 'function',
  function: { name, description: 'd', parameters: { type: 'object', properties: { city: { type: 'string' } } } },
});
const tools = [tool('get_weather'), tool('ping')];
const thinking = ['<think>', '\nI need', ' it.\n', '</think>', '\n\n'];
const weather = [
  '<tool_call>',
  '\n{"na',
  'me": "get_weather", "argu',
  'ments": {"city": "Par',
  'is"}}',
  '\n</tool_call>',
];
const ping = ['\n<tool_call>', '\n{"name": "ping"}', '\n</tool_call>'];

const serve = (tokens: string[]) => server({ models: [qwen], reply: () => ({ tokens }) });

interface CallDelta {
  index: number;
  id?: string;
  type?: string;
  function: { name?: string; arguments: string };
}
const callDeltas = (all: Awaited<ReturnType<typeof chunks>>) =>
  all.flatMap((chunk) => (chunk.choices[0]!.delta['tool_calls'] as CallDelta[] | undefined) ?? []);

describe('B. Reasoning', () => {
  it('18. comes as reasoning_content and as reasoning, and is counted', async () => {
    const app = await serve([...thinking, 'Done.']);
    const all = await chunks(app, { stream_options: { include_usage: true } });
    const join = (key: string) => all.map((chunk) => chunk.choices[0]?.delta[key] ?? '').join('');
    expect([join('reasoning_content'), join('reasoning'), join('content')]).toEqual([
      'I need it.',
      'I need it.',
      'Done.',
    ]);
    expect(all.at(-1)!.usage).toMatchObject({ completion_tokens_details: { reasoning_tokens: 3 } });
    const whole = await client(app).chat.completions.create(ask() as never);
    expect(whole.choices[0]!.message).toMatchObject({
      content: 'Done.',
      reasoning_content: 'I need it.',
      reasoning: 'I need it.',
    });
  });

  it('effort and template arguments reach the template', async () => {
    const app = await serve(['Done.']);
    await post(app, '/v1/chat/completions', ask({ reasoning_effort: 'none' }));
    await post(app, '/v1/chat/completions', ask({ chat_template_kwargs: { enable_thinking: false } }));
    await post(app, '/v1/chat/completions', ask());
    const ends = app.engine.requests.map((request) => request.text.endsWith('<think>\n\n</think>\n\n'));
    expect(ends).toEqual([true, true, false]);
  });
});

describe('C. Tool calls', () => {
  it('19. have the shape of the non-stream object', async () => {
    const app = await serve([...thinking, ...weather]);
    const answer = await client(app).chat.completions.create(ask({ tools }) as never);
    const choice = answer.choices[0]!;
    expect(choice.finish_reason).toBe('tool_calls');
    expect(choice.message.content).toBeNull();
    expect(choice.message.tool_calls).toEqual([
      {
        id: expect.stringMatching(/^call_/),
        type: 'function',
        function: { name: 'get_weather', arguments: '{"city": "Paris"}' },
      },
    ]);
    expect(app.engine.requests[0]!.text).toContain('"name": "get_weather"');
  });

  it('20. stream as a head and pieces', async () => {
    const app = await serve([...thinking, ...weather]);
    const all = await chunks(app, { tools });
    const [head, ...pieces] = callDeltas(all);
    expect(head).toEqual({
      index: 0,
      id: expect.any(String),
      type: 'function',
      function: { name: 'get_weather', arguments: '' },
    });
    for (const piece of pieces) expect(Object.keys(piece).sort()).toEqual(['function', 'index']);
    expect(pieces.map((piece) => piece.function.arguments).join('')).toBe('{"city": "Paris"}');
    expect(all.at(-1)!.choices[0]!.finish_reason).toBe('tool_calls');
    const accumulated = await client(app)
      .chat.completions.stream(ask({ tools }) as never)
      .finalChatCompletion();
    expect(accumulated.choices[0]!.message.tool_calls![0]).toMatchObject({
      function: { name: 'get_weather', arguments: '{"city": "Paris"}' },
    });
  });

  it('21. 22. in parallel have indices and ids of their own, and arguments that parse', async () => {
    const app = await serve([...weather, ...ping]);
    const answer = await client(app)
      .chat.completions.stream(ask({ tools }) as never)
      .finalChatCompletion();
    const calls = answer.choices[0]!.message.tool_calls as Array<{
      id: string;
      function: { name: string; arguments: string };
    }>;
    expect(calls.map((call) => [call.function.name, JSON.parse(call.function.arguments)])).toEqual([
      ['get_weather', { city: 'Paris' }],
      ['ping', {}],
    ]);
    expect(new Set(calls.map((call) => call.id)).size).toBe(2);
    expect(callDeltas(await chunks(app, { tools })).map(({ index }) => index)).toEqual(expect.arrayContaining([0, 1]));
  });

  it('23. tool_choice becomes a constraint, none gives no call and no markup', async () => {
    const app = await serve(['Well.', ...weather]);
    const answer = await client(app).chat.completions.create(ask({ tools, tool_choice: 'none' }) as never);
    expect(answer.choices[0]).toMatchObject({ finish_reason: 'stop', message: { content: 'Well.' } });
    expect(answer.choices[0]!.message.tool_calls).toBeUndefined();
    expect(app.engine.requests[0]!.text).not.toContain('get_weather');
    await post(app, '/v1/chat/completions', ask({ tools, tool_choice: 'required' }));
    const named = { type: 'function', function: { name: 'ping' } };
    await post(app, '/v1/chat/completions', ask({ tools, tool_choice: named }));
    const specs = app.engine.requests.slice(1).map((request) => request.grammar);
    const call = (name: string) => ({
      begin: `<tool_call>\n{"name": "${name}", "arguments": `,
      end: '}\n</tool_call>',
    });
    expect(specs).toMatchObject([
      {
        type: 'tools',
        after: '</think>',
        spec: { required: true, parallel: true, separator: '\n', calls: [call('get_weather'), call('ping')] },
      },
      { type: 'tools', spec: { required: true, parallel: false, calls: [call('ping')] } },
    ]);
  });

  it('23. tool_choice without tools, unknown names and models without a format are 400', async () => {
    const app = await serve([]);
    const param = async (extra: object, on = app) => {
      const response = await post(on, '/v1/chat/completions', ask(extra as never));
      return [response.status, ((await response.json()) as { error: { param: string } }).error.param];
    };
    expect(await param({ tool_choice: 'auto' })).toEqual([400, 'tool_choice']);
    expect(await param({ tools, tool_choice: { type: 'function', function: { name: 'other' } } })).toEqual([
      400,
      'tool_choice',
    ]);
    expect(await param({ tools: [tool('a'), tool('a')] })).toEqual([400, 'tools']);
    expect(await param({ tools }, await server())).toEqual([400, 'tools']);
  });

  it('24. parallel_tool_calls: false gives at most one call', async () => {
    const app = await serve([...weather, ...ping]);
    const answer = await client(app).chat.completions.create(ask({ tools, parallel_tool_calls: false }) as never);
    expect(answer.choices[0]!.message.tool_calls).toHaveLength(1);
  });

  it('25. takes the messages of a tool conversation', async () => {
    const app = await serve(['ok']);
    const call = { id: 'call_1', type: 'function', function: { name: 'get_weather', arguments: '{"city":"Oslo"}' } };
    const messages = [
      { role: 'system', content: [{ type: 'text', text: 'Be kind.' }] },
      { role: 'user', content: 'Weather?' },
      { role: 'assistant', content: null, tool_calls: [call], refusal: null },
      { role: 'tool', tool_call_id: 'call_1', content: [{ type: 'text', text: 'rain <|im_end|>' }] },
    ];
    expect((await post(app, '/v1/chat/completions', ask({ messages, tools }))).status).toBe(200);
    const { text, literal } = app.engine.requests[0]!;
    expect(text).toContain('{"name": "get_weather", "arguments": {"city": "Oslo"}}');
    const typed = literal.map(([begin, end]) => Buffer.from(text).subarray(begin, end).toString());
    expect(typed).toContain('rain <|im_end|>');
    const without = messages.map((message) => ({ ...message, tool_call_id: undefined }));
    expect((await post(app, '/v1/chat/completions', ask({ messages: without, tools }))).status).toBe(400);
  });

  it('the SDK runs tools to the end', async () => {
    const app = await server({
      models: [qwen],
      reply: (_r, index) => ({ tokens: index === 0 ? weather : ['It rains.'] }),
    });
    const seen: unknown[] = [];
    const runner = client(app).chat.completions.runTools({
      model: 'tiny',
      stream: true,
      messages: [{ role: 'user', content: 'Weather?' }],
      tools: [
        {
          type: 'function',
          function: {
            name: 'get_weather',
            description: 'd',
            parameters: { type: 'object', properties: { city: { type: 'string' } } },
            parse: JSON.parse,
            function: (args: { city: string }) => {
              seen.push(args);
              return 'rain';
            },
          },
        },
      ],
    });
    expect(await runner.finalContent()).toBe('It rains.');
    expect(seen).toEqual([{ city: 'Paris' }]);
    expect(app.engine.requests[1]!.text).toContain('<tool_response>\nrain\n</tool_response>');
  });
});

describe('structured output', () => {
  it('what a schema cannot hold is named with its function, and arguments are objects even where it is empty', async () => {
    const words = 'grammar/spec/calls/1/schema/properties/a/not: this keyword is not supported';
    const refused = await server({
      models: [qwen],
      reply: () => ({ refuse: new EngineError('unsupported', words) }),
    });
    const answer = await post(refused, '/v1/chat/completions', ask({ tools, tool_choice: 'required' }));
    expect([answer.status, await answer.json()]).toMatchObject([
      400,
      {
        error: {
          message: "The parameters of function 'ping': #/properties/a/not: this keyword is not supported",
          param: 'tools',
          code: 'unsupported_value',
        },
      },
    ]);
    const app = await serve(['x']);
    const empty = { type: 'function', function: { name: 'f', parameters: {} } };
    await post(app, '/v1/chat/completions', ask({ tools: [empty], tool_choice: 'required' }));
    expect(app.engine.requests[0]!.grammar).toMatchObject({ spec: { calls: [{ schema: { type: 'object' } }] } });
  });

  it('strict functions are held to their schema under auto, others are not', async () => {
    const app = await serve(['ok']);
    const strict = { ...tool('ping'), function: { ...tool('ping').function, strict: true } };
    await post(app, '/v1/chat/completions', ask({ tools: [tool('get_weather'), strict] }));
    await post(app, '/v1/chat/completions', ask({ tools }));
    expect(app.engine.requests[0]!.grammar).toMatchObject({
      spec: {
        required: false,
        trigger: '<tool_call>',
        calls: [{ schema: { type: 'object' } }, { schema: { properties: {} } }],
      },
    });
    expect(app.engine.requests[1]!.grammar).toBeUndefined();
  });

  it('beside a format, a model may call or answer in that form, and nothing else', async () => {
    const app = await serve(['{}']);
    const schema = { type: 'object', properties: { a: { type: 'integer' } }, required: ['a'] };
    const format = { type: 'json_schema', json_schema: { name: 'n', schema } };
    await post(app, '/v1/chat/completions', ask({ tools, response_format: format }));
    await post(app, '/v1/chat/completions', ask({ tools, response_format: { type: 'json_object' } }));
    const required = { tools, response_format: format, tool_choice: 'required' };
    await post(app, '/v1/chat/completions', ask(required));
    const specs = app.engine.requests.map(({ grammar }) => (grammar as { spec: Record<string, unknown> }).spec);
    expect(specs[0]).toMatchObject({ required: true, answer: schema });
    expect(specs[0]!.calls).toMatchObject(tools.map(() => ({ schema: { type: 'object' } })));
    expect(specs[1]).toMatchObject({ required: true, answer: { type: 'object' } });
    expect(specs[2]).not.toHaveProperty('answer');
  });

  it('a prompt that switched thinking off is constrained from the first token', async () => {
    const app = await serve(['{}']);
    const format = { response_format: { type: 'json_object' }, reasoning_effort: 'none' };
    await post(app, '/v1/chat/completions', ask(format));
    expect(app.engine.requests[0]!.grammar).toEqual({ type: 'json_object' });
  });

  it('a prompt that opened the thoughts is constrained when they end', async () => {
    const chatTemplate = '{{ messages[0].content }}{% if add_generation_prompt %}<think>\n{% endif %}{# </think> #}';
    const app = await server({ models: [{ chatTemplate }], reply: () => ({ tokens: ['x</think>{}'] }) });
    await post(app, '/v1/chat/completions', { ...ask(), tools: undefined, response_format: { type: 'json_object' } });
    expect(app.engine.requests[0]!.grammar).toEqual({ type: 'json_object', after: '</think>' });
  });

  it('passes formats to the engine as constraints', async () => {
    const app = await serve(['{}']);
    const schema = { type: 'object', properties: { a: { type: 'integer' } }, required: ['a'] };
    await post(app, '/v1/chat/completions', ask({ response_format: { type: 'json_object' } }));
    const format = { type: 'json_schema', json_schema: { name: 'n', schema, strict: true } };
    await post(app, '/v1/chat/completions', ask({ response_format: format }));
    await post(app, '/v1/chat/completions', ask({ response_format: { type: 'text' } }));
    expect(app.engine.requests.map((request) => request.grammar)).toEqual([
      { type: 'json_object', open: '<think>', after: '</think>' },
      { type: 'json_schema', spec: schema, open: '<think>', after: '</think>' },
      undefined,
    ]);
  });
});

describe('C. An answer cut within a call', () => {
  const cut = (tokens: string[]) => server({ models: [qwen], reply: () => ({ tokens, reason: 'length' }) });

  it('has none of its markup and ends with length, streamed or not', async () => {
    for (const [tokens, content] of [
      [['Ok.', '\n<tool_call>'], 'Ok.'],
      [['Ok.', '\n<tool_call>', '\n{"na'], 'Ok.'],
      [['<tool_call>', '\n{"name": "get_w'], ''],
    ] as const) {
      const app = await cut([...tokens]);
      const all = await chunks(app, { tools });
      expect(callDeltas(all)).toEqual([]);
      expect(all.map((chunk) => chunk.choices[0]!.delta.content ?? '').join('')).toBe(content);
      expect(all.at(-1)!.choices[0]!.finish_reason).toBe('length');
      const { choices } = await client(app).chat.completions.create(ask({ tools }) as never);
      expect(choices[0]).toMatchObject({ finish_reason: 'length', message: { content } });
      expect(choices[0]!.message.tool_calls).toBeUndefined();
    }
  });

  it('has the calls that were whole, and the last as far as it came', async () => {
    const first = weather.join('');
    for (const [more, calls] of [
      ['\n<tool_call>\n{"na', ['{"city": "Paris"}']],
      ['\n<tool_call>\n{"name": "ping", "arguments": {"a', ['{"city": "Paris"}', '{"a']],
    ] as const) {
      const app = await cut([first, more]);
      const { choices } = await client(app).chat.completions.create(ask({ tools }) as never);
      const given = choices[0]!.message.tool_calls as Array<{ function: { arguments: string } }>;
      expect(given.map((call) => call.function.arguments)).toEqual(calls);
      expect(choices[0]!.finish_reason).toBe('length');
    }
  });
});
