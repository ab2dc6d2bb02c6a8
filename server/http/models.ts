// GET /v1/models and /v1/models/{id}, and what an operator may do with models. Ids may hold slashes.

import type { FastifyInstance, FastifyRequest } from 'fastify';
import { z } from 'zod';
import type { ModelStatus } from '../engine/model-set.ts';
import { errors } from '../errors.ts';
import { mayAdminister } from './access.ts';
import { parseBody } from './body.ts';
import { nowSeconds } from './chat-core.ts';
import type { AppContext } from './context.ts';
import { addRoute } from './routes.ts';

const modelSchema = z.object({
  id: z.string(),
  object: z.literal('model'),
  created: z.int(),
  owned_by: z.string(),
  status: z
    .enum(['available', 'loading', 'loaded', 'unloading', 'failed'])
    .meta({ description: 'available: not in memory, loaded by the first request; failed: the last load failed.' }),
  default: z.boolean().meta({ description: 'Answers requests that name no model.' }),
  max_model_len: z
    .int()
    .nullable()
    .meta({ description: 'Longest prompt plus answer in tokens, as vLLM calls it; null while not known.' }),
  capabilities: z.object({ vision: z.boolean().nullable() }),
  precision: z
    .string()
    .nullable()
    .meta({ description: 'Arithmetic of the weights, for example w4a16; null until it was loaded.' }),
  device: z.string().nullable().meta({ description: 'Where it runs; null until it was loaded.' }),
  memory_bytes: z.int().nullable().meta({ description: 'What it takes in memory; null while it is not loaded.' }),
  requests: z.object({ running: z.int(), waiting: z.int() }),
  error: z.string().nullable().meta({ description: 'Why the last load failed.' }),
});

const nameSchema = z.string().min(1).max(512).meta({ description: 'A name from /v1/models.' });
const loadRequestSchema = z.strictObject({ model: nameSchema });
const unloadRequestSchema = z.strictObject({
  model: nameSchema,
  wait_seconds: z
    .int()
    .min(0)
    .max(3600)
    .default(0)
    .meta({ description: 'How long running answers may take; then the answer is 409 and the model stays.' }),
});

export function models(app: FastifyInstance, context: AppContext): void {
  const created = nowSeconds();
  const set = () => context.lifecycle.models();
  const toWire = (status: ModelStatus, id = status.name) => ({ ...modelFields(status), id, created });
  addRoute(app, {
    method: 'GET',
    url: '/v1/models',
    summary: 'Models that requests may name, loaded or not',
    response: z.object({ object: z.literal('list'), data: z.array(modelSchema) }),
    handler: () => ({
      object: 'list',
      data: set()
        .status()
        .map((status) => toWire(status)),
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
      return toWire(set().statusOf(id), id);
    },
  });
  addRoute(app, {
    method: 'POST',
    url: '/admin/models/load',
    summary: 'Load a model; answers when it is ready',
    body: loadRequestSchema,
    response: modelSchema,
    handler: async (request) => {
      const { model } = adminBody(loadRequestSchema, request);
      await set().load(model);
      return toWire(set().statusOf(model));
    },
  });
  addRoute(app, {
    method: 'POST',
    url: '/admin/models/unload',
    summary: 'Unload a model that no request uses',
    body: unloadRequestSchema,
    response: modelSchema,
    handler: async (request) => {
      const { model, wait_seconds } = adminBody(unloadRequestSchema, request);
      await set().unload(model, wait_seconds * 1000);
      return toWire(set().statusOf(model));
    },
  });
}

/** The right comes first: others learn nothing from what is wrong with their body. */
function adminBody<T extends z.ZodType>(schema: T, request: FastifyRequest): z.output<T> {
  if (!mayAdminister(request)) throw errors.forbidden('This key may not load or unload models.');
  return parseBody(schema, request, false);
}

function modelFields({ state, isDefault, info, context, vision, failure, inUse, waiting }: ModelStatus) {
  const loaded = state === 'loaded' || state === 'unloading';
  return {
    object: 'model' as const,
    owned_by: 'hearth',
    status: failure !== null && state === 'available' ? ('failed' as const) : state,
    default: isDefault,
    max_model_len: context,
    capabilities: { vision },
    precision: info?.precision ?? null,
    device: info?.device ?? null,
    memory_bytes: loaded && info ? info.memory.reduce((sum, { bytes }) => sum + bytes, 0) : null,
    requests: { running: inUse, waiting },
    error: failure,
  };
}
