// LangChain JS as a second client, on chat completions and on the Responses API.

import { HumanMessage, SystemMessage, ToolMessage } from '@langchain/core/messages';
import { tool } from '@langchain/core/tools';
import { ChatOpenAI, OpenAIEmbeddings } from '@langchain/openai';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { EngineError } from '../../server/engine/port.ts';
import type { TestApp } from '../support/app.ts';
import { person, personTokens, png, server, weatherCall } from './support.ts';

const chat = (app: TestApp, extra = {}) =>
  new ChatOpenAI({
    model: 'tiny',
    apiKey: 'none',
    maxRetries: 0,
    configuration: { baseURL: `${app.url}/v1` },
    ...extra,
  });

const getWeather = tool(async ({ city }: { city: string }) => `rain in ${city}`, {
  name: 'get_weather',
  description: 'The weather of a city',
  schema: z.object({ city: z.string() }),
});

describe('LangChain', () => {
  it('invokes and streams the same text, with usage', async () => {
    const app = await server(() => ({ tokens: ['It is ', '🌧️.'], promptTokens: 9 }));
    for (const useResponsesApi of [false, true]) {
      const model = chat(app, { useResponsesApi });
      const messages = [new SystemMessage('Be brief.'), new HumanMessage('Weather?')];
      const whole = await model.invoke(messages);
      expect(whole.text).toBe('It is 🌧️.');
      expect(whole.usage_metadata).toMatchObject({ input_tokens: 9, output_tokens: 2, total_tokens: 11 });
      let text = '';
      for await (const piece of await model.stream(messages)) text += piece.text;
      expect(text).toBe(whole.text);
    }
  });

  it('binds tools and takes their results, streamed and not', async () => {
    const app = await server((_request, index) => ({ tokens: index < 2 ? weatherCall : ['It rains.'] }));
    const model = chat(app).bindTools([getWeather]);
    const question = new HumanMessage('Weather?');
    const asked = await model.invoke([question]);
    expect(asked.tool_calls).toMatchObject([{ name: 'get_weather', args: { city: 'Paris' }, type: 'tool_call' }]);
    let streamed = null;
    for await (const piece of await model.stream([question])) streamed = streamed ? streamed.concat(piece) : piece;
    expect(streamed!.tool_calls).toMatchObject([{ name: 'get_weather', args: { city: 'Paris' } }]);
    const result = (await getWeather.invoke(asked.tool_calls![0]!)) as ToolMessage;
    expect(result).toBeInstanceOf(ToolMessage);
    const answer = await model.invoke([question, asked, result]);
    expect(answer.text).toBe('It rains.');
    expect(app.engine.requests[2]!.text).toContain('<tool_response>\nrain in Paris\n</tool_response>');
  });

  it('asks for structured output by schema', async () => {
    const app = await server(() => ({ tokens: personTokens }));
    const schema = z.object({ name: z.string(), age: z.number() });
    const model = chat(app).withStructuredOutput(schema, { method: 'jsonSchema', name: 'person' });
    expect(await model.invoke('Who?')).toEqual(person);
    expect(app.engine.requests[0]!.grammar).toMatchObject({ type: 'json_schema' });
  });

  it('sends images', async () => {
    const app = await server(() => ({ tokens: ['A photo.'] }));
    const url = `data:image/png;base64,${png.toString('base64')}`;
    const content = [
      { type: 'text', text: 'What is it?' },
      { type: 'image_url', image_url: { url } },
    ];
    expect((await chat(app).invoke([new HumanMessage({ content })])).text).toBe('A photo.');
    expect(app.engine.requests[0]!.images).toMatchObject([{ width: 128, height: 128 }]);
  });

  it('embeds', async () => {
    const app = await server((request) => ({ embedding: [request.text.length, 0.5] }));
    const options = { model: 'tiny', apiKey: 'none', configuration: { baseURL: `${app.url}/v1` } };
    expect(await new OpenAIEmbeddings(options).embedDocuments(['one', 'three'])).toEqual([
      [3, 0.5],
      [5, 0.5],
    ]);
  });

  it('knows errors: what is retried, what is not, and one in a stream', async () => {
    const busy = await server((_request, index) =>
      index === 0 ? { refuse: new EngineError('busy', 'full') } : { tokens: ['ok'] },
    );
    expect((await chat(busy, { maxRetries: 1 }).invoke('x')).text).toBe('ok');
    const bad = await server(() => ({ refuse: new EngineError('invalid', 'no such thing') }));
    await expect(chat(bad, { maxRetries: 2 }).invoke('x')).rejects.toThrow(/no such thing/);
    expect(bad.engine.requests).toHaveLength(1);
    const dying = await server(() => ({ tokens: ['a'], fail: new EngineError('device', 'lost') }));
    const read = async () => {
      for await (const _piece of await chat(dying).stream('x'));
    };
    await expect(read()).rejects.toThrow(/engine has failed/);
  });
});
