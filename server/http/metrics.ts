// Prometheus metrics under vLLM's names, so that the dashboards people have work here.

import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { ModelSet, ModelStatus } from '../engine/model-set.ts';
import type { Engine, FinishReason, RequestUsage } from '../engine/port.ts';
import type { Admission } from './admission.ts';
import type { KeyOwner } from './keys.ts';

const seconds = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640,
];
const interTokenSeconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5];
const counts = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000];
const labelNames = ['model_name'] as const;

export class Metrics {
  readonly registry = new Registry();
  readonly #success = new Counter({
    name: 'vllm:request_success_total',
    help: 'Finished requests by reason.',
    labelNames: ['model_name', 'finished_reason'],
    registers: [this.registry],
  });
  readonly #cancelled = new Counter({
    name: 'hearth:requests_cancelled_total',
    help: 'Requests that were cancelled: the client left, read too slowly, or the server stopped.',
    labelNames,
    registers: [this.registry],
  });
  readonly #refused = new Counter({
    name: 'hearth:requests_refused_total',
    help: 'Requests answered with an error, by status and code.',
    labelNames: ['status', 'code'],
    registers: [this.registry],
  });
  readonly #keyRequests = this.#keyCounter('hearth:key_requests_total', 'Requests by key.');
  readonly #keyPromptTokens = this.#keyCounter('hearth:key_prompt_tokens_total', 'Prompt tokens by key.');
  readonly #keyCachedTokens = this.#keyCounter(
    'hearth:key_cached_tokens_total',
    'Prompt tokens by key that were found in the prefix cache.',
  );
  readonly #keyNewTokens = this.#keyCounter('hearth:key_generation_tokens_total', 'Generated tokens by key.');
  readonly #keyLimited = new Counter({
    name: 'hearth:key_rate_limited_total',
    help: 'Requests refused by a key’s limit a minute.',
    labelNames: ['key', 'limit'],
    registers: [this.registry],
  });
  readonly #firstToken = this.#histogram('vllm:time_to_first_token_seconds', 'Time to the first token.', seconds);
  readonly #interToken = this.#histogram('vllm:inter_token_latency_seconds', 'Time between tokens.', interTokenSeconds);
  readonly #endToEnd = this.#histogram('vllm:e2e_request_latency_seconds', 'Time of whole requests.', seconds);
  readonly #queue = this.#histogram('vllm:request_queue_time_seconds', 'Time in the queue.', seconds);
  readonly #prefill = this.#histogram('vllm:request_prefill_time_seconds', 'Time of prefill.', seconds);
  readonly #decode = this.#histogram('vllm:request_decode_time_seconds', 'Time of decode.', seconds);
  readonly #promptTokens = this.#histogram('vllm:request_prompt_tokens', 'Tokens of prompts.', counts);
  readonly #newTokens = this.#histogram('vllm:request_generation_tokens', 'Tokens of answers.', counts);

  constructor(
    stats: () => Engine | null,
    models: () => ModelSet | null,
    admission: Pick<Admission, 'waiting' | 'owners'>,
  ) {
    collectDefaultMetrics({ register: this.registry, eventLoopMonitoringPrecision: 2 });
    this.#addEngineGauges(stats, admission);
    this.#addKeyGauge(admission);
    this.#addModelGauges(models);
  }

  #histogram(name: string, help: string, buckets: number[]) {
    return new Histogram({ name, help, buckets, labelNames, registers: [this.registry] });
  }

  #keyCounter(name: string, help: string) {
    return new Counter({ name, help, labelNames: ['key'], registers: [this.registry] });
  }

  #addKeyGauge(admission: Pick<Admission, 'owners'>): void {
    const gauge = new Gauge({
      name: 'hearth:key_requests_waiting',
      help: 'Requests by key that wait for their turn in front of the engine.',
      labelNames: ['key'],
      registers: [this.registry],
      collect: () => {
        gauge.reset();
        for (const { name, waiting } of admission.owners()) gauge.inc({ key: name }, waiting);
      },
    });
  }

  /** Models that may be loaded, loaded or not. */
  #addModelGauges(models: () => ModelSet | null): void {
    const add = (name: string, help: string, read: (status: ModelStatus) => number) => {
      const gauge = new Gauge({
        name,
        help,
        labelNames,
        registers: [this.registry],
        collect: () => {
          gauge.reset();
          for (const status of models()?.status() ?? []) gauge.set({ model_name: status.name }, read(status));
        },
      });
    };
    add('hearth:model_loaded', '1 while a model is in memory.', ({ state }) => Number(state === 'loaded'));
    add('hearth:model_requests', 'Requests that hold a model.', ({ inUse }) => inUse);
    add('hearth:model_requests_waiting', 'Requests that wait for a model to be loaded.', ({ waiting }) => waiting);
    add('hearth:model_loads_total', 'Loads that succeeded.', ({ counts }) => counts.loads);
    add('hearth:model_load_failures_total', 'Loads that failed.', ({ counts }) => counts.failures);
    add('hearth:model_load_seconds', 'What the last load took.', ({ counts }) => counts.loadSeconds);
    const unloads = new Gauge({
      name: 'hearth:model_unloads_total',
      help: 'Unloads by reason: idle, memory (another model needed it) or request.',
      labelNames: ['model_name', 'reason'],
      registers: [this.registry],
      collect: () => {
        unloads.reset();
        for (const { name, counts } of models()?.status() ?? []) {
          for (const [reason, many] of Object.entries(counts.unloads)) unloads.set({ model_name: name, reason }, many);
        }
      },
    });
  }

  /** Counts what the engine counts; read when the page is asked for. */
  #addEngineGauges(stats: () => Engine | null, admission: Pick<Admission, 'waiting'>): void {
    const add = (
      name: string,
      help: string,
      read: (model: ReturnType<Engine['stats']>['models'][number]) => number,
    ) => {
      const gauge = new Gauge({
        name,
        help,
        labelNames,
        registers: [this.registry],
        collect: () => {
          gauge.reset();
          for (const model of stats()?.stats().models ?? []) gauge.set({ model_name: model.model }, read(model));
        },
      });
    };
    add('vllm:num_requests_running', 'Requests in the running batch.', (model) => model.running);
    add(
      'vllm:num_requests_waiting',
      'Requests in the queue.',
      (model) => model.waiting + admission.waiting(model.model),
    );
    add('vllm:kv_cache_usage_perc', 'Share of KV blocks in use, 0 to 1.', (model) =>
      model.kvBlocksTotal ? model.kvBlocksUsed / model.kvBlocksTotal : 0,
    );
    add('vllm:num_preemptions_total', 'Requests that were preempted.', (model) => model.preemptions);
    add('vllm:prompt_tokens_total', 'Prompt tokens processed.', (model) => model.promptTokens);
    add('vllm:generation_tokens_total', 'Tokens generated.', (model) => model.generationTokens);
    add('vllm:prefix_cache_queries_total', 'Prompt tokens looked up in the prefix cache.', (m) => m.prefixQueryTokens);
    add('vllm:prefix_cache_hits_total', 'Prompt tokens found in the prefix cache.', (model) => model.prefixHitTokens);
    add('vllm:mm_cache_queries_total', 'Images looked up in the embedding cache.', (model) => model.imageQueries);
    add('vllm:mm_cache_hits_total', 'Images found in the embedding cache.', (model) => model.imageHits);
    add('vllm:spec_decode_num_draft_tokens_total', 'Tokens proposed by prompt lookup.', (model) => model.draftTokens);
    add('vllm:spec_decode_num_accepted_tokens_total', 'Proposed tokens that were accepted.', (m) => m.draftAccepted);
    add('hearth:host_kv_blocks', 'Blocks the host memory behind the KV pool can hold.', (m) => m.hostKvBlocksTotal);
    add('hearth:host_kv_blocks_used', 'Blocks that hold a prefix there.', (model) => model.hostKvBlocksUsed);
    add('hearth:host_kv_hit_tokens_total', 'Prompt tokens brought back from there.', (m) => m.hostKvHitTokens);
    add('hearth:host_kv_saved_bytes_total', 'Bytes copied there from the KV pool.', (model) => model.hostKvSavedBytes);
    add('hearth:host_kv_fetched_bytes_total', 'Bytes copied back to the KV pool.', (m) => m.hostKvFetchedBytes);
    add('hearth:kv_blocks_cached', 'Free KV blocks that still hold a prefix.', (model) => model.kvBlocksCached);
    add('hearth:steps_total', 'Engine steps.', (model) => model.steps);
    const memory = new Gauge({
      name: 'hearth:memory_bytes',
      help: 'Memory by use.',
      labelNames: ['what'],
      registers: [this.registry],
      collect: () => {
        memory.reset();
        for (const { what, bytes } of stats()?.stats().memory ?? []) memory.set({ what }, bytes);
      },
    });
  }

  /** A clock for one generation; its methods are called on the hot path. */
  observe(model: string): GenerationClock {
    const labels = { model_name: model };
    return new GenerationClock(
      this.#firstToken.labels(labels),
      this.#interToken.labels(labels),
      (clock, reason, usage) => {
        this.#finished(model, clock, reason, usage);
      },
    );
  }

  requested({ name }: KeyOwner): void {
    this.#keyRequests.inc({ key: name });
  }

  used({ name }: KeyOwner, usage: RequestUsage): void {
    this.#keyPromptTokens.inc({ key: name }, usage.promptTokens);
    this.#keyCachedTokens.inc({ key: name }, usage.cachedTokens);
    this.#keyNewTokens.inc({ key: name }, usage.completionTokens);
  }

  rateLimited({ name }: KeyOwner, limit: 'requests' | 'tokens'): void {
    this.#keyLimited.inc({ key: name, limit });
  }

  refused(status: number, code: string | null): void {
    this.#refused.inc({ status: String(status), code: code ?? '' });
  }

  #finished(model: string, elapsedSeconds: number, reason: FinishReason, usage: RequestUsage): void {
    const labels = { model_name: model };
    if (reason === 'cancelled') this.#cancelled.inc(labels);
    else this.#success.inc({ model_name: model, finished_reason: reason });
    this.#endToEnd.observe(labels, elapsedSeconds);
    this.#queue.observe(labels, usage.queueMs / 1000);
    this.#prefill.observe(labels, usage.prefillMs / 1000);
    this.#decode.observe(labels, usage.decodeMs / 1000);
    this.#promptTokens.observe(labels, usage.promptTokens);
    this.#newTokens.observe(labels, usage.completionTokens);
  }
}

interface Observer {
  observe(value: number): void;
}

export class GenerationClock {
  readonly #start = performance.now();
  #last = 0;

  constructor(
    readonly firstToken: Observer,
    readonly interToken: Observer,
    readonly onFinished: (elapsedSeconds: number, reason: FinishReason, usage: RequestUsage) => void,
  ) {}

  token(): void {
    const now = performance.now();
    if (this.#last === 0) this.firstToken.observe((now - this.#start) / 1000);
    else this.interToken.observe((now - this.#last) / 1000);
    this.#last = now;
  }

  finished(reason: FinishReason, usage: RequestUsage): void {
    this.onFinished((performance.now() - this.#start) / 1000, reason, usage);
  }
}
