// POST /v1/completions on the wire.

import { z } from 'zod';
import type { Envelope } from './chat.ts';
import {
  ignoredFields,
  modelField,
  samplingFields,
  streamOptionsSchema,
  tokenIdSchema,
  type toUsage,
  usageSchema,
} from './common.ts';
import { ignored, optional } from './validation.ts';

const textMax = 64 * 1024 * 1024;
const promptsMax = 2048;
const text = z.string().max(textMax);
const ids = z.array(tokenIdSchema).min(1).max(16_777_216);

const promptSchema = z.union([text, ids, z.array(text).min(1).max(promptsMax), z.array(ids).min(1).max(promptsMax)], {
  error: 'must be a string, an array of strings, an array of token ids or an array of those, none empty',
});

export const completionRequestSchema = z
  .strictObject({
    model: modelField,
    prompt: promptSchema,
    stream: optional(z.boolean()),
    stream_options: optional(streamOptionsSchema),
    n: optional(z.int().min(1).max(128)),
    max_tokens: optional(z.int().min(0).max(2_147_483_647)),
    ...samplingFields,
    echo: optional(z.boolean()),
    logprobs: optional(z.int().min(0).max(20)),
    ...ignoredFields,
    best_of: ignored(z.literal(1)),
  })
  .superRefine((body, context) => {
    const problem = (path: string, message: string) => context.addIssue({ code: 'custom', path: [path], message });
    if (body.stream_options && !body.stream) problem('stream_options', 'is only allowed with stream: true');
    if (body.max_tokens === 0 && !body.echo) problem('max_tokens', 'may only be 0 with echo: true');
  });

export type CompletionRequest = z.output<typeof completionRequestSchema>;

/** One prompt, as text or as token ids. */
export type CompletionPrompt = { text: string } | { ids: number[] };

export function toPrompts(prompt: CompletionRequest['prompt']): CompletionPrompt[] {
  if (typeof prompt === 'string') return [{ text: prompt }];
  if (typeof prompt[0] === 'number') return [{ ids: prompt as number[] }];
  return (prompt as Array<string | number[]>).map((one) => (typeof one === 'string' ? { text: one } : { ids: one }));
}

interface ScoredToken {
  logprob: number;
  bytes: Uint8Array;
}

const strict = new TextDecoder('utf-8', { fatal: true });

/** A token's text; what is not UTF-8 by itself in OpenAI's own spelling, so that keys stay distinct. */
export function tokenText(bytes: Uint8Array): string {
  try {
    return strict.decode(bytes);
  } catch {
    return `bytes:${[...bytes].map((byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('')}`;
  }
}

/** OpenAI's four parallel lists. */
export class CompletionLogprobs {
  tokens: string[] = [];
  token_logprobs: Array<number | null> = [];
  top_logprobs: Array<Record<string, number> | null> = [];
  text_offset: number[] = [];
  #offset = 0;

  add(token: ScoredToken, top: readonly ScoredToken[]): void {
    const text = tokenText(token.bytes);
    const unscored = Number.isNaN(token.logprob);
    this.tokens.push(text);
    this.token_logprobs.push(unscored ? null : finite(token.logprob));
    const entries = top.map((entry) => [tokenText(entry.bytes), finite(entry.logprob)] as const);
    this.top_logprobs.push(unscored ? null : Object.fromEntries(entries));
    this.text_offset.push(this.#offset);
    this.#offset += text.length;
  }

  /** What was added since the last call, and forgets it. Offsets go on. */
  take(): Pick<CompletionLogprobs, 'tokens' | 'token_logprobs' | 'top_logprobs' | 'text_offset'> {
    const { tokens, token_logprobs, top_logprobs, text_offset } = this;
    this.tokens = [];
    this.token_logprobs = [];
    this.top_logprobs = [];
    this.text_offset = [];
    return { tokens, token_logprobs, top_logprobs, text_offset };
  }
}

const finite = (value: number) => (Number.isFinite(value) ? value : -9999);

export interface CompletionChoice {
  text: string;
  logprobs: ReturnType<CompletionLogprobs['take']> | null;
  finishReason: 'stop' | 'length';
}

export function toCompletion(
  envelope: Envelope,
  choices: readonly CompletionChoice[],
  usage: ReturnType<typeof toUsage>,
) {
  return {
    id: envelope.id,
    object: 'text_completion' as const,
    created: envelope.created,
    model: envelope.model,
    system_fingerprint: envelope.fingerprint,
    choices: choices.map((choice, index) => ({
      index,
      text: choice.text,
      logprobs: choice.logprobs,
      finish_reason: choice.finishReason,
    })),
    usage,
  };
}

export const completionSchema = z.object({
  id: z.string(),
  object: z.literal('text_completion'),
  created: z.int(),
  model: z.string(),
  system_fingerprint: z.string(),
  choices: z.array(
    z.object({
      index: z.int(),
      text: z.string(),
      logprobs: z
        .object({
          tokens: z.array(z.string()),
          token_logprobs: z.array(z.number().nullable()),
          top_logprobs: z.array(z.record(z.string(), z.number()).nullable()),
          text_offset: z.array(z.int()),
        })
        .nullable(),
      finish_reason: z.enum(['stop', 'length']),
    }),
  ),
  usage: usageSchema,
});
