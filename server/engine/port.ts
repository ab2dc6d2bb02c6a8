// The Engine port: what the server needs of an engine, and nothing of how it is done.
// engine/native/ implements it over the C ABI; tests implement it with a script. All times are milliseconds.

/** A generated or prompt token with its log-probability. `bytes` are the token's raw bytes. */
export interface TokenLogprob {
  token: number;
  logprob: number;
  bytes: Uint8Array;
}

export interface TokenEvent {
  type: 'token';
  token: number;
  /** UTF-8 that became complete with this token; often empty. Never splits a character or a possible stop string. */
  text: string;
  special: boolean;
  /** Present when the request asked for log-probabilities. */
  logprob?: TokenLogprob;
  top?: TokenLogprob[];
}

export interface PromptTokenEvent {
  type: 'prompt';
  index: number;
  /** logprob is NaN for the first token, which nothing predicts. */
  logprob: TokenLogprob;
  top: TokenLogprob[];
}

export interface EmbeddingEvent {
  type: 'embedding';
  values: Float32Array;
}

/** The prompt was tokenized, fits the context and waits for its turn: from here on nothing but the engine's death or
    a cancel ends the request early. Comes before every other event, when it comes at all. */
export interface AcceptedEvent {
  type: 'accepted';
  promptTokens: number;
}

export type FinishReason = 'stop' | 'length' | 'cancelled' | 'done';

export interface FinishedEvent {
  type: 'finished';
  reason: FinishReason;
  /** Text that was held back for a possible stop string. */
  text: string;
  stop: string | number | null;
  usage: RequestUsage;
}

export interface RequestUsage {
  promptTokens: number;
  cachedTokens: number;
  imageTokens: number;
  completionTokens: number;
  queueMs: number;
  prefillMs: number;
  decodeMs: number;
  draftTokens: number;
  draftAccepted: number;
  /** Of these, from the request's prediction. */
  predictedTokens: number;
  predictedAccepted: number;
}

/** A request ends with exactly one FinishedEvent, or its iterator throws an EngineError. */
export type EngineEvent = AcceptedEvent | TokenEvent | PromptTokenEvent | EmbeddingEvent | FinishedEvent;

export type EngineErrorCode =
  | 'invalid'
  | 'not_found'
  | 'unsupported'
  | 'out_of_memory'
  | 'corrupt'
  | 'io'
  | 'device'
  | 'cancelled'
  | 'busy'
  | 'closed'
  | 'internal'
  | 'context_length_exceeded';

export class EngineError extends Error {
  constructor(
    readonly code: EngineErrorCode,
    message: string,
    readonly detail: Record<string, unknown> = {},
  ) {
    super(message);
    this.name = 'EngineError';
  }
}

/** RGB8, row-major, width*height*3 bytes, already oriented and composited on white. */
export interface DecodedImage {
  width: number;
  height: number;
  detail: 'auto' | 'low' | 'high';
  pixels: Uint8Array;
  /** Called by submit() once it has copied the pixels: their memory may be another picture's from then on. */
  release?: () => void;
}

export interface SamplingParameters {
  /** Fields left undefined take the model's own defaults (generation_config.json). */
  temperature?: number;
  topP?: number;
  topK?: number;
  minP?: number;
  repetitionPenalty?: number;
  frequencyPenalty?: number;
  presencePenalty?: number;
  seed?: number;
  logitBias?: ReadonlyArray<readonly [id: number, bias: number]>;
}

/** Constraint on the output; `spec` is what engine-native/src/grammar documents for the type. */
export interface GrammarSpec {
  type: 'json_schema' | 'json_object' | 'regex' | 'choice' | 'tools';
  spec?: unknown;
  /** Free text comes first and ends with this (</think>). */
  after?: string;
  /** With `after`: only where this begins it (<think>); else the constraint holds at once. */
  open?: string;
}

export interface EngineRequest {
  model: string;
  kind: 'generate' | 'embed' | 'score';
  /** Rendered prompt; `ids` are appended after it. */
  text: string;
  /** UTF-8 byte ranges [begin, end) of `text` where special tokens must not match: what users typed. */
  literal: ReadonlyArray<readonly [begin: number, end: number]>;
  ids?: Int32Array;
  addSpecialTokens?: boolean;
  images?: readonly DecodedImage[];
  sampling?: SamplingParameters;
  maxTokens?: number;
  minTokens?: number;
  ignoreEos?: boolean;
  stop?: readonly string[];
  stopTokens?: readonly number[];
  includeStop?: boolean;
  skipSpecialTokens?: boolean;
  logprobs?: boolean;
  topLogprobs?: number;
  promptLogprobs?: boolean;
  grammar?: GrammarSpec;
  priority?: number;
  speculate?: boolean;
  /** What the answer is expected to be: it comes faster where this is right, and is the same where it is wrong. */
  prediction?: string;
  pooling?: 'mean' | 'last';
  normalize?: boolean;
  dimensions?: number;
}

export interface VisionInfo {
  family: string;
  /** Text of the token that stands for one image in a rendered prompt. */
  placeholder: string;
  /** Tokens one image takes; null when it depends on its size. */
  tokensPerImage: number | null;
}

export interface ModelInfo {
  name: string;
  architecture: string;
  parameters: number;
  vocabulary: number;
  context: number;
  maxSequences: number;
  precision: string;
  kv: string;
  device: string;
  vision: VisionInfo | null;
  bos: number | null;
  eos: number[];
  /** Texts of bos/eos/unk/pad, as chat templates want them. */
  specialTokens: Record<string, string>;
  sampling: SamplingParameters;
  /** Jinja source, or null when the model has none. */
  chatTemplate: string | null;
  memory: Array<{ what: string; bytes: number }>;
  /** Stable for a build and weights: OpenAI's system_fingerprint. */
  fingerprint: string;
  /** For whoever runs it: what was rounded while loading, what stays in a wider form. */
  notes: string[];
}

export interface ModelStats {
  model: string;
  running: number;
  waiting: number;
  kvBlocksTotal: number;
  kvBlocksUsed: number;
  kvBlocksCached: number;
  prefixHitTokens: number;
  prefixQueryTokens: number;
  preemptions: number;
  promptTokens: number;
  generationTokens: number;
  steps: number;
  imageHits: number;
  imageQueries: number;
  draftTokens: number;
  draftAccepted: number;
  hostKvBlocksTotal: number;
  hostKvBlocksUsed: number;
  hostKvHitTokens: number;
  hostKvSavedBytes: number;
  hostKvFetchedBytes: number;
}

export interface EngineStats {
  models: ModelStats[];
  memory: Array<{ what: string; bytes: number }>;
}

export interface LoadOptions {
  path?: string;
  shape?: string;
  name: string;
  precision?: string;
  visionPrecision?: string;
  group?: number;
  kv?: string;
  headBits?: number;
  context?: number;
  maxSequences?: number;
  kvTokens?: number;
  memoryLimitMb?: number;
  prefillChunk?: number;
  prefixCache?: boolean;
  hostKvMb?: number;
  seed?: number;
}

/** What a load would take at the least, and what is free now. */
export interface MemoryDemand {
  memory: Array<{ what: string; bytes: number }>;
  bytes: number;
  availableBytes: number;
}

export interface Progress {
  stage: string;
  done: number;
  total: number;
  detail?: unknown;
}

/** A live request: iterate it once; leaving the loop early cancels it. */
export interface EngineStream extends AsyncIterable<EngineEvent> {
  /** Takes effect within one engine step; the iterator then ends with reason 'cancelled'. */
  cancel(): void;
}

export interface Engine {
  /** Resolves to a running request; rejects with EngineError when the engine refuses it (busy, invalid). */
  submit(request: EngineRequest): Promise<EngineStream>;
  /** Aborting the signal gives the load up: it rejects with 'cancelled'. */
  loadModel(options: LoadOptions, onProgress?: (progress: Progress) => void, signal?: AbortSignal): Promise<ModelInfo>;
  /** Rejects with out_of_memory when the model would not fit even with so much given back first. */
  planModel(options: LoadOptions, reclaimableMb: number): Promise<MemoryDemand>;
  unloadModel(name: string): Promise<void>;
  /** Models ready to serve. */
  models(): ModelInfo[];
  tokenize(
    model: string,
    text: string,
    literal: EngineRequest['literal'],
    addSpecialTokens: boolean,
  ): Promise<Int32Array>;
  detokenize(model: string, ids: Int32Array, skipSpecialTokens: boolean): Promise<string>;
  /** A long job: quantize, convert, evaluate, verify. Aborting the signal interrupts it cleanly. */
  job(job: Record<string, unknown>, onProgress?: (progress: Progress) => void, signal?: AbortSignal): Promise<unknown>;
  stats(): EngineStats;
  /** Set once the device or the engine thread died: nothing more will be served by this engine. */
  failure(): EngineError | null;
  /** Finishes every request, joins the engine's threads. Idempotent. */
  close(): Promise<void>;
}
