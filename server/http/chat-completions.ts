// POST /v1/chat/completions.

import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { OutputDelta } from '../chat/output.ts';
import type { Turn } from '../chat/prompt.ts';
import type { ModelInfo, TokenEvent } from '../engine/port.ts';
import {
  type ChatChoice,
  type ChatMessage,
  type ChatRequest,
  chatCompletionSchema,
  chatRequestSchema,
  chunkEnvelope,
  type Envelope,
  type LogprobEntry,
  toChatCompletion,
  toLogprobEntry,
} from '../openai/chat.ts';
import { defined, toSampling, toUsage } from '../openai/common.ts';
import { toStoredMessages } from '../openai/stored-completions.ts';
import { parseBody } from './body.ts';
import {
  type ChatRun,
  type ChatTask,
  type ChoiceOutcome,
  type ChoiceSink,
  checkChoices,
  newId,
  nowSeconds,
  runChoice,
  startChat,
  sumUsage,
} from './chat-core.ts';
import { CompletionStore } from './completion-store.ts';
import type { AppContext } from './context.ts';
import { type ImageReference, withImages } from './image-parts.ts';
import { useModel } from './model-use.ts';
import type { ResponseBudget } from './response-store.ts';
import { addRoute } from './routes.ts';
import { RequestScope } from './scope.ts';
import type { SseStream } from './sse.ts';
import { storedCompletions } from './stored-completions.ts';
import { sendWhole, streamAnswer } from './streaming.ts';

export function chatCompletions(app: FastifyInstance, context: AppContext, budget: ResponseBudget): void {
  const store = new CompletionStore(budget);
  addRoute(app, {
    method: 'POST',
    url: '/v1/chat/completions',
    summary: 'Answer a conversation',
    body: chatRequestSchema,
    response: chatCompletionSchema,
    streams: true,
    handler: (request, reply) => answer(context, store, request, reply),
  });
  storedCompletions(app, context, store);
}

async function answer(context: AppContext, store: CompletionStore, request: FastifyRequest, reply: FastifyReply) {
  const body = parseBody(chatRequestSchema, request, context.settings.lenient);
  const scope = new RequestScope(context.lifecycle, reply.raw, request.keyOwner);
  const prepare = () => startAnswer(context, store, request, body, scope);
  if (body.stream) {
    return streamAnswer(context, request, reply, scope, {
      prepare,
      write: (stream, ready) => writeChunks(stream, ready, body, scope),
      fail: (stream, error) => stream.data(JSON.stringify(error)),
    });
  }
  const ready = await prepare();
  return sendWhole(context, request, reply, () => collect(ready, body, scope));
}

interface StartedAnswer {
  run: ChatRun;
  envelope: Envelope;
  keep: ((completion: ReturnType<typeof toChatCompletion>) => void) | null;
}

/** Everything up to the engine's acceptance. */
async function startAnswer(
  context: AppContext,
  store: CompletionStore,
  request: FastifyRequest,
  body: ChatRequest,
  scope: RequestScope,
): Promise<StartedAnswer> {
  const task = toTask(context, body, await useModel(context, body.model, scope));
  const images = { references: imagesOf(body.messages), strings: request.longStrings };
  const run = await withImages(context, task.model, images, scope, (decoded) =>
    startChat(context, task, scope, decoded),
  );
  const envelope: Envelope = {
    id: newId('chatcmpl-'),
    created: nowSeconds(),
    model: task.model.name,
    fingerprint: task.model.fingerprint,
  };
  return { run, envelope, keep: body.store ? keeper(store, request, body, envelope.id) : null };
}

function keeper(store: CompletionStore, request: FastifyRequest, body: ChatRequest, id: string): StartedAnswer['keep'] {
  const strings = request.longStrings;
  const messages = toStoredMessages(body.messages, id, (url) => strings?.urlOf(url) ?? url);
  const metadata = body.metadata ?? {};
  return (completion) => store.put(request.keyOwner.name, { ...completion, metadata }, messages);
}

function toTask(context: AppContext, body: ChatRequest, model: ModelInfo): ChatTask {
  const choices = body.n ?? 1;
  checkChoices(context, choices);
  return {
    model,
    choices,
    prompt: {
      turns: body.messages.map(toTurn),
      tools: body.tool_choice === 'none' ? undefined : body.tools,
      variables: { ...effort(body.reasoning_effort), ...body.chat_template_kwargs },
    },
    constraint: {
      tools: body.tools,
      toolChoice: body.tool_choice,
      parallel: body.parallel_tool_calls,
      responseFormat: body.response_format,
    },
    engine: {
      ...toSampling(body),
      ...defined({
        maxTokens: body.max_completion_tokens ?? body.max_tokens,
        logprobs: body.logprobs,
        topLogprobs: body.logprobs ? (body.top_logprobs ?? 0) : undefined,
        prediction: body.prediction && textOf(body.prediction.content),
      }),
    },
  };
}

const textOf = (content: string | readonly { text: string }[]) =>
  typeof content === 'string' ? content : content.map(({ text }) => text).join('');

/** Templates know effort under one name or another; those that know neither are not changed by it. */
function effort(level: ChatRequest['reasoning_effort']): Record<string, unknown> {
  if (level === undefined) return {};
  return { reasoning_effort: level, enable_thinking: level !== 'none' };
}

function imagesOf(messages: readonly ChatMessage[]): ImageReference[] {
  return messages.flatMap(({ content }, message) =>
    typeof content === 'string' || content === undefined
      ? []
      : content.flatMap((part, at) =>
          part.type === 'image_url'
            ? [
                {
                  url: part.image_url.url,
                  detail: part.image_url.detail ?? 'auto',
                  param: `messages[${message}].content[${at}]`,
                },
              ]
            : [],
        ),
  );
}

export function toTurn(message: ChatMessage): Turn {
  const { role } = message;
  const parts = typeof message.content === 'string' || message.content === undefined ? [] : message.content;
  const content =
    typeof message.content === 'string'
      ? message.content
      : message.content === undefined
        ? null
        : parts.map((part) =>
            part.type === 'image_url'
              ? { type: 'image' as const }
              : { type: 'text' as const, text: part.type === 'text' ? part.text : part.refusal },
          );
  if (role === 'tool') return { role, content, name: message.name, toolCallId: message.tool_call_id };
  if (role !== 'assistant') return { role, content, name: message.name };
  return {
    role,
    content: content ?? message.refusal ?? null,
    name: message.name,
    reasoning: message.reasoning_content ?? message.reasoning,
    toolCalls: message.tool_calls?.map((call) => ({ id: call.id, ...call.function })),
  };
}

// ---- Not streamed ---------------------------------------------------------------------------------------------

async function collect({ run, envelope, keep }: StartedAnswer, body: ChatRequest, scope: RequestScope) {
  const records = run.generations.map(() => new ChoiceRecord(body.logprobs === true));
  const outcomes = await Promise.all(
    run.generations.map((generation, at) => runChoice(generation, run.parserOf(), scope, records[at]!)),
  );
  const completion = toCompletion(envelope, records, outcomes);
  keep?.(completion);
  return completion;
}

const toCompletion = (envelope: Envelope, records: readonly ChoiceRecord[], outcomes: readonly ChoiceOutcome[]) =>
  toChatCompletion(
    envelope,
    records.map(({ choice }, at) => ({ ...choice, finishReason: outcomes[at]!.finishReason })),
    toUsage(sumUsage(outcomes)),
  );

/** All of one choice. */
class ChoiceRecord implements ChoiceSink {
  readonly choice: Omit<ChatChoice, 'finishReason'>;

  constructor(logprobs: boolean) {
    this.choice = { content: '', reasoning: '', toolCalls: [], logprobs: logprobs ? [] : null };
  }

  token(event: TokenEvent): void {
    if (this.choice.logprobs) pushLogprob(this.choice.logprobs, event);
  }

  delta(delta: OutputDelta): void {
    append(this.choice, delta);
  }
}

function append(choice: ChoiceRecord['choice'], delta: OutputDelta): void {
  if (delta.type === 'content') choice.content += delta.text;
  else if (delta.type === 'reasoning') choice.reasoning += delta.text;
  else if (delta.type === 'call') choice.toolCalls[delta.index] = { id: delta.id, name: delta.name, arguments: '' };
  else choice.toolCalls[delta.index]!.arguments += delta.text;
}

function pushLogprob(entries: LogprobEntry[], event: TokenEvent): void {
  if (event.logprob) entries.push(toLogprobEntry(event.logprob, event.top ?? []));
}

// ---- Streamed -------------------------------------------------------------------------------------------------

async function writeChunks(
  stream: SseStream,
  { run, envelope, keep }: StartedAnswer,
  body: ChatRequest,
  scope: RequestScope,
) {
  const { head, tail } = chunkEnvelope(envelope);
  const withUsage = body.stream_options?.include_usage === true;
  const close = withUsage ? `${tail.slice(0, -1)},"usage":null}` : tail;
  const logprobs = body.logprobs === true;
  const records = keep ? run.generations.map(() => new ChoiceRecord(logprobs)) : null;
  const outcomes = await Promise.all(
    run.generations.map((generation, index) => {
      const writer = new ChunkWriter(stream, head, close, index, logprobs);
      return writeChoice(writer, records?.[index] ?? null, run, generation, scope);
    }),
  );
  if (keep) keep(toCompletion(envelope, records!, outcomes));
  if (withUsage) stream.data(`${head}],"usage":${JSON.stringify(toUsage(sumUsage(outcomes)))}}`);
  stream.done();
}

async function writeChoice(
  writer: ChunkWriter,
  record: ChoiceRecord | null,
  run: ChatRun,
  generation: ChatRun['generations'][number],
  scope: RequestScope,
): Promise<ChoiceOutcome> {
  writer.role();
  const outcome = await runChoice(generation, run.parserOf(), scope, record ? both(writer, record) : writer);
  writer.finish(outcome.finishReason);
  return outcome;
}

const both = (one: Required<ChoiceSink>, other: Required<ChoiceSink>): ChoiceSink => ({
  token(event) {
    one.token(event);
    other.token(event);
  },
  delta(delta) {
    one.delta(delta);
    other.delta(delta);
  },
});

/** Chunks of one choice. The envelope is serialised once; a token costs one string and one write. */
class ChunkWriter implements ChoiceSink {
  readonly #stream: SseStream;
  readonly #start: string;
  readonly #end: string;
  readonly #close: string;
  readonly #entries: LogprobEntry[] | null;

  constructor(stream: SseStream, head: string, close: string, index: number, logprobs: boolean) {
    this.#stream = stream;
    this.#start = `${head}{"index":${index},"delta":`;
    this.#close = close;
    this.#end = `,"logprobs":null,"finish_reason":null}${close}`;
    this.#entries = logprobs ? [] : null;
  }

  role(): void {
    this.#stream.data(`${this.#start}{"role":"assistant","content":""}${this.#end}`);
  }

  token(event: TokenEvent): void {
    if (this.#entries) pushLogprob(this.#entries, event);
  }

  delta(delta: OutputDelta): void {
    this.#stream.data(this.#start + deltaJson(delta) + this.#ending());
  }

  finish(reason: string): void {
    // Entries of tokens that showed no text still have to arrive, and the last chunk must be empty.
    if (this.#entries?.length) this.#stream.data(`${this.#start}{"content":""}${this.#ending()}`);
    this.#stream.data(`${this.#start}{},"logprobs":null,"finish_reason":"${reason}"}${this.#close}`);
  }

  #ending(): string {
    if (!this.#entries?.length) return this.#end;
    const logprobs = JSON.stringify({ content: this.#entries, refusal: null });
    this.#entries.length = 0;
    return `,"logprobs":${logprobs},"finish_reason":null}${this.#close}`;
  }
}

function deltaJson(delta: OutputDelta): string {
  switch (delta.type) {
    case 'content':
      return `{"content":${JSON.stringify(delta.text)}}`;
    case 'reasoning': {
      const text = JSON.stringify(delta.text);
      return `{"reasoning_content":${text},"reasoning":${text}}`;
    }
    case 'call': {
      const call = {
        index: delta.index,
        id: delta.id,
        type: 'function',
        function: { name: delta.name, arguments: '' },
      };
      return JSON.stringify({ tool_calls: [call] });
    }
    case 'arguments':
      return JSON.stringify({ tool_calls: [{ index: delta.index, function: { arguments: delta.text } }] });
  }
}
