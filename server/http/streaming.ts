// Opening a stream on a reply, and ending it however the request ends.

import type { OutgoingHttpHeaders } from 'node:http';
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

/**
 * An answer that is not streamed. Where heartbeats are asked for, white space (which JSON allows) goes out while the
 * answer is long in coming, since clients and proxies give up on silent connections; the status is then 200 already.
 */
export async function sendWhole(
  context: AppContext,
  request: FastifyRequest,
  reply: FastifyReply,
  work: () => Promise<object>,
): Promise<object> {
  const periodMs = context.settings.heartbeatSeconds * 1000;
  if (periodMs === 0) return work();
  let begun = false;
  const timer = setInterval(() => {
    if (!begun) {
      begun = true;
      reply.hijack();
      const headers = reply.getHeaders() as OutgoingHttpHeaders;
      reply.raw.writeHead(200, { ...headers, 'content-type': 'application/json; charset=utf-8' });
    }
    reply.raw.write(' ');
  }, periodMs);
  try {
    const answer = await work();
    if (!begun) return answer;
    reply.raw.end(JSON.stringify(answer));
  } catch (error) {
    if (!begun) throw error;
    if (isOurFault(error)) request.log.error({ err: error }, 'a slow answer failed');
    reply.raw.end(JSON.stringify(toApiError(error).toWire()));
  } finally {
    clearInterval(timer);
  }
  return reply;
}
