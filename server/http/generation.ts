// Requests to the engine: submitted together, admitted together, read to their end.

import type { EngineEvent, EngineRequest, FinishedEvent, PromptTokenEvent, TokenEvent } from '../engine/port.ts';
import { errors } from '../errors.ts';
import { expectedTokens } from './admission.ts';
import type { AppContext } from './context.ts';
import type { GenerationClock } from './metrics.ts';
import type { RequestScope } from './scope.ts';

/** How long an engine may take to say that it accepted a request before the answer's head goes out anyway. */
const acceptanceMsMax = 10_000;

export interface Generation {
  /** The events, of which the first may have been read already. */
  events: AsyncIterator<EngineEvent>;
  first: Promise<IteratorResult<EngineEvent>>;
  clock: GenerationClock;
  /** Known once the engine has accepted the request, when it says so. */
  promptTokens: number;
}

/**
 * Submits requests that belong together; all of them or none. Resolves when the engine has accepted every one, so
 * that what it refuses can still be answered with a plain status. Throws EngineError, ApiError or ClientGone.
 */
export async function admit(
  context: AppContext,
  requests: readonly EngineRequest[],
  scope: RequestScope,
): Promise<Generation[]> {
  const { lifecycle, metrics, admission, limits } = context;
  const engine = lifecycle.engine();
  scope.throwIfAborted();
  checkFits(requests, context.settings.queueTokens);
  const contexts = new Map(engine.models().map(({ name, context }) => [name, context]));
  const costs = requests.map((request) => expectedTokens(request, contexts.get(request.model) ?? 1));
  const total = costs.reduce((sum, cost) => sum + cost, 0);
  limits.reserveTokens(scope.owner, total);
  scope.setHeaders(limits.headers(scope.owner));
  let submitted = 0;
  const generations: Generation[] = [];
  try {
    for (const [at, request] of requests.entries()) {
      const own = requests.length > 1 ? sharingImages(request) : request;
      const events = admission.submit(engine, own, scope.owner, costs[at]!);
      submitted += costs[at]!;
      scope.onAbort(() => events.cancel());
      const first = events.next();
      const generation = { events, first, clock: metrics.observe(request.model), promptTokens: 0 };
      generations.push(generation);
      // Also keeps a failure from being unhandled until the events are read.
      void first.then(
        ({ value }) => {
          if (value?.type === 'accepted') generation.promptTokens = value.promptTokens;
        },
        () => {},
      );
    }
    await Promise.all(generations.map(({ first }) => acceptance(first)));
    scope.throwIfAborted();
    return generations;
  } catch (error) {
    // What was submitted settles itself when it ends.
    limits.settle(scope.owner, total - submitted, 0);
    for (const { events } of generations) void events.return?.();
    throw error;
  }
}

/** What has no place in an empty queue would be told to come again for ever. Counted as the engine counts what waits. */
function checkFits(requests: readonly EngineRequest[], tokensMax: number): void {
  for (const { text, ids } of requests) {
    const tokens = Math.floor((text.length > tokensMax ? Buffer.byteLength(text) : 0) / 4) + (ids?.length ?? 0);
    if (tokens > tokensMax) {
      throw errors.invalid(
        `The prompt is too long: some ${tokens} tokens, of which ${tokensMax} may wait (--queue-tokens).`,
        null,
        'context_length_exceeded', // by which agents know that they must shorten it
      );
    }
  }
}

/** A request whose pictures others read too: none of them may give their memory back. */
function sharingImages(request: EngineRequest): EngineRequest {
  return { ...request, images: request.images?.map((image) => ({ ...image, release: undefined })) };
}

async function acceptance(first: Promise<IteratorResult<EngineEvent>>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, acceptanceMsMax);
  });
  try {
    await Promise.race([first, late]);
  } finally {
    clearTimeout(timer);
  }
}

export interface EventSink {
  token(event: TokenEvent): void;
  prompt?(event: PromptTokenEvent): void;
  embedding?(values: Float32Array): void;
}

/** Reads one generation to its end. Throws when it fails, or the scope's reason when it was cancelled. */
export async function readGeneration(
  generation: Generation,
  scope: RequestScope,
  sink: EventSink,
): Promise<FinishedEvent> {
  const { events, clock } = generation;
  for (let result = await generation.first; !result.done; result = await events.next()) {
    const event = result.value;
    if (event.type === 'token') {
      clock.token();
      sink.token(event);
    } else if (event.type === 'finished') {
      clock.finished(event.reason, event.usage);
      scope.throwIfAborted();
      return event;
    } else if (event.type === 'prompt') {
      sink.prompt?.(event);
    } else if (event.type === 'embedding') {
      sink.embedding?.(event.values);
    }
  }
  scope.throwIfAborted();
  throw new Error('the engine ended a request without a finish');
}
