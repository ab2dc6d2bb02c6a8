// buildApp: the HTTP server without a process around it. No environment, no signals, no listening.

import { randomUUID } from 'node:crypto';
import type { Socket } from 'node:net';
import Fastify, {
  type FastifyBaseLogger,
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  LogController,
} from 'fastify';
import type { Render } from './chat/prompt.ts';
import { EngineError } from './engine/port.ts';
import { ApiError, bounded, errors } from './errors.ts';
import { guardAccess } from './http/access.ts';
import { Admission } from './http/admission.ts';
import { chatCompletions } from './http/chat-completions.ts';
import { completions } from './http/completions.ts';
import type { AppContext, HttpSettings } from './http/context.ts';
import { docs } from './http/docs.ts';
import { embeddings } from './http/embeddings.ts';
import { isOurFault, toApiError } from './http/engine-errors.ts';
import { health } from './http/health.ts';
import type { KeyRing } from './http/keys.ts';
import type { Lifecycle } from './http/lifecycle.ts';
import { parseJsonBodies } from './http/long-strings.ts';
import { messages } from './http/messages.ts';
import { Metrics } from './http/metrics.ts';
import { models } from './http/models.ts';
import { insteadOf, refuseCompaction } from './http/not-served.ts';
import { openapi } from './http/openapi.ts';
import { page } from './http/page.ts';
import { RateLimits } from './http/rate-limits.ts';
import { ResponseBudget } from './http/response-store.ts';
import { responses } from './http/responses.ts';
import { refuseOtherMethods } from './http/routes.ts';
import { ClientGone } from './http/scope.ts';
import { KeepAlive } from './http/sse.ts';
import { tokens } from './http/tokens.ts';
import { takeUpgrades } from './http/upgrades.ts';
import type { ImageDecoder } from './images/decoder.ts';

export interface AppDependencies {
  lifecycle: Lifecycle;
  settings: HttpSettings;
  keys: KeyRing;
  render: Render;
  images: ImageDecoder;
  logger?: FastifyBaseLogger;
  tls?: { cert: string; key: string };
}

/** Time in which a whole request must have arrived; answers may take as long as they like. */
const requestArrivalMsMax = 300_000;
/** Longer than a proxy keeps its idle connections (nginx: 60 s), or it would meet closed ones. */
const keepAliveMs = 75_000;

export async function buildApp(dependencies: AppDependencies): Promise<FastifyInstance> {
  const { settings, lifecycle, logger, tls } = dependencies;
  const app = Fastify({
    ...(logger ? { loggerInstance: logger } : { logger: false }),
    ...(tls ? { https: tls } : {}),
    bodyLimit: settings.bodyLimitMb * 1024 * 1024,
    trustProxy: settings.trustProxy,
    requestTimeout: requestArrivalMsMax,
    connectionTimeout: 0,
    keepAliveTimeout: keepAliveMs,
    logController: new LogController({ disableRequestLogging: true }),
    // Closing comes after draining: what is still open then is idle, half-sent or refused.
    forceCloseConnections: true,
    exposeHeadRoutes: true,
    return503OnClosing: false,
    genReqId: (request) => requestId(request.headers['x-request-id']),
    clientErrorHandler,
    frameworkErrors: (error, _request, reply) =>
      send(reply as FastifyReply, fromFastify(error, 0) ?? toApiError(error)),
  }) as unknown as FastifyInstance;
  const keepAlive = new KeepAlive(settings.keepAliveSeconds * 1000);
  const limits = new RateLimits((owner, kind) => metrics.rateLimited(owner, kind));
  const admission = new Admission(settings, {
    ended(owner, cost, usage) {
      limits.settle(owner, cost, usage ? usage.promptTokens + usage.completionTokens : 0);
      if (usage) metrics.used(owner, usage);
    },
  });
  const metrics = new Metrics(
    () => lifecycle.engineForStats(),
    () => lifecycle.modelsForStats(),
    admission,
  );
  const context: AppContext = { ...dependencies, metrics, keepAlive, admission, limits };
  app.removeContentTypeParser(['text/plain', 'application/json']);
  parseJsonBodies(app);
  app.decorate('definitions', []);
  app.addHook('onClose', () => keepAlive.close());
  app.decorate('webSockets', takeUpgrades(app));
  app.addHook('onRequest', async (request, reply) => {
    reply.header('x-request-id', request.id);
    reply.header('x-content-type-options', 'nosniff');
    if ((request.headers['content-encoding'] ?? 'identity') !== 'identity') throw errors.unsupportedEncoding();
  });
  logRequests(app);
  await guardAccess(app, settings, dependencies.keys);
  countRequests(app, metrics, limits);
  handleErrors(app, metrics, settings);
  const kept = new ResponseBudget();
  await app.register(
    async (scope) => {
      health(scope, context);
      models(scope, context);
      chatCompletions(scope, context, kept);
      completions(scope, context);
      messages(scope, context);
      await responses(scope, context, kept);
      embeddings(scope, context);
      tokens(scope, context);
      openapi(scope, settings);
      docs(scope);
      await page(scope);
      refuseCompaction(scope);
      refuseOtherMethods(scope);
    },
    { prefix: settings.basePath },
  );
  return app;
}

/** Every POST counts against its key's requests a minute, before its body is read. */
function countRequests(app: FastifyInstance, metrics: Metrics, limits: RateLimits): void {
  app.addHook('onRequest', async (request, reply) => {
    if (request.method !== 'POST' || !request.routeOptions.config.definition) return;
    metrics.requested(request.keyOwner);
    limits.takeRequest(request.keyOwner);
    // On the raw answer, where a route may still put them right: Fastify's own headers would win over those.
    for (const [name, value] of Object.entries(limits.headers(request.keyOwner))) reply.raw.setHeader(name, value);
  });
}

/** A client's id is echoed when it is short and printable. */
function requestId(given: string | string[] | undefined): string {
  return typeof given === 'string' && /^[\x21-\x7e]{1,128}$/.test(given) ? given : randomUUID();
}

/** One line a request: never a prompt, never a body. */
function logRequests(app: FastifyInstance): void {
  app.addHook('onResponse', async (request, reply) => {
    const { method } = request;
    const line = {
      method,
      url: request.url.split('?')[0],
      status: reply.statusCode,
      ms: Math.round(reply.elapsedTime),
    };
    // What probes ask for every few seconds.
    if (/^\/(?:health|metrics)/.test(request.routeOptions.config.definition?.url ?? ''))
      request.log.debug(line, 'request');
    else request.log.info(line, 'request');
  });
}

const send = (reply: FastifyReply, error: ApiError) =>
  reply.status(error.status).headers(error.headers).send(error.toWire());

const anthropicTypes: Record<number, string> = {
  401: 'authentication_error',
  403: 'permission_error',
  404: 'not_found_error',
  413: 'request_too_large',
  429: 'rate_limit_error',
  500: 'api_error',
  503: 'overloaded_error',
};

/** The same error as Anthropic's clients know it. */
function sendAnthropic(reply: FastifyReply, error: ApiError) {
  const type = anthropicTypes[error.status] ?? 'invalid_request_error';
  const details = error.details ? { details: error.details } : {};
  const body = { type: 'error', error: { ...error.toWire().error, type, ...details } };
  return reply.status(error.status).headers(error.headers).send(body);
}

/** Where the prompt stands in bodies that have no messages. */
const promptFields: Record<string, string> = {
  '/v1/completions': 'prompt',
  '/v1/embeddings': 'input',
  '/v1/responses': 'input',
};

function handleErrors(app: FastifyInstance, metrics: Metrics, settings: HttpSettings): void {
  const bodyBytesMax = settings.bodyLimitMb * 1024 * 1024;
  app.setErrorHandler((error: FastifyError | ApiError, request, reply) => {
    if (error instanceof ClientGone) {
      reply.hijack();
      reply.raw.destroy();
      return;
    }
    const route = request.routeOptions.config.definition?.url ?? '';
    const known = fromFastify(error, bodyBytesMax) ?? toApiError(error, promptFields[route]);
    if (isOurFault(error) && known.status >= 500) request.log.error({ err: error }, 'a request failed');
    metrics.refused(known.status, known.code);
    // Fastify would close the connection in the middle of a body that is too large: clients that send it all before they
    // read see a broken connection instead of the answer. Left open, Node throws away what still comes.
    if (known.status === 413) reply.removeHeader('connection');
    return request.routeOptions.url?.includes('/v1/messages') ? sendAnthropic(reply, known) : send(reply, known);
  });
  app.setNotFoundHandler((request) => {
    const url = request.url.split('?')[0]!;
    const path = url.startsWith(settings.basePath) ? url.slice(settings.basePath.length) : url;
    throw errors.unknownUrl(request.method, url, meantUrl(app, settings.basePath, url) ?? insteadOf(path));
  });
}

/** What to say to a client whose base URL has /v1 twice or not at all, or a slash too many; null when it is none. */
function meantUrl(app: FastifyInstance, basePath: string, url: string): string | null {
  const spellings = (route: string) => [route.slice('/v1'.length), `/v1${route}`, `${route}/`];
  const routes = app.definitions.map((definition) => definition.url).filter((route) => route.startsWith('/v1/'));
  const meant = routes.find((route) => spellings(route).some((spelling) => basePath + spelling === url));
  return meant ? `It is ${bounded(basePath + meant, 200)} here: the base URL of clients ends in /v1.` : null;
}

/** Fastify's own errors in the words of the catalogue. */
function fromFastify(error: FastifyError | ApiError, bodyBytesMax: number): ApiError | null {
  if (error instanceof ApiError || error instanceof EngineError) return null;
  switch (error.code) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return errors.tooLarge(bodyBytesMax);
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return errors.unsupportedMediaType();
    case 'FST_ERR_BAD_URL':
    case 'FST_ERR_MAX_PARAM_LENGTH':
      return errors.notFound('The URL cannot be read.', 'unknown_url');
    default: {
      const status = error.statusCode ?? 500;
      if (status >= 500 || status < 400) return null;
      return errors.invalid('The body is not valid JSON.');
    }
  }
}

/** What never became a request: broken HTTP, headers over the limit. */
function clientErrorHandler(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) return void socket.destroy();
  const known =
    error.code === 'HPE_HEADER_OVERFLOW' ? errors.headersTooLarge() : errors.invalid('The request is not valid HTTP.');
  const body = JSON.stringify(known.toWire());
  const reason = known.status === 431 ? 'Request Header Fields Too Large' : 'Bad Request';
  socket.end(
    `HTTP/1.1 ${known.status} ${reason}\r\nContent-Type: application/json\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\nx-request-id: ${randomUUID()}\r\n\r\n${body}`,
  );
}
