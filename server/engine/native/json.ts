// The JSON that crosses the wall: camelCase here, snake_case there. Undefined fields stay out, unknown ones are errors.

import type {
  EngineRequest,
  EngineStats,
  LoadOptions,
  MemoryDemand,
  ModelInfo,
  ModelStats,
  SamplingParameters,
} from '../port.ts';

export function toRequestJson(request: EngineRequest): Record<string, unknown> {
  const { sampling = {} } = request;
  return {
    kind: request.kind,
    add_special_tokens: request.addSpecialTokens,
    images: request.images?.map(({ width, height, detail }) => ({ width, height, detail })),
    max_tokens: request.maxTokens,
    min_tokens: request.minTokens,
    ignore_eos: request.ignoreEos,
    temperature: sampling.temperature,
    top_p: sampling.topP,
    min_p: sampling.minP,
    repetition_penalty: sampling.repetitionPenalty,
    frequency_penalty: sampling.frequencyPenalty,
    presence_penalty: sampling.presencePenalty,
    top_k: sampling.topK,
    seed: sampling.seed,
    logit_bias: sampling.logitBias,
    logprobs: request.logprobs,
    top_logprobs: request.topLogprobs,
    prompt_logprobs: request.promptLogprobs,
    stop: request.stop,
    stop_tokens: request.stopTokens,
    include_stop: request.includeStop,
    skip_special_tokens: request.skipSpecialTokens,
    grammar: request.grammar,
    priority: request.priority,
    speculate: request.speculate,
    prediction: request.prediction,
    pooling: request.pooling,
    normalize: request.normalize,
    dimensions: request.dimensions,
  };
}

export function toModelJson(options: LoadOptions): Record<string, unknown> {
  return {
    path: options.path,
    shape: options.shape,
    name: options.name,
    precision: options.precision,
    vision_precision: options.visionPrecision,
    group: options.group,
    kv: options.kv,
    head_bits: options.headBits,
    context: options.context,
    max_sequences: options.maxSequences,
    kv_tokens: options.kvTokens,
    memory_limit_mb: options.memoryLimitMb,
    prefill_chunk: options.prefillChunk,
    prefix_cache: options.prefixCache,
    host_kv_mb: options.hostKvMb,
    seed: options.seed,
  };
}

type Json = Record<string, unknown>;

/** Keys of one level in camelCase. */
const camelKeys = (object: Json): Json =>
  Object.fromEntries(
    Object.entries(object).map(([key, value]) => [
      key.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase()),
      value,
    ]),
  );

export function toModelInfo(json: Json): ModelInfo {
  const vision = json['vision'] as Json | null;
  return {
    ...(camelKeys(json) as unknown as ModelInfo),
    vision: vision ? (camelKeys(vision) as unknown as ModelInfo['vision']) : null,
    sampling: camelKeys((json['sampling'] as Json | undefined) ?? {}) as SamplingParameters,
    specialTokens: (json['special_tokens'] as Record<string, string> | undefined) ?? {},
    chatTemplate: (json['chat_template'] as string | null | undefined) ?? null,
    memory: (json['memory'] as ModelInfo['memory'] | undefined) ?? [],
    notes: (json['notes'] as string[] | undefined) ?? [],
  };
}

export function toMemoryDemand(result: unknown): MemoryDemand {
  const { memory, bytes, available_bytes } = result as Json;
  return {
    memory: memory as MemoryDemand['memory'],
    bytes: bytes as number,
    availableBytes: available_bytes as number,
  };
}

export function toEngineStats(json: Json): EngineStats {
  return {
    models: ((json['models'] as Json[] | undefined) ?? []).map((model) => camelKeys(model) as unknown as ModelStats),
    memory: (json['memory'] as EngineStats['memory'] | undefined) ?? [],
  };
}
