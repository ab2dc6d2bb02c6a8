// POST /v1/embeddings on the wire.

import { z } from 'zod';
import { ignoredFields, modelField, tokenIdSchema } from './common.ts';
import { optional } from './validation.ts';

const textMax = 64 * 1024 * 1024;
const inputsMax = 2048;
const text = z.string().min(1).max(textMax);
const ids = z.array(tokenIdSchema).min(1).max(1_048_576);

export const embeddingRequestSchema = z.strictObject({
  model: modelField,
  input: z.union([text, ids, z.array(text).min(1).max(inputsMax), z.array(ids).min(1).max(inputsMax)], {
    error: `must be a string, up to ${inputsMax} strings, an array of token ids or arrays of those, none empty`,
  }),
  encoding_format: optional(z.enum(['float', 'base64'])),
  dimensions: optional(z.int().min(1).max(1_048_576)),
  pooling: optional(z.enum(['mean', 'last'])).meta({ description: 'How token vectors become one; mean unless said.' }),
  normalize: optional(z.boolean()).meta({ description: 'Length 1, as OpenAI gives it; true unless said.' }),
  user: ignoredFields.user,
});

/** Little-endian floats in base64: what openai-node asks for by default. */
export function toBase64(values: Float32Array): string {
  return Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString('base64');
}

export const embeddingResponseSchema = z.object({
  object: z.literal('list'),
  data: z.array(
    z.object({
      object: z.literal('embedding'),
      index: z.int(),
      embedding: z.union([z.array(z.number()), z.string()]),
    }),
  ),
  model: z.string(),
  usage: z.object({ prompt_tokens: z.int(), total_tokens: z.int() }),
});
