// An Engine that follows a script: what HTTP tests and the server's own measurements drive instead of a model.

import { EventStream } from '../../server/engine/event-stream.ts';
import {
  type Engine,
  EngineError,
  type EngineRequest,
  type EngineStats,
  type EngineStream,
  type FinishReason,
  type LoadOptions,
  type MemoryDemand,
  type ModelInfo,
  type RequestUsage,
  type TokenLogprob,
} from '../../server/engine/port.ts';

export interface Script {
  /** One entry a token: its text, or the text and what else the token event carries. */
  tokens?: ReadonlyArray<string | { text: string; special?: boolean; id?: number }>;
  promptTokens?: number;
  cachedTokens?: number;
  imageTokens?: number;
  predictedTokens?: number;
  predictedAccepted?: number;
  /** Milliseconds before the first token and between tokens; 0 gives all in one turn of the event loop. */
  firstMs?: number;
  everyMs?: number;
  /** No token comes before this resolves. */
  after?: Promise<void>;
  reason?: FinishReason;
  stop?: string | number | null;
  heldBack?: string;
  /** Refused by submit(). */
  refuse?: EngineError;
  /** Ends the stream with this error, after the tokens. */
  fail?: EngineError;
  /** Leaves out the accepted event, as an engine that has none would. */
  silent?: boolean;
  embedding?: number[];
}

/** What loading a model that is not there yet is like. */
export interface ScriptedModel {
  info?: Partial<ModelInfo>;
  loadMs?: number;
  /** Loading does not end before this resolves. */
  after?: Promise<void>;
  /** MiB it takes. */
  mb?: number;
  fail?: EngineError;
}

export interface ScriptedOptions {
  /** Models that can be loaded, by name. */
  loadable?: Record<string, ScriptedModel>;
  /** Memory for all of them. */
  memoryMb?: number;
  /** The plan finds room that is gone when the load comes. */
  planIsLate?: boolean;
  models?: Partial<ModelInfo>[];
  reply?: (request: EngineRequest, index: number) => Script;
}

export const scriptedModel: ModelInfo = {
  name: 'tiny',
  architecture: 'LlamaForCausalLM',
  parameters: 1000,
  vocabulary: 256,
  context: 512,
  maxSequences: 64,
  precision: 'f32',
  kv: 'f32',
  device: 'cpu',
  vision: null,
  bos: 1,
  eos: [2],
  specialTokens: { bos_token: '<s>', eos_token: '</s>' },
  sampling: {},
  chatTemplate:
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}" +
    '{% if add_generation_prompt %}<|assistant|>{% endif %}',
  memory: [],
  fingerprint: 'fp_test',
  notes: [],
};

const delay = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));
const encoder = new TextEncoder();

interface Live {
  model: string;
  stream: EventStream;
  cancelled: boolean;
}

export class ScriptedEngine implements Engine {
  readonly requests: EngineRequest[] = [];
  readonly live = new Set<Live>();
  cancelled = 0;
  dead: EngineError | null = null;
  #models: ModelInfo[];
  readonly #options: ScriptedOptions;
  #reply: (request: EngineRequest, index: number) => Script;

  constructor(options: ScriptedOptions = {}) {
    this.#options = options;
    this.#models = (options.models ?? [{}]).map((model) => ({ ...scriptedModel, ...model }));
    this.#reply = options.reply ?? (() => ({ tokens: ['Hello', ',', ' world', '!'] }));
  }

  submit(request: EngineRequest): Promise<EngineStream> {
    const script = this.#reply(request, this.requests.length);
    this.requests.push(request);
    if (this.dead) return Promise.reject(this.dead);
    if (script.refuse) return Promise.reject(script.refuse);
    if (!this.#models.some(({ name }) => name === request.model)) {
      this.violations.push(`a request came for ${request.model}, which is not loaded`);
      return Promise.reject(new EngineError('not_found', `no model named ${request.model}`));
    }
    const live: Live = {
      model: request.model,
      cancelled: false,
      stream: new EventStream(() => {
        if (!live.cancelled) this.cancelled++;
        live.cancelled = true;
      }),
    };
    this.live.add(live);
    void this.#play(request, script, live).finally(() => this.live.delete(live));
    return Promise.resolve(live.stream);
  }

  async #play(request: EngineRequest, script: Script, live: Live): Promise<void> {
    const tokens = script.tokens ?? ['ok'];
    const limit = Math.min(tokens.length, request.maxTokens || Number.POSITIVE_INFINITY);
    if (!script.silent) live.stream.push({ type: 'accepted', promptTokens: script.promptTokens ?? 3 });
    if (request.promptLogprobs) this.#playPrompt(live);
    if (script.embedding) live.stream.push({ type: 'embedding', values: Float32Array.from(script.embedding) });
    await this.#opening(script.after, live);
    let sent = 0;
    for (; sent < limit && request.kind === 'generate'; sent++) {
      await this.#pause(sent === 0 ? (script.firstMs ?? script.everyMs ?? 0) : (script.everyMs ?? 0), live);
      if (live.cancelled) break;
      const token = tokens[sent]!;
      const { text, special = false, id = sent } = typeof token === 'string' ? { text: token } : token;
      live.stream.push({ type: 'token', token: id, text, special, ...logprobsOf(request, id, text) });
    }
    if (script.fail && !live.cancelled) return live.stream.fail(script.fail);
    const natural = script.reason ?? (request.kind !== 'generate' ? 'done' : limit < tokens.length ? 'length' : 'stop');
    const usage = usageOf(script, sent);
    const reason = live.cancelled ? 'cancelled' : natural;
    live.stream.push({ type: 'finished', reason, text: script.heldBack ?? '', stop: script.stop ?? null, usage });
  }

  #playPrompt(live: Live): void {
    for (let index = 0; index < 3; index++) {
      const text = ['<s>', 'Once', ' upon'][index]!;
      const logprob = { token: index, logprob: index === 0 ? Number.NaN : -0.5, bytes: encoder.encode(text) };
      live.stream.push({ type: 'prompt', index, logprob, top: index === 0 ? [] : [logprob] });
    }
  }

  async #pause(ms: number, live: Live): Promise<void> {
    for (let left = ms; left > 0 && !live.cancelled; left -= 5) await delay(Math.min(left, 5));
  }

  /** Until it opens or the request is cancelled. */
  async #opening(after: Promise<void> | undefined, live: Live): Promise<void> {
    let isOpen = after === undefined;
    void after?.then(() => {
      isOpen = true;
    });
    while (!isOpen && !live.cancelled) await delay(1);
  }

  /** Every change of what is loaded, in order. */
  readonly changes: string[] = [];
  /** What must never happen, and did. */
  readonly violations: string[] = [];
  #changing = false;

  #scripted(name: string): ScriptedModel {
    const found = this.#options.loadable?.[name];
    if (!found) throw new EngineError('not_found', `no model named ${name}`);
    return found;
  }

  #usedMb(): number {
    return this.#models.reduce((sum, { name }) => sum + (this.#options.loadable?.[name]?.mb ?? 0), 0);
  }

  async #change<T>(what: string, ms: number, work: () => T, after?: Promise<void>): Promise<T> {
    if (this.#changing) this.violations.push(`${what} during another change`);
    this.#changing = true;
    await delay(ms);
    await after;
    this.#changing = false;
    this.changes.push(what);
    return work();
  }

  loadModel({ name }: LoadOptions): Promise<ModelInfo> {
    if (!this.#options.loadable) return Promise.resolve(this.#models[0]!);
    const { info, loadMs = 0, mb = 0, fail, after } = this.#scripted(name);
    if (this.#models.some((model) => model.name === name)) this.violations.push(`${name} was loaded twice`);
    const work = () => {
      if (fail) throw fail;
      const { memoryMb = Number.POSITIVE_INFINITY } = this.#options;
      if (this.#usedMb() + mb > memoryMb) throw new EngineError('out_of_memory', `${name} does not fit`);
      const memory = [{ what: 'weights', bytes: mb * 1024 * 1024 }];
      const made = { ...scriptedModel, ...info, name, memory };
      this.#models.push(made);
      return made;
    };
    return this.#change(`load ${name}`, loadMs, work, after);
  }

  async planModel({ name }: LoadOptions, reclaimableMb: number): Promise<MemoryDemand> {
    const { mb = 0 } = this.#scripted(name);
    const { memoryMb = 1 << 20, planIsLate } = this.#options;
    if (planIsLate) return { memory: [], bytes: 0, availableBytes: 1 };
    const freeMb = memoryMb - this.#usedMb();
    await delay(0);
    if (mb > freeMb + reclaimableMb) {
      throw new EngineError('out_of_memory', `the model does not fit in ${memoryMb} MiB:\n  weights  ${mb} MiB`);
    }
    const bytes = mb * 1024 * 1024;
    return { memory: [{ what: 'weights', bytes }], bytes, availableBytes: freeMb * 1024 * 1024 };
  }

  unloadModel(name: string): Promise<void> {
    if ([...this.live].some((live) => live.model === name && !live.cancelled)) {
      this.violations.push(`${name} was unloaded while a request used it`);
    }
    return this.#change(`unload ${name}`, 1, () => {
      this.#models = this.#models.filter((model) => model.name !== name);
    });
  }

  models(): ModelInfo[] {
    return this.#models;
  }

  tokenize(_model: string, text: string, _literal: unknown, addSpecial: boolean): Promise<Int32Array> {
    const ids = [...encoder.encode(text)];
    return Promise.resolve(Int32Array.from(addSpecial ? [1, ...ids] : ids));
  }

  detokenize(_model: string, ids: Int32Array): Promise<string> {
    for (const id of ids) {
      if (id < 0 || id > 255) return Promise.reject(new EngineError('invalid', `token ${id} is out of range`));
    }
    return Promise.resolve(new TextDecoder().decode(Uint8Array.from(ids)));
  }

  job(): Promise<unknown> {
    return Promise.reject(new EngineError('unsupported', 'the scripted engine has no jobs'));
  }

  stats(): EngineStats {
    const empty = { waiting: 0, kvBlocksTotal: 100, kvBlocksUsed: 0, kvBlocksCached: 0, prefixHitTokens: 0 };
    const counters = { prefixQueryTokens: 0, preemptions: 0, promptTokens: 0, generationTokens: 0, steps: 0 };
    const images = { imageHits: 0, imageQueries: 0 };
    const drafts = { draftTokens: 0, draftAccepted: 0 };
    const host = {
      hostKvBlocksTotal: 0,
      hostKvBlocksUsed: 0,
      hostKvHitTokens: 0,
      hostKvSavedBytes: 0,
      hostKvFetchedBytes: 0,
    };
    const models = this.#models.map(({ name }) => ({
      model: name,
      running: this.live.size,
      ...empty,
      ...counters,
      ...images,
      ...drafts,
      ...host,
    }));
    return { models, memory: [] };
  }

  failure(): EngineError | null {
    return this.dead;
  }

  async close(): Promise<void> {
    for (const { stream } of this.live) stream.cancel();
    while (this.live.size) await delay(1);
  }
}

function logprobsOf(
  request: EngineRequest,
  id: number,
  text: string,
): { logprob?: TokenLogprob; top?: TokenLogprob[] } {
  if (!request.logprobs) return {};
  const logprob = { token: id, logprob: -0.25, bytes: encoder.encode(text) };
  const top = Array.from({ length: request.topLogprobs ?? 0 }, (_, rank) => ({ ...logprob, logprob: -0.25 - rank }));
  return { logprob, top };
}

function usageOf(script: Script, completionTokens: number): RequestUsage {
  return {
    promptTokens: script.promptTokens ?? 3,
    cachedTokens: script.cachedTokens ?? 0,
    imageTokens: script.imageTokens ?? 0,
    completionTokens,
    queueMs: 0,
    prefillMs: 1,
    decodeMs: completionTokens,
    draftTokens: 0,
    draftAccepted: 0,
    predictedTokens: script.predictedTokens ?? 0,
    predictedAccepted: script.predictedAccepted ?? 0,
  };
}
