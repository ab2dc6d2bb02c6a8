// The Vercel AI SDK as a second client: it reads streams, calls and errors in its own way.

import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, generateText, Output, stepCountIs, streamText, tool } from 'ai';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { EngineError } from '../../server/engine/port.ts';
import type { TestApp } from '../support/app.ts';
import { person, personTokens, png, server, thinking, weatherCall } from './support.ts';

const model = (app: TestApp) =>
  createOpenAICompatible({
    name: 'hearth',
    baseURL: `${app.url}/v1`,
    apiKey: 'none',
    includeUsage: true,
    supportsStructuredOutputs: true,
  })('tiny');

const getWeather = (seen: unknown[]) =>
  tool({
    description: 'The weather of a city',
    inputSchema: z.object({ city: z.string() }),
    execute: async (input) => {
      seen.push(input);
      return 'rain';
    },
  });

describe('the Vercel AI SDK', () => {
  it('generates and streams the same text, reasoning apart, with usage', async () => {
    const app = await server(() => ({ tokens: [...thinking, 'It is ', '🌧️.'], promptTokens: 9 }));
    const whole = await generateText({ model: model(app), system: 'Be brief.', prompt: 'Weather?' });
    expect(whole.text).toBe('It is 🌧️.');
    expect(whole.reasoningText).toContain('I need it.');
    expect(whole.finishReason).toBe('stop');
    expect(whole.usage).toMatchObject({ inputTokens: 9, outputTokens: 7, totalTokens: 16 });
    const streamed = streamText({ model: model(app), system: 'Be brief.', prompt: 'Weather?' });
    let text = '';
    for await (const piece of streamed.textStream) text += piece;
    expect(text).toBe(whole.text);
    expect(await streamed.reasoningText).toBe(whole.reasoningText);
    expect(await streamed.usage).toMatchObject({ inputTokens: 9, outputTokens: 7 });
  });

  it('runs tools to the end, streamed and not', async () => {
    for (const streams of [false, true]) {
      const app = await server((_request, index) => ({ tokens: index === 0 ? weatherCall : ['It rains.'] }));
      const seen: unknown[] = [];
      const options = {
        model: model(app),
        prompt: 'Weather?',
        tools: { get_weather: getWeather(seen) },
        stopWhen: stepCountIs(3),
      };
      const answer = streams ? streamText(options) : await generateText(options);
      expect(await answer.text).toBe('It rains.');
      expect(seen).toEqual([{ city: 'Paris' }]);
      expect((await answer.steps).map(({ finishReason }) => finishReason)).toEqual(['tool-calls', 'stop']);
      expect(app.engine.requests[1]!.text).toContain('<tool_response>\nrain\n</tool_response>');
    }
  });

  it('asks for objects by schema, which holds the engine to it', async () => {
    const app = await server(() => ({ tokens: personTokens }));
    const schema = z.object({ name: z.string(), age: z.number() });
    const answer = await generateText({ model: model(app), prompt: 'Who?', output: Output.object({ schema }) });
    expect(answer.output).toEqual(person);
    expect(app.engine.requests[0]!.grammar).toMatchObject({ type: 'json_schema' });
    expect(JSON.stringify(app.engine.requests[0]!.grammar)).toContain('"age"');
  });

  it('sends images', async () => {
    const app = await server(() => ({ tokens: ['A photo.'] }));
    const content = [
      { type: 'text' as const, text: 'What is it?' },
      { type: 'image' as const, image: new Uint8Array(png) },
    ];
    const answer = await generateText({ model: model(app), messages: [{ role: 'user', content }] });
    expect(answer.text).toBe('A photo.');
    expect(app.engine.requests[0]!.images).toMatchObject([{ width: 128, height: 128 }]);
  });

  it('knows errors: what is retried, what is not, and one in a stream', async () => {
    const busy = await server((_request, index) =>
      index === 0 ? { refuse: new EngineError('busy', 'full') } : { tokens: ['ok'] },
    );
    expect((await generateText({ model: model(busy), prompt: 'x', maxRetries: 1 })).text).toBe('ok');
    const bad = await server(() => ({ refuse: new EngineError('invalid', 'no such thing') }));
    const error = await generateText({ model: model(bad), prompt: 'x' }).then(
      () => null,
      (reason) => reason,
    );
    expect(APICallError.isInstance(error)).toBe(true);
    expect(error).toMatchObject({ statusCode: 400, message: 'no such thing', isRetryable: false });
    expect(bad.engine.requests).toHaveLength(1);
    const dying = await server(() => ({ tokens: ['a'], fail: new EngineError('device', 'lost') }));
    const problems: unknown[] = [];
    const streamed = streamText({
      model: model(dying),
      prompt: 'x',
      onError: ({ error: it }) => void problems.push(it),
    });
    await streamed.consumeStream();
    expect(problems).toHaveLength(1);
    expect(await streamed.finishReason).toBe('error');
  });

  it('stops the engine when it is told to', async () => {
    const app = await server(() => ({ tokens: Array(1000).fill('word '), everyMs: 10 }));
    const leaving = new AbortController();
    const streamed = streamText({ model: model(app), prompt: 'x', abortSignal: leaving.signal });
    for await (const _piece of streamed.textStream) leaving.abort();
    while (app.engine.live.size > 0) await new Promise((resolve) => setTimeout(resolve, 5));
    expect(app.engine.cancelled).toBe(1);
  });
});
