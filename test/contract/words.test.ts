// What a wrong field is told: one problem a field, in words that need no knowledge of the validator.

import { expect, it } from 'vitest';
import { EngineError } from '../../server/engine/port.ts';
import { toApiError } from '../../server/http/engine-errors.ts';
import { messagesRequestSchema } from '../../server/openai/anthropic.ts';
import { chatRequestSchema } from '../../server/openai/chat.ts';
import { responseRequestSchema } from '../../server/openai/responses.ts';
import { validate } from '../../server/openai/validation.ts';

const messages = [{ role: 'user', content: 'x' }];
const cases: Array<[body: object, message: string]> = [
  [{}, "Invalid 'messages': is missing."],
  [{ messages: 'x' }, "Invalid 'messages': must be an array, not a string."],
  [{ messages: [] }, "Invalid 'messages': must have at least 1 item."],
  [{ messages, max_tokens: 0 }, "Invalid 'max_tokens': must be at least 1."],
  [{ messages, seed: 1e20 }, "Invalid 'seed': must be at most 9007199254740991."],
  [{ messages, seed: 1.5 }, "Invalid 'seed': must be an integer, not 1.5."],
  [{ messages, top_p: 0 }, "Invalid 'top_p': must be more than 0."],
  [{ messages, stop: '' }, "Invalid 'stop': must have at least 1 character."],
  [{ messages, stream: 'yes' }, "Invalid 'stream': must be a boolean, not a string."],
  [{ messages, logit_bias: { abc: 1 } }, "Invalid 'logit_bias.abc': the key must be a token id."],
  [
    { messages, reasoning_effort: 'huge' },
    "Invalid 'reasoning_effort': must be 'none', 'minimal', 'low', 'medium', 'high' or 'xhigh'.",
  ],
];

it.each(cases)('%j', (body, message) => {
  expect(validate(chatRequestSchema, body, false)).toMatchObject({ ok: false, problem: { message } });
});

it.each([
  [{ role: 'system', content: 'x' }, "Invalid 'messages[0].role': must be 'user' or 'assistant'."],
  [{ content: 'x' }, "Invalid 'messages[0].role': is missing."],
  [
    { role: 'assistant', content: [{ type: 'server_tool_use' }] },
    "Invalid 'messages[0].content[0].type': must be 'text', 'tool_use' or 'thinking'.",
  ],
])('%j, of Anthropic', (given, message) => {
  const body = { max_tokens: 1, messages: [given] };
  expect(validate(messagesRequestSchema, body, false)).toMatchObject({ ok: false, problem: { message } });
});

// Their number is the client's: work that grows with its square stops the server for everyone (it did, for minutes).
it('a field that nobody knows, among half a million', () => {
  const unknown = Object.fromEntries(Array.from({ length: 500_000 }, (_, i) => [`k${i}`, i % 2 || null]));
  const refused = validate(chatRequestSchema, { messages, ...unknown }, false);
  expect(refused).toEqual({ ok: false, problem: { kind: 'unsupported', param: 'k1' } });
  const lenient = validate(chatRequestSchema, { messages, ...unknown }, true);
  expect(lenient.ok && lenient.dropped.length).toBe(250_000);
});

it('a tool that only runs elsewhere', () => {
  const body = { input: 'x', tools: [{ type: 'web_search' }] };
  const message = "Invalid 'tools[0].type': must be 'function': no tool runs on this server";
  const { problem } = validate(responseRequestSchema, body, false) as { problem: { message: string } };
  expect(problem.message).toContain(message);
});

it('functions in their older form, and answers that are not text', () => {
  const wordsOf = (extra: object) => {
    const { problem } = validate(chatRequestSchema, { messages, ...extra }, false) as { problem?: { message: string } };
    return problem?.message;
  };
  expect(wordsOf({ functions: [{ name: 'f' }] })).toContain("'functions': is the older form of tools");
  expect(wordsOf({ modalities: ['text', 'audio'] })).toContain("'modalities[1]': must be 'text'");
  for (const neutral of [{ functions: [] }, { modalities: ['text'] }, { modalities: null }]) {
    expect(wordsOf(neutral)).toBeUndefined();
  }
});

it('what the engine refuses names the field of the wire', () => {
  const paramOf = (message: string) => toApiError(new EngineError('invalid', message), 'prompt').param;
  expect(paramOf('"logit_bias" has id 99, outside the vocabulary')).toBe('logit_bias');
  expect(paramOf('"stop_tokens" has id 99, outside the vocabulary')).toBe('stop_token_ids');
  expect(paramOf('the prompt is empty')).toBe('prompt');
  expect(paramOf('something else')).toBeNull();
});
