// Bodies: the zod schema decides the shape, this file says what is wrong with it.

import type { FastifyBaseLogger, FastifyRequest } from 'fastify';
import type { z } from 'zod';
import { errors } from '../errors.ts';
import { validate } from '../openai/validation.ts';

export function parseBody<T extends z.ZodType>(schema: T, request: FastifyRequest, lenient: boolean): z.output<T> {
  return checkedBody(schema, request.body ?? undefined, request.log, lenient);
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
