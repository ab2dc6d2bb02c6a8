// The OpenAPI document, made from the routes' own zod schemas: what is validated is what is published.

import type { FastifyInstance, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { errorSchema } from '../openai/common.ts';
import type { HttpSettings } from './context.ts';
import { addRoute, type RouteDefinition } from './routes.ts';

type Json = Record<string, unknown>;

const document = (paths: Json, schemas: Json): Json => ({
  openapi: '3.1.0',
  info: {
    title: 'Hearth',
    version: '1',
    description: 'An OpenAI-compatible server for models on hardware of your own. docs/api.md lists every field.',
    license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
  },
  servers: [{ url: 'http://127.0.0.1:8080' }],
  security: [{}, { bearer: [] }],
  paths,
  components: {
    securitySchemes: { bearer: { type: 'http', scheme: 'bearer' } },
    schemas,
  },
});

/** The document of a set of routes; stable, so that it can be compared with the committed one. */
export function makeOpenapi(definitions: readonly RouteDefinition[]): Json {
  const paths: Record<string, Json> = {};
  for (const definition of [...definitions].sort((a, b) => a.url.localeCompare(b.url))) {
    const path = definition.url.replace(/\*|:id/, '{id}');
    paths[path] = { ...paths[path], [definition.method.toLowerCase()]: operation(definition, path) };
  }
  return document(paths, { Error: toJsonSchema(errorSchema, 'output') });
}

function operation(definition: RouteDefinition, path: string): Json {
  const { body, summary, open } = definition;
  const parameters = [
    ...(path.includes('{id}') ? [{ name: 'id', in: 'path', required: true, schema: { type: 'string' } }] : []),
    ...queryParameters(definition),
  ];
  return {
    operationId: `${definition.method.toLowerCase()}${path.replace(/[^A-Za-z0-9]+(.)?/g, (_, letter) => (letter ?? '').toUpperCase())}`,
    summary,
    ...(open ? { security: [{}] } : {}),
    ...(parameters.length > 0 ? { parameters } : {}),
    ...(body
      ? { requestBody: { required: true, content: { 'application/json': { schema: toJsonSchema(body, 'input') } } } }
      : {}),
    responses: {
      200: { description: 'OK', content: answers(definition) },
      default: {
        description: 'An error',
        content: { 'application/json': { schema: { $ref: '#/components/schemas/Error' } } },
      },
    },
  };
}

/** Of a query the output is published: what comes in are texts, of which it is read. */
function queryParameters({ query }: RouteDefinition): Json[] {
  return Object.entries(query?.shape ?? {}).map(([name, schema]) => {
    const { description, ...rest } = toJsonSchema(schema as z.ZodType, 'output');
    return { name, in: 'query', ...(description ? { description } : {}), schema: rest };
  });
}

function answers({ response, responseType, streams }: RouteDefinition): Json {
  return {
    ...(response ? { 'application/json': { schema: toJsonSchema(response, 'output') } } : {}),
    ...(responseType ? { [responseType]: { schema: { type: 'string' } } } : {}),
    ...(streams ? { 'text/event-stream': { schema: { type: 'string', description: 'With stream: true.' } } } : {}),
  };
}

function toJsonSchema(schema: z.ZodType, io: 'input' | 'output'): Json {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, {
    io,
    target: 'draft-2020-12',
    unrepresentable: 'any',
  }) as Json;
  return rest;
}

/**
 * Where clients find this server. A proxy's word (X-Forwarded-Proto, -Host, -Prefix) counts only when proxies are
 * trusted: Fastify sees to the first two.
 */
function publicUrl(request: FastifyRequest, { trustProxy, basePath }: HttpSettings): string {
  const given = trustProxy ? request.headers['x-forwarded-prefix'] : undefined;
  const prefix = typeof given === 'string' && /^(\/[A-Za-z0-9._~-]+)+$/.test(given) ? given : '';
  return `${request.protocol}://${request.host}${prefix}${basePath}`;
}

export function openapi(app: FastifyInstance, settings: HttpSettings): void {
  let made: Json | null = null;
  addRoute(app, {
    method: 'GET',
    url: '/openapi.json',
    summary: 'This document',
    response: z.record(z.string(), z.unknown()),
    open: true,
    handler: (request) => {
      made ??= makeOpenapi(app.definitions);
      return { ...made, servers: [{ url: publicUrl(request, settings) }] };
    },
  });
}
