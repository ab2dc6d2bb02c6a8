// Opening a stream on a reply, and ending it however the request ends.

import type { OutgoingHttpHeaders } from 'node:http';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { WireError } from '../errors.ts';
import { type AppContext, unreadBytesMax } from './context.ts';
import { isOurFault, toApiError } from './engine-errors.ts';
import { ClientGone, type RequestScope } from './scope.ts';
import { SseStream } from './sse.ts';

function openStream(context: AppContext, reply: FastifyReply, scope: RequestScope): SseStream {
  reply.hijack();
  return new SseStream(reply.raw, context.keepAlive, {
    headers: reply.getHeaders(),
    unreadBytesMax,
    onSlowReader: () => scope.abort(null),
  });
}

/** A streamed answer: what has to be there before its first event, what writes it, and how a failure looks as an event. */
export interface StreamSteps<T> {
  prepare: () => Promise<T>;
  write: (stream: SseStream, ready: T) => Promise<void>;
  fail: (stream: SseStream, wire: WireError, ready: T | null) => void;
}

/**
 * Streams an answer. Until everything is prepared a failure is a status; but where that takes longer than connections may
 * be silent (a model has to be loaded), the stream is opened before, comments keep it alive, and a failure is an event.
 */
export async function streamAnswer<T>(
  context: AppContext,
  request: FastifyRequest,
  reply: FastifyReply,
  scope: RequestScope,
  { prepare, write, fail }: StreamSteps<T>,
): Promise<FastifyReply> {
  let early: SseStream | null = null;
  const open = () => (early ??= openStream(context, reply, scope));
  const timer = setTimeout(open, context.settings.keepAliveSeconds * 1000);
  let ready: T;
  try {
    ready = await prepare();
  } catch (error) {
    clearTimeout(timer);
    if (!early) throw error;
    const stream: SseStream = early;
    await streamBody(
      request,
      stream,
      () => Promise.reject(error),
      (wire) => fail(stream, wire, null),
    );
    return reply;
  }
  clearTimeout(timer);
  const stream = open();
  await streamBody(
    request,
    stream,
    () => write(stream, ready),
    (wire) => fail(stream, wire, ready),
  );
  return reply;
}

/** Runs what writes a stream; a failure becomes its last event, written by `fail`. */
async function streamBody(
  request: FastifyRequest,
  stream: SseStream,
  write: () => Promise<void>,
  fail: (wire: WireError) => void,
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
