// POST /tokenize, /detokenize and /apply-template, in the form vLLM gave them.

import { z } from 'zod';
import { messageSchema, toolSchema } from './chat.ts';
import { modelField, tokenIdSchema } from './common.ts';
import { optional } from './validation.ts';

const textMax = 64 * 1024 * 1024;
const chatFields = {
  messages: z.array(messageSchema).min(1).max(16_384),
  tools: optional(z.array(toolSchema).max(128)),
  chat_template_kwargs: optional(z.record(z.string().max(64), z.unknown())),
  add_generation_prompt: optional(z.boolean()),
};

const ofText = z.strictObject({
  model: modelField,
  prompt: z.string().max(textMax),
  add_special_tokens: optional(z.boolean()),
});
export const applyTemplateRequestSchema = z.strictObject({ model: modelField, ...chatFields });
export const tokenizeRequestSchema = z.union([ofText, applyTemplateRequestSchema], {
  error: 'must hold prompt, or messages',
});
export const detokenizeRequestSchema = z.strictObject({
  model: modelField,
  tokens: z.array(tokenIdSchema).max(1_048_576),
});

export const tokenizeResponseSchema = z.object({
  count: z.int(),
  max_model_len: z.int(),
  tokens: z.array(z.int()),
});
export const detokenizeResponseSchema = z.object({ prompt: z.string() });
export const applyTemplateResponseSchema = z.object({ prompt: z.string() });

export type ApplyTemplateRequest = z.output<typeof applyTemplateRequestSchema>;
