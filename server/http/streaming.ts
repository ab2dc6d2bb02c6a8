// Opening a stream on a reply, and ending it however the request ends.

import type { FastifyReply, FastifyRequest } from 'fastify';
import { type AppContext, unreadBytesMax } from './context.ts';
import { isOurFault, toApiError } from './engine-errors.ts';
import { ClientGone, type RequestScope } from './scope.ts';
import { SseStream } from './sse.ts';

export function openStream(context: AppContext, reply: FastifyReply, scope: RequestScope): SseStream {
  reply.hijack();
  return new SseStream(reply.raw, context.keepAlive, {
    headers: reply.getHeaders(),
    unreadBytesMax,
    onSlowReader: () => scope.abort(null),
  });
}

/** Runs what writes a stream; a failure becomes its last event, written by `fail`. */
export async function streamBody(
  request: FastifyRequest,
  stream: SseStream,
  write: () => Promise<void>,
  fail: (wire: ReturnType<ReturnType<typeof toApiError>['toWire']>) => void,
): Promise<void> {
  try {
    await write();
  } catch (error) {
    if (error instanceof ClientGone) return stream.end();
    if (isOurFault(error)) request.log.error({ err: error }, 'a stream failed');
    fail(toApiError(error).toWire());
    stream.end();
  }
}
