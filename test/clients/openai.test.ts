// The official SDK's helpers as oracles: parse() and the stream's own accumulator over a schema.

import OpenAI from 'openai';
import { LengthFinishReasonError } from 'openai/error';
import { zodResponseFormat, zodTextFormat } from 'openai/helpers/zod';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { person, personTokens, server } from './support.ts';

const schema = z.object({ name: z.string(), age: z.number() });
const messages = [{ role: 'user' as const, content: 'Who?' }];

describe('the OpenAI SDK', () => {
  it('parses chat answers by schema, streamed and not', async () => {
    const app = await server(() => ({ tokens: personTokens }));
    const client = new OpenAI({ baseURL: `${app.url}/v1`, apiKey: 'none', maxRetries: 0 });
    const body = { model: 'tiny', messages, response_format: zodResponseFormat(schema, 'person') };
    const whole = await client.chat.completions.parse(body);
    expect(whole.choices[0]!.message.parsed).toEqual(person);
    const streamed = await client.chat.completions.stream(body).finalChatCompletion();
    expect(streamed.choices[0]!.message.parsed).toEqual(person);
    for (const { grammar } of app.engine.requests) {
      expect(grammar).toMatchObject({ type: 'json_schema' });
      expect(JSON.stringify(grammar)).toContain('additionalProperties');
    }
  });

  it('refuses to parse an answer that was cut, by its finish_reason', async () => {
    const app = await server(() => ({ tokens: personTokens }));
    const client = new OpenAI({ baseURL: `${app.url}/v1`, apiKey: 'none', maxRetries: 0 });
    const body = { model: 'tiny', messages, max_tokens: 1, response_format: zodResponseFormat(schema, 'person') };
    await expect(client.chat.completions.parse(body)).rejects.toThrow(LengthFinishReasonError);
  });

  it('parses Responses by schema', async () => {
    const app = await server(() => ({ tokens: personTokens }));
    const client = new OpenAI({ baseURL: `${app.url}/v1`, apiKey: 'none', maxRetries: 0 });
    const body = { model: 'tiny', input: 'Who?', text: { format: zodTextFormat(schema, 'person') } };
    expect((await client.responses.parse(body)).output_parsed).toEqual(person);
  });
});
