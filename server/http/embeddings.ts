// POST /v1/embeddings.

import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { EngineRequest } from '../engine/port.ts';
import { defined } from '../openai/common.ts';
import { toPrompts } from '../openai/completions.ts';
import { embeddingRequestSchema, embeddingResponseSchema, toBase64 } from '../openai/embeddings.ts';
import { parseBody } from './body.ts';
import type { AppContext } from './context.ts';
import { admit, readGeneration } from './generation.ts';
import { useModel } from './model-use.ts';
import { addRoute } from './routes.ts';
import { RequestScope } from './scope.ts';

export function embeddings(app: FastifyInstance, context: AppContext): void {
  addRoute(app, {
    method: 'POST',
    url: '/v1/embeddings',
    summary: 'Turn texts into vectors',
    body: embeddingRequestSchema,
    response: embeddingResponseSchema,
    handler: (request, reply) => answer(context, request, reply),
  });
}

async function answer(context: AppContext, request: FastifyRequest, reply: FastifyReply) {
  const body = parseBody(embeddingRequestSchema, request, context.settings.lenient);
  const scope = new RequestScope(context.lifecycle, reply.raw, request.keyOwner);
  const model = await useModel(context, body.model, scope);
  const requests = toPrompts(body.input).map(
    (prompt): EngineRequest => ({
      model: model.name,
      kind: 'embed',
      text: 'text' in prompt ? prompt.text : '',
      // What is embedded is a document, whoever wrote it: no special tokens in it.
      literal: 'text' in prompt ? [[0, Buffer.byteLength(prompt.text)]] : [],
      ...('ids' in prompt ? { ids: Int32Array.from(prompt.ids) } : { addSpecialTokens: true }),
      pooling: body.pooling ?? 'mean',
      normalize: body.normalize ?? true,
      ...defined({ dimensions: body.dimensions }),
    }),
  );
  const generations = await admit(context, requests, scope);
  const results = await Promise.all(
    generations.map(async (generation) => {
      let values = new Float32Array(0);
      const finished = await readGeneration(generation, scope, {
        token: () => {},
        embedding: (given) => {
          values = Float32Array.from(given);
        },
      });
      return { values, tokens: finished.usage.promptTokens };
    }),
  );
  const tokens = results.reduce((sum, result) => sum + result.tokens, 0);
  return {
    object: 'list' as const,
    data: results.map(({ values }, index) => ({
      object: 'embedding' as const,
      index,
      embedding: body.encoding_format === 'base64' ? toBase64(values) : [...values],
    })),
    model: model.name,
    usage: { prompt_tokens: tokens, total_tokens: tokens },
  };
}
