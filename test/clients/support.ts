// What the client libraries' tests share: a model with Qwen's template that sees, and what it says.

import { readFileSync } from 'node:fs';
import { afterEach } from 'vitest';
import { type TestApp, testApp } from '../support/app.ts';
import type { ScriptedOptions } from '../support/scripted-engine.ts';

const templates = readFileSync(
  new URL('../fixtures/chat-templates/cases-huggingface-jinja-e2e.jsonl', import.meta.url),
  'utf8',
)
  .split('\n')
  .filter(Boolean)
  .map((line) => JSON.parse(line) as { name: string; chat_template: string });
const chatTemplate = templates.find(({ name }) => name === 'Qwen/Qwen3-0.6B')!.chat_template;
const vision = { family: 'test', placeholder: '<image>', tokensPerImage: 4 };

export const thinking = ['<think>', '\nI need', ' it.\n', '</think>', '\n\n'];
export const weatherCall = [
  '<tool_call>',
  '\n{"name": "get_weather", "argu',
  'ments": {"city": "Par',
  'is"}}',
  '\n</tool_call>',
];
export const person = { name: 'Ada', age: 36 };
export const personTokens = ['{"name"', ': "Ada", ', '"age": 36}'];

/** 128×128. */
export const png = readFileSync(new URL('../fixtures/images/pillow-hopper.png', import.meta.url));

let open: TestApp[] = [];

export async function server(reply: NonNullable<ScriptedOptions['reply']>): Promise<TestApp> {
  const specialTokens = { eos_token: '<|im_end|>' };
  const app = await testApp({ listen: true, models: [{ chatTemplate, vision, specialTokens }], reply });
  open.push(app);
  return app;
}

afterEach(async () => {
  const closing = open;
  open = [];
  await Promise.all(closing.map((app) => app.close()));
});
