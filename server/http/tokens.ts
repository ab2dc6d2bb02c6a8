// POST /tokenize, /detokenize, /apply-template: what a prompt becomes, without running it.

import type { FastifyInstance } from 'fastify';
import type { ModelInfo } from '../engine/port.ts';
import {
  type ApplyTemplateRequest,
  applyTemplateRequestSchema,
  applyTemplateResponseSchema,
  detokenizeRequestSchema,
  detokenizeResponseSchema,
  tokenizeRequestSchema,
  tokenizeResponseSchema,
} from '../openai/tokens.ts';
import { parseBody } from './body.ts';
import { toTurn } from './chat-completions.ts';
import { renderPrompt } from './chat-core.ts';
import type { AppContext } from './context.ts';
import { withModel } from './model-use.ts';
import { addRoute } from './routes.ts';

export function tokens(app: FastifyInstance, context: AppContext): void {
  const { lenient } = context.settings;
  addRoute(app, {
    method: 'POST',
    url: '/tokenize',
    summary: 'Token ids of a text or a conversation',
    body: tokenizeRequestSchema,
    response: tokenizeResponseSchema,
    handler: async (request) => {
      const body = parseBody(tokenizeRequestSchema, request, lenient);
      return withModel(context, body.model, async (model) => {
        const prompt =
          'prompt' in body
            ? { text: body.prompt, literal: [], addSpecialTokens: body.add_special_tokens ?? true }
            : await render(context, model, body);
        const engine = context.lifecycle.engine();
        const ids = await engine.tokenize(model.name, prompt.text, prompt.literal, prompt.addSpecialTokens);
        return { count: ids.length, max_model_len: model.context, tokens: [...ids] };
      });
    },
  });
  addRoute(app, {
    method: 'POST',
    url: '/detokenize',
    summary: 'Text of token ids',
    body: detokenizeRequestSchema,
    response: detokenizeResponseSchema,
    handler: async (request) => {
      const body = parseBody(detokenizeRequestSchema, request, lenient);
      return withModel(context, body.model, async ({ name }) => ({
        prompt: await context.lifecycle.engine().detokenize(name, Int32Array.from(body.tokens), false),
      }));
    },
  });
  addRoute(app, {
    method: 'POST',
    url: '/apply-template',
    summary: 'A conversation as the model’s chat template writes it',
    body: applyTemplateRequestSchema,
    response: applyTemplateResponseSchema,
    handler: async (request) => {
      const body = parseBody(applyTemplateRequestSchema, request, lenient);
      return withModel(context, body.model, async (model) => ({ prompt: (await render(context, model, body)).text }));
    },
  });
}

function render(context: AppContext, model: ModelInfo, body: ApplyTemplateRequest) {
  return renderPrompt(context, model, {
    turns: body.messages.map(toTurn),
    tools: body.tools,
    variables: { add_generation_prompt: body.add_generation_prompt ?? true, ...body.chat_template_kwargs },
  });
}
