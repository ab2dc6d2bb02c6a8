// GET /v1/models and /v1/models/{id}; ids may hold slashes.

import type { FastifyInstance } from 'fastify';
import { z } from 'zod';
import type { ModelInfo } from '../engine/port.ts';
import { errors } from '../errors.ts';
import { nowSeconds } from './chat-core.ts';
import type { AppContext } from './context.ts';
import { addRoute } from './routes.ts';

const modelSchema = z.object({
  id: z.string(),
  object: z.literal('model'),
  created: z.int(),
  owned_by: z.string(),
  max_model_len: z.int().meta({ description: 'Longest prompt plus answer in tokens, as vLLM calls it.' }),
  capabilities: z.object({ vision: z.boolean() }),
  precision: z.string().meta({ description: 'Arithmetic of the weights, for example w4a16.' }),
  device: z.string().meta({ description: 'Where it runs.' }),
});

export function models(app: FastifyInstance, context: AppContext): void {
  const created = nowSeconds();
  const toWire = (model: ModelInfo, id = model.name) => ({
    id,
    object: 'model' as const,
    created,
    owned_by: 'hearth',
    max_model_len: model.context,
    capabilities: { vision: model.vision !== null },
    precision: model.precision,
    device: model.device,
  });
  addRoute(app, {
    method: 'GET',
    url: '/v1/models',
    summary: 'Models that can be used now',
    response: z.object({ object: z.literal('list'), data: z.array(modelSchema) }),
    handler: () => ({
      object: 'list',
      data: context.lifecycle
        .engine()
        .models()
        .map((model) => toWire(model)),
    }),
  });
  addRoute(app, {
    method: 'GET',
    url: '/v1/models/*',
    summary: 'One model',
    response: modelSchema,
    handler: (request) => {
      const id = (request.params as { '*': string })['*'];
      if (id === '') throw errors.modelNotFound(id);
      return toWire(context.lifecycle.model(id), id);
    },
  });
}
