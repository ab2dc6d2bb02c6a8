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
import { parseBody } from './body.ts';
import {
  type ChatRun,
  type ChatTask,
  type ChoiceOutcome,
  checkChoices,
  newId,
  nowSeconds,
  runChoice,
  startChat,
  sumUsage,
} from './chat-core.ts';
import type { AppContext } from './context.ts';
import { type ImageReference, withImages } from './image-parts.ts';
import { useModel } from './model-use.ts';
import { addRoute } from './routes.ts';
import { RequestScope } from './scope.ts';
import type { SseStream } from './sse.ts';
import { sendWhole, streamAnswer } from './streaming.ts';

export function chatCompletions(app: FastifyInstance, context: AppContext): void {
  addRoute(app, {
    method: 'POST',
    url: '/v1/chat/completions',
    summary: 'Answer a conversation',
    body: chatRequestSchema,
    response: chatCompletionSchema,
    streams: true,
    handler: (request, reply) => answer(context, request, reply),
  });
}

async function answer(context: AppContext, request: FastifyRequest, reply: FastifyReply) {
  const body = parseBody(chatRequestSchema, request, context.settings.lenient);
  const scope = new RequestScope(context.lifecycle, reply.raw, request.keyOwner);
  const prepare = () => startAnswer(context, request, body, scope);
  if (body.stream) {
    return streamAnswer(context, request, reply, scope, {
      prepare,
      write: (stream, { run, envelope }) => writeChunks(stream, run, body, envelope, scope),
      fail: (stream, error) => stream.data(JSON.stringify(error)),
    });
  }
  const { run, envelope } = await prepare();
  return sendWhole(context, request, reply, () => collect(run, body, envelope, scope));
}

/** Everything up to the engine's acceptance. */
async function startAnswer(context: AppContext, request: FastifyRequest, body: ChatRequest, scope: RequestScope) {
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
  return { run, envelope };
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

async function collect(run: ChatRun, body: ChatRequest, envelope: Envelope, scope: RequestScope) {
  const choices = await Promise.all(run.generations.map((generation) => collectChoice(run, generation, body, scope)));
  const usage = toUsage(sumUsage(choices.map(({ outcome }) => outcome)));
  return toChatCompletion(
    envelope,
    choices.map(({ choice }) => choice),
    usage,
  );
}

async function collectChoice(
  run: ChatRun,
  generation: ChatRun['generations'][number],
  body: ChatRequest,
  scope: RequestScope,
) {
  const choice: ChatChoice = { content: '', reasoning: '', toolCalls: [], logprobs: null, finishReason: 'stop' };
  const entries: LogprobEntry[] = [];
  const outcome = await runChoice(generation, run.parserOf(), scope, {
    delta: (delta) => append(choice, delta),
    token: (event) => pushLogprob(entries, event),
  });
  choice.finishReason = outcome.finishReason;
  if (body.logprobs) choice.logprobs = entries;
  return { choice, outcome };
}

function append(choice: ChatChoice, delta: OutputDelta): void {
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
  run: ChatRun,
  body: ChatRequest,
  envelope: Envelope,
  scope: RequestScope,
) {
  const { head, tail } = chunkEnvelope(envelope);
  const withUsage = body.stream_options?.include_usage === true;
  const close = withUsage ? `${tail.slice(0, -1)},"usage":null}` : tail;
  const outcomes = await Promise.all(
    run.generations.map((generation, index) => {
      const writer = new ChunkWriter(stream, head, close, index, body.logprobs === true);
      return writeChoice(writer, run, generation, scope);
    }),
  );
  if (withUsage) stream.data(`${head}],"usage":${JSON.stringify(toUsage(sumUsage(outcomes)))}}`);
  stream.done();
}

async function writeChoice(
  writer: ChunkWriter,
  run: ChatRun,
  generation: ChatRun['generations'][number],
  scope: RequestScope,
): Promise<ChoiceOutcome> {
  writer.role();
  const outcome = await runChoice(generation, run.parserOf(), scope, writer);
  writer.finish(outcome.finishReason);
  return outcome;
}

/** Chunks of one choice. The envelope is serialised once; a token costs one string and one write. */
class ChunkWriter {
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
