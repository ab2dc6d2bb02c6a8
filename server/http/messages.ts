// POST /v1/messages and /v1/messages/count_tokens: Anthropic's API over the same core as chat completions.

import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import type { ModelInfo } from '../engine/port.ts';
import { errors } from '../errors.ts';
import {
  BlockWriter,
  countTokensRequestSchema,
  imageSources,
  type MessagesRequest,
  messageResponseSchema,
  messagesRequestSchema,
  type PromptRequest,
  stopFields,
  toAnthropicUsage,
  toFunctionTools,
  toMessage,
  toToolChoice,
  toTurns,
} from '../openai/anthropic.ts';
import { defined } from '../openai/common.ts';
import { parseBody } from './body.ts';
import { type ChatRun, type ChatTask, newId, runChoice, startChat, sumUsage } from './chat-core.ts';
import type { AppContext } from './context.ts';
import { withImages } from './image-parts.ts';
import { useModel, withModel } from './model-use.ts';
import { countPrompt } from './prompt-tokens.ts';
import { addRoute } from './routes.ts';
import { RequestScope } from './scope.ts';
import type { SseStream } from './sse.ts';
import { sendWhole, streamAnswer } from './streaming.ts';

export function messages(app: FastifyInstance, context: AppContext): void {
  addRoute(app, {
    method: 'POST',
    url: '/v1/messages',
    summary: 'Answer a conversation in Anthropic’s form',
    body: messagesRequestSchema,
    response: messageResponseSchema,
    streams: true,
    handler: (request, reply) => answer(context, request, reply),
  });
  addRoute(app, {
    method: 'POST',
    url: '/v1/messages/count_tokens',
    summary: 'Tokens of a conversation in Anthropic’s form, with those of its images',
    body: countTokensRequestSchema,
    response: z.object({ input_tokens: z.int() }),
    handler: (request, reply) => count(context, request, reply),
  });
}

/** Not even leniently left out: from the second turn on the history would be missing. */
function refuseThread({ body }: FastifyRequest): void {
  if (typeof body === 'object' && body !== null && 'thread' in body && body.thread != null) {
    throw errors.threadUnsupported();
  }
}

async function count(context: AppContext, request: FastifyRequest, reply: FastifyReply) {
  refuseThread(request);
  const body = parseBody(countTokensRequestSchema, request, context.settings.lenient);
  const counted = {
    prompt: toPrompt(body),
    constraint: { tools: toFunctionTools(body), toolChoice: toToolChoice(body) },
    images: { references: imageSources(body), strings: request.longStrings },
  };
  return withModel(context, body.model, async (model) => ({
    input_tokens: await countPrompt(context, request, reply, model, counted),
  }));
}

async function answer(context: AppContext, request: FastifyRequest, reply: FastifyReply) {
  refuseThread(request);
  const body = parseBody(messagesRequestSchema, request, context.settings.lenient);
  const scope = new RequestScope(context.lifecycle, reply.raw, request.keyOwner);
  const id = newId('msg_');
  const prepare = async () => {
    const task = toTask(body, await useModel(context, body.model, scope));
    const images = { references: imageSources(body), strings: request.longStrings };
    const run = await withImages(context, task.model, images, scope, (decoded) =>
      startChat(context, task, scope, decoded),
    );
    return { run, model: task.model.name };
  };
  if (body.stream) {
    return streamAnswer(context, request, reply, scope, {
      prepare,
      write: (stream, { run, model }) => writeEvents(stream, run, id, model, scope),
      fail: (stream, { error }) =>
        stream.event('error', JSON.stringify({ type: 'error', error: { type: 'api_error', message: error.message } })),
    });
  }
  const { run, model } = await prepare();
  return sendWhole(context, request, reply, () => collect(run, id, model, scope));
}

const toPrompt = (body: PromptRequest) => ({
  turns: toTurns(body),
  tools: body.tool_choice?.type === 'none' ? undefined : toFunctionTools(body),
  // Adaptive leaves it to the model, as saying nothing does.
  variables:
    body.thinking && body.thinking.type !== 'adaptive' ? { enable_thinking: body.thinking.type === 'enabled' } : {},
});

function toTask(body: MessagesRequest, model: ModelInfo): ChatTask {
  const choice = body.tool_choice;
  const single = choice && choice.type !== 'none' && choice.disable_parallel_tool_use === true;
  const schema = body.output_config?.format?.schema;
  return {
    model,
    choices: 1,
    prompt: toPrompt(body),
    constraint: {
      tools: toFunctionTools(body),
      toolChoice: toToolChoice(body),
      parallel: !single,
      ...(schema && { responseFormat: { type: 'json_schema', json_schema: { schema } } }),
    },
    engine: {
      maxTokens: body.max_tokens,
      sampling: defined({ temperature: body.temperature, topP: body.top_p, topK: body.top_k }),
      ...defined({ stop: body.stop_sequences }),
    },
  };
}

async function collect(run: ChatRun, id: string, model: string, scope: RequestScope) {
  const blocks = new BlockWriter(() => {});
  const outcome = await runChoice(run.generations[0]!, run.parserOf(), scope, blocks);
  blocks.end();
  return toMessage(id, model, blocks.content, stopFields(outcome), toAnthropicUsage(sumUsage([outcome])));
}

async function writeEvents(stream: SseStream, run: ChatRun, id: string, model: string, scope: RequestScope) {
  const emit = (event: { type: string }) => stream.event(event.type, JSON.stringify(event));
  const generation = run.generations[0]!;
  const none = { stop_reason: null, stop_sequence: null };
  const usage = toAnthropicUsage({ promptTokens: run.promptTokens, cachedTokens: 0, completionTokens: 0 });
  emit({ type: 'message_start', message: toMessage(id, model, [], none, usage) } as { type: string });
  const blocks = new BlockWriter(emit);
  const outcome = await runChoice(generation, run.parserOf(), scope, blocks);
  blocks.end();
  const delta = { type: 'message_delta', delta: stopFields(outcome), usage: toAnthropicUsage(sumUsage([outcome])) };
  emit(delta);
  emit({ type: 'message_stop' });
  stream.end();
}
