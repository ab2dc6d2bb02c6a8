// Bodies: the zod schema decides the shape, this file says what is wrong with it.

import type { FastifyBaseLogger, FastifyRequest } from 'fastify';
import type { z } from 'zod';
import { errors } from '../errors.ts';
import { validate } from '../openai/validation.ts';

export function parseBody<T extends z.ZodType>(schema: T, request: FastifyRequest, lenient: boolean): z.output<T> {
  if (request.body === undefined) throw errors.invalid('The body is empty; it must be JSON.');
  return checkedBody(schema, request.body, request.log, lenient);
}

/** The query, of which nothing is left unread either. SDKs write lists as `include[]=a`, objects as `metadata[key]=value`. */
export function parseQuery<T extends z.ZodType>(schema: T, request: FastifyRequest, lenient: boolean): z.output<T> {
  const query = new Map<string, unknown>();
  for (const [key, value] of Object.entries(request.query as Record<string, string | string[]>)) {
    const [, name, inner] = /^([^[\]]+)\[([^[\]]*)\]$/.exec(key) ?? [null, key, null];
    const before = query.get(name!);
    if (inner === null) query.set(name!, value);
    else if (/^\d{0,4}$/.test(inner!)) query.set(name!, [before ?? [], value].flat());
    else query.set(name!, { ...(before as object), [inner!]: value });
  }
  return checkedBody(schema, Object.fromEntries(query), request.log, lenient);
}

export function checkedBody<T extends z.ZodType>(
  schema: T,
  body: unknown,
  log: FastifyBaseLogger,
  lenient: boolean,
): z.output<T> {
  const result = validate(schema, body, lenient);
  if (result.ok) {
    if (result.dropped.length) log.warn({ fields: result.dropped }, 'unsupported fields were left out');
    return result.value;
  }
  const { problem } = result;
  if (problem.kind === 'unsupported') throw errors.unsupportedParameter(problem.param);
  throw errors.invalid(problem.message, problem.param);
}
