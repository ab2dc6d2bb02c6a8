// POST /v1/responses, its prompt's tokens, and the WebSocket mode: one create a message, its events as text frames.

import type { Server } from 'node:http';
import websocket from '@fastify/websocket';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { WebSocket } from 'ws';
import { errors } from '../errors.ts';
import { defined } from '../openai/common.ts';
import { type ResponseEvent, ResponseWriter } from '../openai/response-writer.ts';
import {
  type Item,
  inputTokensRequestSchema,
  inputTokensResponseSchema,
  itemImages,
  itemsToTurns,
  type NamedItem,
  nameItems,
  type PromptRequest,
  type ResponseRequest,
  responseRequestSchema,
  responseSchema,
  toItems,
} from '../openai/responses.ts';
import { checkedBody, parseBody } from './body.ts';
import { type ChatRun, type ChatTask, newId, nowSeconds, runChoice, startChat, sumUsage } from './chat-core.ts';
import type { AppContext } from './context.ts';
import { isOurFault, toApiError } from './engine-errors.ts';
import { withImages } from './image-parts.ts';
import { refuseIntricate } from './json-structure.ts';
import { useModel, withModel } from './model-use.ts';
import { countPrompt } from './prompt-tokens.ts';
import {
  httpMemory,
  type ResponseBudget,
  type ResponseMemory,
  ResponseStore,
  responsesMax,
  SocketMemory,
} from './response-store.ts';
import { addRoute } from './routes.ts';
import { ClientGone, RequestScope } from './scope.ts';
import { storedResponses } from './stored-responses.ts';
import { type StreamSteps, sendWhole, streamAnswer } from './streaming.ts';

/** The code of a WebSocket's end when a server stops (RFC 6455). */
const goingAway = 1001;

interface Turn {
  run: ChatRun;
  body: ResponseRequest;
  scope: RequestScope;
  writer: (emit?: (event: ResponseEvent) => void) => ResponseWriter;
  /** Remembers the answer under its id. */
  keep: (writer: ResponseWriter, response: ReturnType<ResponseWriter['response']>) => void;
}

export async function responses(app: FastifyInstance, context: AppContext, budget: ResponseBudget): Promise<void> {
  const store = new ResponseStore(budget);
  const maxPayload = context.settings.bodyLimitMb * 1024 * 1024;
  // An emitter of its events is all of a server that @fastify/websocket needs.
  await app.register(websocket, { options: { maxPayload, server: app.webSockets as Server } });
  app.webSockets.on('goodbye', () => {
    for (const client of app.websocketServer.clients) client.close(goingAway, 'The server is shutting down.');
  });
  addRoute(app, {
    method: 'POST',
    url: '/v1/responses',
    summary: 'Answer in the form of the Responses API',
    body: responseRequestSchema,
    response: responseSchema,
    streams: true,
    handler: (request, reply) => answer(context, httpMemory(store), request, reply),
  });
  addRoute(app, {
    method: 'GET',
    url: '/v1/responses',
    summary: 'The WebSocket mode of the Responses API (Upgrade: websocket)',
    handler: () => {
      throw errors.invalid('This URL speaks WebSocket: send Upgrade: websocket, or POST a request.');
    },
    wsHandler: (socket, request) => serveSocket(context, new SocketMemory(store, budget), socket, request),
  });
  addRoute(app, {
    method: 'POST',
    url: '/v1/responses/input_tokens',
    summary: 'Tokens of a request’s prompt, with those of its images',
    body: inputTokensRequestSchema,
    response: inputTokensResponseSchema,
    handler: (request, reply) => count(context, httpMemory(store), request, reply),
  });
  storedResponses(app, context, store);
}

async function count(context: AppContext, memory: ResponseMemory, request: FastifyRequest, reply: FastifyReply) {
  const body = parseBody(inputTokensRequestSchema, request, context.settings.lenient);
  const { items, images } = conversation(memory, body, request.keyOwner.name);
  const counted = { prompt: toPrompt(body, items), constraint: toConstraint(body), images };
  return withModel(context, body.model, async (model) => ({
    object: 'response.input_tokens' as const,
    input_tokens: await countPrompt(context, request, reply, model, counted),
  }));
}

async function answer(context: AppContext, memory: ResponseMemory, request: FastifyRequest, reply: FastifyReply) {
  const body = parseBody(responseRequestSchema, request, context.settings.lenient);
  const scope = new RequestScope(context.lifecycle, reply.raw, request.keyOwner);
  const prepare = () => startTurn(context, memory, body, scope, request.keyOwner.name);
  if (body.stream) return streamAnswer(context, request, reply, scope, streamedTurn(prepare));
  const turn = await prepare();
  return sendWhole(context, request, reply, () => finishTurn(turn, turn.writer()));
}

function streamedTurn(prepare: () => Promise<Turn>): StreamSteps<Turn> {
  let writer: ResponseWriter | null = null;
  return {
    prepare,
    write: async (stream, turn) => {
      writer = turn.writer((event) => stream.event(event.type, JSON.stringify(event)));
      writer.begin();
      await finishTurn(turn, writer);
      stream.end();
    },
    fail: (stream, { error: { message, code, param } }) => {
      if (writer) writer.fail(message, code ?? 'server_error');
      else stream.event('error', JSON.stringify({ type: 'error', code, message, param, sequence_number: 0 }));
    },
  };
}

/** Everything up to the engine's acceptance; errors are plain until here. */
async function startTurn(
  context: AppContext,
  memory: ResponseMemory,
  body: ResponseRequest,
  scope: RequestScope,
  owner: string,
): Promise<Turn> {
  const model = await useModel(context, body.model, scope);
  const { items, images } = conversation(memory, body, owner);
  const task = toTask(model, body, items);
  const run = await withImages(context, model, images, scope, (decoded) => startChat(context, task, scope, decoded));
  const identity = { id: newId('resp_'), createdAt: nowSeconds(), model: model.name };
  return {
    run,
    body,
    scope,
    writer: (emit) => new ResponseWriter(identity, body, newId, emit),
    keep: (writer, response) => {
      memory.put(identity.id, owner, response, [...items, ...writer.asItems()], body.store !== false);
    },
  };
}

/** What a request goes on from and what it adds, as items and the pictures in them. */
function conversation(memory: ResponseMemory, body: PromptRequest, owner: string) {
  const earlier = earlierItems(memory, body.previous_response_id, owner);
  const given = toItems(body.input, ({ id }) => referredItem(memory, id, owner));
  const added = nameItems(given, earlier, newId);
  const references = [...itemImages(earlier, 'previous'), ...itemImages(added, 'input')];
  return { items: [...earlier, ...added], images: { references } };
}

function earlierItems(memory: ResponseMemory, id: string | undefined, owner: string): readonly NamedItem[] {
  if (id === undefined) return [];
  const kept = memory.get(id, owner);
  if (kept) return kept.items;
  throw errors.invalid(
    `Previous response with id '${id}' not found.`,
    'previous_response_id',
    'previous_response_not_found',
  );
}

function referredItem(memory: ResponseMemory, id: string, owner: string): NamedItem {
  const item = memory.item(id, owner);
  if (!item) throw errors.itemNotFound(id, responsesMax);
  return item;
}

function toPrompt(body: PromptRequest, items: readonly Item[]): ChatTask['prompt'] {
  const effort = body.reasoning?.effort;
  const instructions = body.instructions ? [{ role: 'system' as const, content: body.instructions }] : [];
  return {
    turns: [...instructions, ...itemsToTurns(items)],
    tools: body.tool_choice === 'none' ? undefined : toFunctionTools(body),
    variables: effort ? { reasoning_effort: effort, enable_thinking: effort !== 'none' } : {},
  };
}

function toConstraint(body: PromptRequest): ChatTask['constraint'] {
  const choice = body.tool_choice;
  const format = body.text?.format;
  return {
    tools: toFunctionTools(body),
    toolChoice: typeof choice === 'object' ? { function: { name: choice.name } } : (choice ?? 'auto'),
    parallel: body.parallel_tool_calls,
    responseFormat: format?.type === 'json_schema' ? { type: 'json_schema', json_schema: format } : format,
  };
}

const toFunctionTools = ({ tools }: PromptRequest) =>
  tools?.map(({ name, description, parameters, strict }) => ({
    type: 'function' as const,
    function: { name, description, parameters, strict },
  }));

const toTask = (model: ChatTask['model'], body: ResponseRequest, items: readonly Item[]): ChatTask => ({
  model,
  choices: 1,
  prompt: toPrompt(body, items),
  constraint: toConstraint(body),
  engine: {
    sampling: defined({ temperature: body.temperature, topP: body.top_p }),
    ...defined({ maxTokens: body.max_output_tokens }),
  },
});

async function finishTurn(turn: Turn, writer: ResponseWriter) {
  const outcome = await runChoice(turn.run.generations[0]!, turn.run.parserOf(), turn.scope, writer);
  const cut = outcome.finishReason === 'length';
  writer.finish(cut, sumUsage([outcome]));
  const response = writer.response(cut ? 'incomplete' : 'completed');
  turn.keep(writer, response);
  return response;
}

// ---- WebSocket --------------------------------------------------------------------------------------------------

/** Bytes a client may leave unread before its socket is closed, as on streams. */
const unreadBytesMax = 1024 * 1024;
/** Messages of one socket that may wait for the one that is answered. */
const waitingMax = 32;

function serveSocket(context: AppContext, memory: SocketMemory, socket: WebSocket, request: FastifyRequest): void {
  const running = new Set<RequestScope>();
  const send = (event: object) => {
    if (socket.readyState !== socket.OPEN) return;
    socket.send(JSON.stringify(event));
    if (socket.bufferedAmount > unreadBytesMax) socket.terminate();
  };
  const endAll = () => {
    for (const scope of running) scope.abort(null);
  };
  socket.on('close', () => {
    endAll();
    memory.close();
  });
  socket.on('error', endAll);
  // One response at a time, in the order they were asked for.
  let last = Promise.resolve();
  let waiting = 0;
  socket.on('message', (data, isBinary) => {
    if (waiting >= waitingMax) return send({ type: 'error', status: 429, ...errors.queueFull(1).toWire() });
    const scope = new RequestScope(context.lifecycle, null, request.keyOwner);
    running.add(scope);
    waiting++;
    last = last
      .then(() => serveMessage(context, memory, isBinary ? null : (data as Buffer), scope, request, send))
      .finally(() => {
        waiting--;
        running.delete(scope);
        scope.release();
      });
  });
}

async function serveMessage(
  context: AppContext,
  memory: ResponseMemory,
  json: Buffer | null,
  scope: RequestScope,
  request: FastifyRequest,
  send: (event: object) => void,
): Promise<void> {
  let writer: ResponseWriter | null = null;
  try {
    scope.throwIfAborted();
    context.limits.takeRequest(scope.owner);
    context.metrics.requested(scope.owner);
    const body = checkedBody(responseRequestSchema, createBody(json), request.log, context.settings.lenient);
    const turn = await startTurn(context, memory, body, scope, request.keyOwner.name);
    writer = turn.writer(send);
    writer.begin();
    await finishTurn(turn, writer);
  } catch (error) {
    if (error instanceof ClientGone) return;
    if (isOurFault(error)) request.log.error({ err: error }, 'a socket’s request failed');
    const known = toApiError(error);
    if (writer) writer.fail(known.message, known.code ?? 'server_error');
    else send({ type: 'error', status: known.status, ...known.toWire() });
  }
}

/** The body of a create, out of a response.create message. */
function createBody(json: Buffer | null): unknown {
  if (json) refuseIntricate(json);
  let message: unknown;
  try {
    message = JSON.parse(json?.toString() ?? '');
  } catch {
    throw errors.invalid('The message is not valid JSON.');
  }
  if (typeof message !== 'object' || message === null || (message as { type?: unknown }).type !== 'response.create') {
    throw errors.invalid("The message must be of type 'response.create'.", 'type');
  }
  const { type: _, ...body } = message as Record<string, unknown>;
  for (const field of ['stream', 'background']) {
    if (body[field] !== undefined && body[field] !== null) throw errors.unsupportedParameter(field);
  }
  return body;
}
