// How routes are added: one definition gives the handler, the 405 for other methods and the OpenAPI entry.

import type { FastifyInstance, FastifyReply, FastifyRequest, HTTPMethods } from 'fastify';
import type { WebSocket } from 'ws';
import type { z } from 'zod';
import { errors } from '../errors.ts';

export interface RouteDefinition {
  method: 'GET' | 'POST' | 'DELETE';
  url: string;
  summary: string;
  body?: z.ZodType;
  query?: z.ZodObject;
  response?: z.ZodType;
  /** The answer is an event stream when the body says stream: true. */
  streams?: boolean;
  /** The answer's type when it is not JSON. */
  responseType?: string;
  /** Answers without a key. */
  open?: boolean;
  handler: (request: FastifyRequest, reply: FastifyReply) => unknown;
  /** Serves an upgraded connection; needs @fastify/websocket. */
  wsHandler?: (socket: WebSocket, request: FastifyRequest) => void;
}

declare module 'fastify' {
  interface FastifyContextConfig {
    definition?: RouteDefinition;
    /** Answers without a key. */
    open?: boolean;
  }
  interface FastifyInstance {
    definitions: RouteDefinition[];
  }
}

export function addRoute(app: FastifyInstance, definition: RouteDefinition): void {
  const { method, url, handler, wsHandler, open = false } = definition;
  app.definitions.push(definition);
  const onRequest = url.includes('/:id') ? { onRequest: refuseEmptyId } : {};
  app.route({ method, url, handler, ...onRequest, ...(wsHandler ? { wsHandler } : {}), config: { definition, open } });
}

/** The router takes nothing for an id, too: `/v1/responses/` is a URL with a slash too many. */
function refuseEmptyId(request: FastifyRequest, reply: FastifyReply, next: () => void): void {
  if ((request.params as { id: string }).id === '') reply.callNotFound();
  else next();
}

const methods: HTTPMethods[] = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'];

/** Answers every other method on a known path with 405. Called once all routes are known. */
export function refuseOtherMethods(app: FastifyInstance): void {
  const allowed = new Map<string, string[]>();
  for (const { method, url } of app.definitions) allowed.set(url, [...(allowed.get(url) ?? []), method]);
  for (const [url, used] of allowed) {
    app.route({
      method: methods.filter((method) => !used.includes(method as string)),
      url,
      // The body does not matter and is not read.
      onRequest: (request, _reply, next) => next(errors.methodNotAllowed(request.method, used.join(', '))),
      handler: () => undefined,
    });
  }
}
