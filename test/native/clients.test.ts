// Four client libraries against the real server: the built engine, the model that ships, and a chat template that knows
// tools, so that calls and objects come from the engine's grammars. HEARTH_BASE_URL names a server that runs already
// (npm start -- --chat-template FILE); without it one is started here.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import Anthropic from '@anthropic-ai/sdk';
import { HumanMessage } from '@langchain/core/messages';
import { tool as langchainTool } from '@langchain/core/tools';
import { ChatOpenAI, OpenAIEmbeddings } from '@langchain/openai';
import { generateText, Output, streamText, tool } from 'ai';
import OpenAI from 'openai';
import { zodResponseFormat } from 'openai/helpers/zod';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { defaultLibrary } from '../../server/engine/native/library.ts';
import { ServerProcess } from '../load/server-process.ts';

const library = process.env.HEARTH_ENGINE_LIBRARY ?? defaultLibrary;
const folder = mkdtempSync(join(tmpdir(), 'hearth-clients-'));
let started: ServerProcess | null = null;
let url = process.env.HEARTH_BASE_URL ?? '';

beforeAll(async () => {
  if (url) return;
  const file = new URL('../fixtures/chat-templates/cases-huggingface-jinja-e2e.jsonl', import.meta.url);
  const cases = readFileSync(file, 'utf8').split('\n').filter(Boolean);
  const known = cases.map((line) => JSON.parse(line) as { name: string; chat_template: string });
  writeFileSync(
    join(folder, 'tools.jinja'),
    known.find(({ name }) => name === 'Qwen/Qwen2.5-7B-Instruct')!.chat_template,
  );
  started = new ServerProcess([
    ...['--device', 'cpu', '--engine-library', library],
    ...['--chat-template', join(folder, 'tools.jinja')],
  ]);
  await started.ready();
  url = started.url;
}, 60_000);

afterAll(async () => {
  started?.stop();
  expect(await started?.exited).toBe(started ? 0 : undefined);
  expect(started?.problems ?? []).toEqual([]);
  rmSync(folder, { recursive: true });
}, 30_000);

/** Nothing in it is free text: a small model would write on and on. */
const place = z.object({ city: z.enum(['Paris', 'Oslo']), now: z.boolean(), since: z.iso.date() });
const model = 'default';
const question = 'Tell me about a dog.';
const png = readFileSync(new URL('../fixtures/images/pillow-hopper.png', import.meta.url));
const dataUrl = `data:image/png;base64,${png.toString('base64')}`;

describe('the OpenAI SDK', () => {
  const sdk = () => new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 });
  const messages = [{ role: 'user' as const, content: question }];

  it('accumulates a stream to what is answered without one', async () => {
    const body = { model, messages, max_tokens: 40, temperature: 0 };
    const whole = await sdk().chat.completions.create(body);
    const streamed = await sdk().chat.completions.stream(body).finalChatCompletion();
    expect(streamed.choices[0]!.message.content).toBe(whole.choices[0]!.message.content);
    expect(whole.choices[0]!.message.content!.length).toBeGreaterThan(10);
  });

  it('gives the same answer to a request with a prediction, and says how much of it was right', async () => {
    const body = { model, messages, max_tokens: 60, temperature: 0 };
    const plain = await sdk().chat.completions.create(body);
    const answer = plain.choices[0]!.message.content!;
    const details = async (content: string) => {
      const predicted = await sdk().chat.completions.create({ ...body, prediction: { type: 'content', content } });
      expect(predicted.choices[0]!.message.content).toBe(answer);
      return predicted.usage!.completion_tokens_details!;
    };
    expect((await details(answer.slice(0, 5) + answer.slice(9))).rejected_prediction_tokens).toBeGreaterThanOrEqual(0);
    await expect
      .poll(async () => (await details(answer)).accepted_prediction_tokens, { timeout: 15_000 })
      .toBeGreaterThan(0); // once the engine knows what a step takes
    expect(plain.usage!.completion_tokens_details!.accepted_prediction_tokens).toBe(0);
  });

  it('parses an object of a schema', async () => {
    const response_format = zodResponseFormat(place, 'place');
    const { choices } = await sdk().chat.completions.parse({
      model,
      messages,
      max_tokens: 200,
      temperature: 0,
      response_format,
    });
    expect(place.parse(choices[0]!.message.parsed)).toBeTruthy();
  });

  it('runs a tool that it was made to call', async () => {
    const seen: unknown[] = [];
    const run = sdk().chat.completions.runTools({
      model,
      messages,
      max_tokens: 200,
      temperature: 0,
      tool_choice: { type: 'function', function: { name: 'weather' } },
      tools: [
        {
          type: 'function',
          function: {
            name: 'weather',
            description: 'The weather',
            strict: true,
            parameters: z.toJSONSchema(place) as Record<string, unknown>,
            parse: (text: string) => place.parse(JSON.parse(text)),
            function: (given: z.output<typeof place>) => {
              seen.push(given);
              return 'rain';
            },
          },
        },
      ],
    });
    await run.done();
    expect(seen).toHaveLength(1);
    place.parse(seen[0]);
  });

  it('goes on with a response, sees a picture, embeds, and knows errors', async () => {
    const first = await sdk().responses.create({ model, input: question, max_output_tokens: 20 });
    const content = [
      { type: 'input_image' as const, image_url: dataUrl, detail: 'auto' as const },
      { type: 'input_text' as const, text: 'What is it?' },
    ];
    const second = await sdk().responses.create({
      model,
      input: [{ role: 'user', content }],
      previous_response_id: first.id,
      max_output_tokens: 20,
    });
    expect(second.usage!.input_tokens).toBeGreaterThan(first.usage!.input_tokens + 40);
    const { data } = await sdk().embeddings.create({ model, input: ['a dog', 'the sea'] });
    expect(data.map(({ embedding }) => embedding.length)).toEqual([
      data[0]!.embedding.length,
      data[0]!.embedding.length,
    ]);
    await expect(sdk().chat.completions.create({ model: 'nobody', messages })).rejects.toThrow(OpenAI.NotFoundError);
  });
});

describe('the Vercel AI SDK', () => {
  const ai = () =>
    createOpenAICompatible({
      name: 'hearth',
      baseURL: `${url}/v1`,
      apiKey: 'none',
      includeUsage: true,
      supportsStructuredOutputs: true,
    })(model);

  it('generates and streams the same text, with usage', async () => {
    const options = { model: ai(), prompt: question, maxOutputTokens: 40, temperature: 0 };
    const whole = await generateText(options);
    const streamed = streamText(options);
    let text = '';
    for await (const piece of streamed.textStream) text += piece;
    expect(text).toBe(whole.text);
    expect((await streamed.usage).outputTokens).toBe(whole.usage.outputTokens);
  });

  it('gets an object, and runs a tool', async () => {
    const output = Output.object({ schema: place });
    const { output: object } = await generateText({
      model: ai(),
      prompt: question,
      output,
      maxOutputTokens: 200,
      temperature: 0,
    });
    place.parse(object);
    const weather = tool({
      description: 'The weather',
      inputSchema: place,
      execute: async ({ city }) => `rain in ${city}`,
    });
    const { toolResults } = await generateText({
      model: ai(),
      prompt: question,
      tools: { weather },
      toolChoice: 'required',
      temperature: 0,
      maxOutputTokens: 200,
    });
    expect(toolResults[0]!.output).toMatch(/^rain in (Paris|Oslo)$/);
  });
});

describe('LangChain', () => {
  const chat = (extra = {}) =>
    new ChatOpenAI({ model, apiKey: 'none', maxRetries: 0, configuration: { baseURL: `${url}/v1` }, ...extra });

  it('invokes and streams the same text', async () => {
    const one = chat({ temperature: 0, maxTokens: 40 });
    const whole = await one.invoke([new HumanMessage(question)]);
    let text = '';
    for await (const piece of await one.stream([new HumanMessage(question)])) text += piece.text;
    expect(text).toBe(whole.text);
    expect(whole.usage_metadata!.output_tokens).toBeGreaterThan(5);
  });

  it('gets an object, a tool call, and embeddings', async () => {
    const structured = chat({ maxTokens: 200, temperature: 0 }).withStructuredOutput(place, {
      method: 'jsonSchema',
      name: 'place',
    });
    place.parse(await structured.invoke(question));
    const weather = langchainTool(async () => 'rain', { name: 'weather', description: 'The weather', schema: place });
    const calling = chat({ maxTokens: 200, temperature: 0 }).bindTools([weather], { tool_choice: 'required' });
    const { tool_calls } = await calling.invoke([new HumanMessage(question)]);
    expect(tool_calls![0]!.name).toBe('weather');
    place.parse(tool_calls![0]!.args);
    const vectors = new OpenAIEmbeddings({ model, apiKey: 'none', configuration: { baseURL: `${url}/v1` } });
    expect((await vectors.embedDocuments(['a dog', 'the sea'])).map((vector) => vector.length)).toHaveLength(2);
  });
});

describe('the Anthropic SDK', () => {
  const sdk = () => new Anthropic({ baseURL: url, apiKey: 'none', maxRetries: 0 });
  const messages = [{ role: 'user' as const, content: question }];

  it('answers and streams the same text, and counts tokens', async () => {
    const body = { model, max_tokens: 40, temperature: 0, messages };
    const whole = await sdk().messages.create(body);
    const streamed = await sdk().messages.stream(body).finalMessage();
    expect(streamed.content).toEqual(whole.content);
    expect(streamed.usage.output_tokens).toBe(whole.usage.output_tokens);
    expect((await sdk().messages.countTokens({ model, messages })).input_tokens).toBe(
      whole.usage.input_tokens + (whole.usage.cache_read_input_tokens ?? 0),
    );
  });

  it('uses a tool that it was made to use, and sees a picture', async () => {
    const input_schema = z.toJSONSchema(place) as Anthropic.Tool.InputSchema;
    const used = await sdk()
      .messages.stream({
        model,
        max_tokens: 200,
        temperature: 0,
        messages,
        tools: [{ name: 'weather', description: 'The weather', input_schema }],
        tool_choice: { type: 'tool', name: 'weather' },
      })
      .finalMessage();
    const block = used.content.find(({ type }) => type === 'tool_use');
    place.parse((block as Anthropic.ToolUseBlock).input);
    expect(used.stop_reason).toBe('tool_use');
    const source = { type: 'base64' as const, media_type: 'image/png' as const, data: png.toString('base64') };
    const seen = await sdk().messages.create({
      model,
      max_tokens: 20,
      messages: [
        {
          role: 'user',
          content: [
            { type: 'image', source },
            { type: 'text', text: 'What is it?' },
          ],
        },
      ],
    });
    expect(seen.usage.input_tokens).toBeGreaterThan(40);
  });
});
