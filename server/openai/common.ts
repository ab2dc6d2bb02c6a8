// Fields that several routes share.

import { z } from 'zod';
import { ignored, optional } from './validation.ts';

const int32Max = 2_147_483_647;

export const modelField = optional(z.string().min(1).max(512)).meta({
  description: "Name of a model from /v1/models; 'default' is the one the server was started with.",
});

export const tokenIdSchema = z.int().min(0).max(int32Max);

/** What shapes the choice of tokens. Fields left out take the model's own defaults. */
export const samplingFields = {
  temperature: optional(z.number().min(0).max(2)),
  top_p: optional(z.number().gt(0).max(1)),
  top_k: optional(z.int().min(-1).max(int32Max)).meta({ description: '0 or -1 switches it off.' }),
  min_p: optional(z.number().min(0).max(1)),
  repetition_penalty: optional(z.number().gt(0).max(10)),
  frequency_penalty: optional(z.number().min(-2).max(2)),
  presence_penalty: optional(z.number().min(-2).max(2)),
  seed: optional(z.int().min(Number.MIN_SAFE_INTEGER).max(Number.MAX_SAFE_INTEGER)),
  logit_bias: optional(z.record(z.string().regex(/^\d{1,10}$/, 'must be a token id'), z.number().min(-100).max(100))),
  min_tokens: optional(z.int().min(0).max(int32Max)),
  ignore_eos: optional(z.boolean()),
  stop: optional(
    z.union([z.string().min(1).max(1000), z.array(z.string().min(1).max(1000)).max(16)], {
      error: 'must be a string or up to 16 strings, none empty',
    }),
  ),
  stop_token_ids: optional(z.array(tokenIdSchema).max(64)),
  include_stop_str_in_output: optional(z.boolean()),
  skip_special_tokens: optional(z.boolean()),
  speculative: optional(z.boolean()).meta({ description: 'false switches speculative decoding off.' }),
} as const;

/** Accepted without effect (docs/api.md). */
export const ignoredFields = {
  user: ignored(z.string().max(4096)),
  metadata: ignored(z.record(z.string().max(64), z.string().max(512))),
  service_tier: ignored(z.string().max(64)),
  prompt_cache_key: ignored(z.string().max(4096)),
  safety_identifier: ignored(z.string().max(4096)),
} as const;

export const streamOptionsSchema = z.strictObject({
  include_usage: optional(z.boolean()),
  include_obfuscation: ignored(z.literal(false)),
});

/** What a tool's `type` that is another gets to hear. */
export const functionOnly = { error: "must be 'function': no tool runs on this server" };

export const maxTokensField = optional(z.int().min(1).max(int32Max));

type SamplingInput = {
  [K in keyof typeof samplingFields]?: z.output<(typeof samplingFields)[K]> | undefined;
};

/** Sampling fields of the wire in the words of the engine. Undefined fields stay out. */
export function toSampling(body: SamplingInput) {
  const sampling = {
    temperature: body.temperature,
    topP: body.top_p,
    topK: body.top_k === -1 ? 0 : body.top_k,
    minP: body.min_p,
    repetitionPenalty: body.repetition_penalty,
    frequencyPenalty: body.frequency_penalty,
    presencePenalty: body.presence_penalty,
    seed: body.seed === undefined ? undefined : foldSeed(body.seed),
    logitBias: body.logit_bias && Object.entries(body.logit_bias).map(([id, bias]) => [Number(id), bias] as const),
  };
  return defined({
    sampling: defined(sampling),
    minTokens: body.min_tokens,
    ignoreEos: body.ignore_eos,
    stop: body.stop === undefined ? undefined : [body.stop].flat(),
    stopTokens: body.stop_token_ids,
    includeStop: body.include_stop_str_in_output,
    skipSpecialTokens: body.skip_special_tokens,
    speculate: body.speculative,
  });
}

/** Leaves out keys whose value is undefined. */
export function defined<T extends object>(object: T): { [K in keyof T]?: Exclude<T[K], undefined> } & {} {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as never;
}

/** Any whole seed as the engine's 32 bits; values below 2^32 stay what they are. */
export function foldSeed(seed: number): number {
  const high = Math.floor(seed / 2 ** 32);
  return (seed >>> 0 === seed ? seed : (seed ^ Math.imul(high, 0x9e3779b1)) >>> 0) >>> 0;
}

/** The seed of choice k of a request: distinct, and for choice 0 the request's own. */
export function choiceSeed(seed: number, choice: number): number {
  return (seed + Math.imul(choice, 0x9e3779b1)) >>> 0;
}

/** A part of a turn, as templates get it. */
export type Part = { type: 'text'; text: string } | { type: 'image' };

/** What a tool gave back: text alone is a text, which every template takes. */
export function resultOf(parts: Part[]): string | Part[] {
  const texts = parts.filter((part) => part.type === 'text');
  return texts.length === parts.length ? texts.map(({ text }) => text).join('\n') : parts;
}

export interface UsageCounts {
  promptTokens: number;
  cachedTokens: number;
  completionTokens: number;
  reasoningTokens: number;
  /** Tokens of the request's prediction that were tried, and those that were right. */
  predictedTokens: number;
  predictedAccepted: number;
}

export function toUsage(counts: UsageCounts) {
  return {
    prompt_tokens: counts.promptTokens,
    completion_tokens: counts.completionTokens,
    total_tokens: counts.promptTokens + counts.completionTokens,
    prompt_tokens_details: { cached_tokens: counts.cachedTokens, audio_tokens: 0 },
    completion_tokens_details: {
      reasoning_tokens: counts.reasoningTokens,
      audio_tokens: 0,
      accepted_prediction_tokens: counts.predictedAccepted,
      rejected_prediction_tokens: counts.predictedTokens - counts.predictedAccepted,
    },
  };
}

export const usageSchema = z.object({
  prompt_tokens: z.int(),
  completion_tokens: z.int(),
  total_tokens: z.int(),
  prompt_tokens_details: z.object({ cached_tokens: z.int(), audio_tokens: z.int() }),
  completion_tokens_details: z.object({
    reasoning_tokens: z.int(),
    audio_tokens: z.int(),
    accepted_prediction_tokens: z.int(),
    rejected_prediction_tokens: z.int(),
  }),
});

export const errorSchema = z.object({
  error: z.object({
    message: z.string(),
    type: z.string(),
    param: z.string().nullable(),
    code: z.string().nullable(),
  }),
});
