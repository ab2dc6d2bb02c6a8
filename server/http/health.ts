// GET /health, /health/live, /health/ready, /metrics.

import type { FastifyInstance, FastifyReply } from 'fastify';
import { z } from 'zod';
import type { AppContext } from './context.ts';
import { addRoute } from './routes.ts';

const healthSchema = z.object({ status: z.literal('ok') });

export function health(app: FastifyInstance, context: AppContext): void {
  const ready = (reply: FastifyReply) => {
    const refusal = context.lifecycle.refusal();
    if (!refusal) return { status: 'ok' };
    return reply.status(refusal.status).headers(refusal.headers).send(refusal.toWire());
  };
  const add = (url: string, summary: string, handler: (reply: FastifyReply) => unknown) =>
    addRoute(app, {
      method: 'GET',
      url,
      summary,
      response: healthSchema,
      open: true,
      handler: (_request, reply) => handler(reply),
    });
  add('/health', 'Whether requests can be served; 503 with a reason while not', ready);
  add('/health/ready', 'The same as /health, for orchestrators', ready);
  add('/health/live', 'Whether the process answers', () => ({ status: 'ok' }));
  addRoute(app, {
    method: 'GET',
    url: '/metrics',
    summary: 'Metrics in Prometheus text format',
    responseType: 'text/plain',
    handler: async (_request, reply) => {
      const { registry } = context.metrics;
      return reply.header('content-type', registry.contentType).send(await registry.metrics());
    },
  });
}
