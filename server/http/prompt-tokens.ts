// How many tokens a request's prompt would take, without anything being generated.

import type { FastifyReply, FastifyRequest } from 'fastify';
import type { GrammarInput } from '../chat/grammar.ts';
import type { PromptInput } from '../chat/prompt.ts';
import { type Engine, EngineError, type EngineRequest, type ModelInfo } from '../engine/port.ts';
import { checkedFamily, renderPrompt } from './chat-core.ts';
import type { AppContext } from './context.ts';
import { type RequestImages, withImages } from './image-parts.ts';
import { RequestScope } from './scope.ts';

export interface CountedPrompt {
  prompt: PromptInput;
  constraint: GrammarInput;
  images: RequestImages;
}

/** What the request itself would be refused for is refused here, too. */
export async function countPrompt(
  context: AppContext,
  request: FastifyRequest,
  reply: FastifyReply,
  model: ModelInfo,
  { prompt: input, constraint, images }: CountedPrompt,
): Promise<number> {
  checkedFamily(constraint, model);
  const prompt = await renderPrompt(context, model, input);
  const engine = context.lifecycle.engine();
  if (images.references.length > 0) {
    const scope = new RequestScope(context.lifecycle, reply.raw, request.keyOwner);
    const task = { model: model.name, kind: 'generate' as const, maxTokens: 1, ...prompt };
    return withImages(context, model, images, scope, (decoded) =>
      countWithImages(engine, { ...task, images: decoded }),
    );
  }
  const ids = await engine.tokenize(model.name, prompt.text, prompt.literal, prompt.addSpecialTokens);
  return ids.length;
}

/** What images become depends on their sizes: the engine says it when it accepts the prompt, which then goes no further. */
async function countWithImages(engine: Engine, request: EngineRequest): Promise<number> {
  try {
    for await (const event of await engine.submit(request)) {
      if (event.type === 'accepted') return event.promptTokens;
      if (event.type === 'finished') return event.usage.promptTokens;
    }
  } catch (error) {
    if (!(error instanceof EngineError) || error.code !== 'context_length_exceeded') throw error;
    return Number(error.detail.prompt_tokens);
  }
  throw new Error('the engine ended a request without a finish');
}
