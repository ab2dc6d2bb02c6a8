// One streamed chat completion, as the events the page cares about.
import type { Sampling } from '../state/settings';
import { ApiError, call } from './base';
import { readEvents } from './sse';

export type ContentPart = { type: 'text'; text: string } | { type: 'image_url'; image_url: { url: string } };
export interface WireMessage {
  role: 'system' | 'user' | 'assistant';
  content: string | ContentPart[];
}

export interface Usage {
  promptTokens: number;
  cachedTokens: number;
  completionTokens: number;
}

export type ChatEvent =
  | { type: 'text'; text: string }
  | { type: 'reasoning'; text: string }
  | { type: 'finish'; reason: string }
  | { type: 'usage'; usage: Usage };

interface WireChunk {
  error?: { message?: string; code?: string | null };
  choices?: Array<{
    delta?: { content?: string | null; reasoning_content?: string | null };
    finish_reason?: string | null;
  }>;
  usage?: {
    prompt_tokens: number;
    completion_tokens: number;
    prompt_tokens_details?: { cached_tokens?: number };
  } | null;
}

export async function* streamChat(
  model: string,
  messages: WireMessage[],
  sampling: Sampling,
  signal: AbortSignal,
): AsyncGenerator<ChatEvent> {
  const response = await call('v1/chat/completions', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      model,
      messages,
      stream: true,
      stream_options: { include_usage: true },
      ...wireSampling(sampling),
    }),
    signal,
  });
  if (!response.body) throw new ApiError(response.status, null, 'The answer has no body.');
  for await (const data of readEvents(response.body)) {
    if (data === '[DONE]') return;
    yield* eventsOf(JSON.parse(data) as WireChunk);
  }
  // A proxy may end a body in good form whose server is gone.
  throw new Error('the stream ended before [DONE]');
}

function* eventsOf(chunk: WireChunk): Generator<ChatEvent> {
  if (chunk.error)
    throw new ApiError(200, chunk.error.code ?? null, chunk.error.message ?? 'The server gave up on this answer.');
  const choice = chunk.choices?.[0];
  if (choice?.delta?.reasoning_content) yield { type: 'reasoning', text: choice.delta.reasoning_content };
  if (choice?.delta?.content) yield { type: 'text', text: choice.delta.content };
  if (choice?.finish_reason) yield { type: 'finish', reason: choice.finish_reason };
  if (chunk.usage) {
    const { prompt_tokens, completion_tokens, prompt_tokens_details } = chunk.usage;
    yield {
      type: 'usage',
      usage: {
        promptTokens: prompt_tokens,
        completionTokens: completion_tokens,
        cachedTokens: prompt_tokens_details?.cached_tokens ?? 0,
      },
    };
  }
}

/** Only what the person set: the rest is the model's own default. */
function wireSampling(sampling: Sampling): Record<string, number> {
  const names: Record<keyof Sampling, string> = {
    temperature: 'temperature',
    topP: 'top_p',
    topK: 'top_k',
    minP: 'min_p',
    maxTokens: 'max_tokens',
    seed: 'seed',
    repetitionPenalty: 'repetition_penalty',
  };
  const wire: Record<string, number> = {};
  for (const [key, value] of Object.entries(sampling)) {
    if (typeof value === 'number' && Number.isFinite(value)) wire[names[key as keyof Sampling]] = value;
  }
  return wire;
}
