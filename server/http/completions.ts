// POST /v1/completions: several prompts, n answers each, echo and log-probabilities of the prompt.

import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { EngineRequest, FinishedEvent, ModelInfo } from '../engine/port.ts';
import { errors } from '../errors.ts';
import type { Envelope } from '../openai/chat.ts';
import { defined, toSampling, toUsage } from '../openai/common.ts';
import {
  type CompletionChoice,
  CompletionLogprobs,
  type CompletionPrompt,
  type CompletionRequest,
  completionRequestSchema,
  completionSchema,
  toCompletion,
  toPrompts,
} from '../openai/completions.ts';
import { parseBody } from './body.ts';
import { checkChoices, newId, nowSeconds, perChoice } from './chat-core.ts';
import type { AppContext } from './context.ts';
import { admit, type Generation, readGeneration } from './generation.ts';
import { useModel } from './model-use.ts';
import { addRoute } from './routes.ts';
import { RequestScope } from './scope.ts';
import type { SseStream } from './sse.ts';
import { sendWhole, streamAnswer } from './streaming.ts';

/** OpenAI's own default for this route. */
const maxTokensDefault = 16;
/** Generations one request may start: prompts times n. */
const generationsMax = 2048;

export function completions(app: FastifyInstance, context: AppContext): void {
  addRoute(app, {
    method: 'POST',
    url: '/v1/completions',
    summary: 'Continue a text',
    body: completionRequestSchema,
    response: completionSchema,
    streams: true,
    handler: (request, reply) => answer(context, request, reply),
  });
}

interface Choice {
  generation: Generation;
  /** Text of the prompt, when it is to be echoed. */
  echo: string;
}

async function answer(context: AppContext, request: FastifyRequest, reply: FastifyReply) {
  const body = parseBody(completionRequestSchema, request, context.settings.lenient);
  const scope = new RequestScope(context.lifecycle, reply.raw, request.keyOwner);
  const prepare = () => startAnswer(context, body, scope);
  if (body.stream) {
    return streamAnswer(context, request, reply, scope, {
      prepare,
      write: (stream, { choices, copies, envelope }) => writeChunks(stream, choices, body, copies, envelope, scope),
      fail: (stream, error) => stream.data(JSON.stringify(error)),
    });
  }
  const { choices, copies, envelope } = await prepare();
  return sendWhole(context, request, reply, () => collect(choices, body, copies, envelope, scope));
}

/** Everything up to the engine's acceptance. */
async function startAnswer(context: AppContext, body: CompletionRequest, scope: RequestScope) {
  const model = await useModel(context, body.model, scope);
  const prompts = toPrompts(body.prompt);
  const copies = body.n ?? 1;
  checkChoices(context, copies);
  if (prompts.length * copies > generationsMax) {
    throw errors.invalid(`Invalid 'n': ${prompts.length} prompts times n may not exceed ${generationsMax}.`, 'n');
  }
  checkVocabulary(prompts, model);
  const requests = prompts.flatMap((prompt) => perChoice(toRequest(model, prompt, body), copies));
  const echoes = body.echo ? await Promise.all(prompts.map((prompt) => echoOf(context, model, prompt))) : [];
  const generations = await admit(context, requests, scope);
  const choices = generations.map((generation, at) => ({ generation, echo: echoes[Math.floor(at / copies)] ?? '' }));
  const envelope: Envelope = {
    id: newId('cmpl-'),
    created: nowSeconds(),
    model: model.name,
    fingerprint: model.fingerprint,
  };
  return { choices, copies, envelope };
}

function checkVocabulary(prompts: readonly CompletionPrompt[], model: ModelInfo): void {
  for (const prompt of prompts) {
    const bad = 'ids' in prompt ? prompt.ids.find((id) => id >= model.vocabulary) : undefined;
    if (bad !== undefined) {
      throw errors.invalid(
        `Invalid 'prompt': token ${bad} is outside the vocabulary of ${model.vocabulary}.`,
        'prompt',
      );
    }
  }
}

function toRequest(model: ModelInfo, prompt: CompletionPrompt, body: CompletionRequest): EngineRequest {
  const only = body.max_tokens === 0;
  return {
    model: model.name,
    kind: only ? 'score' : 'generate',
    // Raw prompts are the caller's own: special tokens in them mean what they say.
    text: 'text' in prompt ? prompt.text : '',
    literal: [],
    ...('ids' in prompt ? { ids: Int32Array.from(prompt.ids) } : { addSpecialTokens: true }),
    ...toSampling(body),
    ...defined({
      maxTokens: only ? undefined : (body.max_tokens ?? maxTokensDefault),
      logprobs: body.logprobs !== undefined || undefined,
      topLogprobs: body.logprobs,
      promptLogprobs: only || (body.echo === true && body.logprobs !== undefined) || undefined,
    }),
  };
}

async function echoOf(context: AppContext, model: ModelInfo, prompt: CompletionPrompt): Promise<string> {
  if ('text' in prompt) return prompt.text;
  return context.lifecycle.engine().detokenize(model.name, Int32Array.from(prompt.ids), false);
}

/** Prompt tokens are counted once a prompt, answers all. */
function usageOf(finished: readonly FinishedEvent[], copies: number) {
  const sum = (read: (event: FinishedEvent) => number, every = 1) =>
    finished.reduce((total, event, at) => total + (at % every === 0 ? read(event) : 0), 0);
  return toUsage({
    promptTokens: sum(({ usage }) => usage.promptTokens, copies),
    cachedTokens: sum(({ usage }) => usage.cachedTokens, copies),
    completionTokens: sum(({ usage }) => usage.completionTokens),
    reasoningTokens: 0,
    predictedTokens: 0,
    predictedAccepted: 0,
  });
}

const finishOf = (event: FinishedEvent) => (event.reason === 'length' || event.reason === 'done' ? 'length' : 'stop');

async function collect(
  choices: readonly Choice[],
  body: CompletionRequest,
  copies: number,
  envelope: Envelope,
  scope: RequestScope,
) {
  const results = await Promise.all(
    choices.map(async ({ generation, echo }) => {
      const logprobs = body.logprobs === undefined ? null : new CompletionLogprobs();
      let text = echo;
      const finished = await readGeneration(generation, scope, {
        prompt: (event) => logprobs?.add(event.logprob, event.top),
        token(event) {
          text += event.text;
          if (event.logprob) logprobs?.add(event.logprob, event.top ?? []);
        },
      });
      text += finished.text;
      const choice: CompletionChoice = { text, logprobs: logprobs?.take() ?? null, finishReason: finishOf(finished) };
      return { choice, finished };
    }),
  );
  const usage = usageOf(
    results.map(({ finished }) => finished),
    copies,
  );
  return toCompletion(
    envelope,
    results.map(({ choice }) => choice),
    usage,
  );
}

async function writeChunks(
  stream: SseStream,
  choices: readonly Choice[],
  body: CompletionRequest,
  copies: number,
  envelope: Envelope,
  scope: RequestScope,
): Promise<void> {
  const fields = { id: envelope.id, object: 'text_completion', created: envelope.created, model: envelope.model };
  const head = `${JSON.stringify({ ...fields, system_fingerprint: envelope.fingerprint }).slice(0, -1)},"choices":[`;
  const withUsage = body.stream_options?.include_usage === true;
  const tail = withUsage ? '],"usage":null}' : ']}';
  const finished = await Promise.all(
    choices.map((choice, index) => {
      const send = (text: string, logprobs: string, reason: string) =>
        stream.data(
          `${head}{"index":${index},"text":${JSON.stringify(text)},"logprobs":${logprobs},"finish_reason":${reason}}${tail}`,
        );
      return writeChoice(choice, body, scope, send);
    }),
  );
  if (withUsage) stream.data(`${head}],"usage":${JSON.stringify(usageOf(finished, copies))}}`);
  stream.done();
}

async function writeChoice(
  { generation, echo }: Choice,
  body: CompletionRequest,
  scope: RequestScope,
  send: (text: string, logprobs: string, reason: string) => void,
): Promise<FinishedEvent> {
  const logprobs = body.logprobs === undefined ? null : new CompletionLogprobs();
  const takeJson = () => (logprobs?.tokens.length ? JSON.stringify(logprobs.take()) : 'null');
  let echoed = echo === '';
  const sendEcho = () => {
    if (!echoed) send(echo, takeJson(), 'null');
    echoed = true;
  };
  const finished = await readGeneration(generation, scope, {
    prompt: (event) => logprobs?.add(event.logprob, event.top),
    token(event) {
      sendEcho();
      if (event.logprob) logprobs?.add(event.logprob, event.top ?? []);
      if (event.text !== '') send(event.text, takeJson(), 'null');
    },
  });
  sendEcho();
  send(finished.text, takeJson(), `"${finishOf(finished)}"`);
  return finished;
}
