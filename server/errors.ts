// The catalogue of errors that a client can see. Nothing else decides a status, a type or a code.

export type ErrorType =
  | 'invalid_request_error'
  | 'authentication_error'
  | 'permission_error'
  | 'rate_limit_error'
  | 'server_error'
  | 'unavailable_error';

export interface WireError {
  error: { message: string; type: ErrorType; param: string | null; code: string | null };
}

interface ErrorOptions {
  param?: string | null;
  code?: string | null;
  retryAfterSeconds?: number;
  headers?: Record<string, string>;
  /** What Anthropic's clients look for beside the message. */
  details?: Record<string, unknown>;
}

/** Longest message that leaves the server; a validation error must not amplify its input. */
export const messageLengthMax = 1000;

export class ApiError extends Error {
  readonly param: string | null;
  readonly code: string | null;
  readonly headers: Record<string, string>;
  readonly details: Record<string, unknown> | null;

  constructor(
    readonly status: number,
    readonly type: ErrorType,
    message: string,
    options: ErrorOptions = {},
  ) {
    super(bounded(message));
    this.name = 'ApiError';
    this.param = options.param ?? null;
    this.code = options.code ?? null;
    this.headers = { ...options.headers };
    this.details = options.details ?? null;
    if (options.retryAfterSeconds !== undefined) this.headers['retry-after'] = String(options.retryAfterSeconds);
  }

  toWire(): WireError {
    return { error: { message: this.message, type: this.type, param: this.param, code: this.code } };
  }
}

/** Cuts text to a length without splitting a surrogate pair, and keeps it on one line. */
export function bounded(text: string, length = messageLengthMax): string {
  const line = text.replace(/[\u0000-\u001f\u007f]+/g, ' ');
  return line.length <= length ? line : `${line.slice(0, length - 1).replace(/[\ud800-\udbff]$/, '')}…`;
}

const quoted = (text: string) => `'${bounded(text, 100)}'`;

export const errors = {
  invalid: (message: string, param: string | null = null, code: string | null = null) =>
    new ApiError(400, 'invalid_request_error', message, { param, code }),

  unsupportedParameter: (field: string) =>
    new ApiError(400, 'invalid_request_error', `Unsupported parameter: ${quoted(field)} is not supported here.`, {
      param: bounded(field, 100),
      code: 'unsupported_parameter',
    }),

  /** In these words the SDK's tool runner, which asks for a thread by itself, goes on with the whole history instead. */
  threadUnsupported: () =>
    new ApiError(400, 'invalid_request_error', "'thread' is not supported here: send the whole conversation.", {
      param: 'thread',
      code: 'unsupported_parameter',
      details: { error_code: 'thread_unsupported_request', unsupported: ['thread'] },
    }),

  unsupportedValue: (field: string, message: string) =>
    new ApiError(400, 'invalid_request_error', message, { param: field, code: 'unsupported_value' }),

  /** `field` is where the route's prompt stands: messages, prompt or input. */
  contextLength: (promptTokens: number, context: number, requested = 0, field = 'messages') =>
    new ApiError(
      400,
      'invalid_request_error',
      requested > 0
        ? `This model's maximum context length is ${context} tokens. However, you requested ${promptTokens + requested} ` +
            `tokens (${promptTokens} in the ${field}, ${requested} in the completion).`
        : `This model's maximum context length is ${context} tokens. However, your ${field} resulted in ` +
            `${promptTokens} tokens. Please reduce the length of the ${field}.`,
      { param: field, code: 'context_length_exceeded' },
    ),

  invalidImage: (message: string, param: string) =>
    new ApiError(400, 'invalid_request_error', message, { param, code: 'invalid_image' }),

  unauthorized: () =>
    new ApiError(401, 'authentication_error', 'Incorrect API key provided.', {
      code: 'invalid_api_key',
      headers: { 'www-authenticate': 'Bearer' },
    }),

  forbidden: (message: string) => new ApiError(403, 'permission_error', message),

  modelNotFound: (model: string) =>
    new ApiError(404, 'invalid_request_error', `The model ${quoted(model)} does not exist.`, {
      param: 'model',
      code: 'model_not_found',
    }),

  /** `hint` says what the client was after, or what there is instead. */
  unknownUrl: (method: string, url: string, hint: string | null = null) =>
    new ApiError(
      404,
      'invalid_request_error',
      `Unknown request URL: ${method} ${bounded(url, 200)}. ${hint ?? 'What there is: GET /docs.'}`,
      { code: 'unknown_url' },
    ),

  responseNotFound: (id: string, kept: number) =>
    new ApiError(
      404,
      'invalid_request_error',
      `Response with id ${quoted(id)} not found: the last ${kept} are kept, in memory, unless they came with store: false.`,
      { code: 'response_not_found' },
    ),

  completionNotFound: (id: string, kept: number) =>
    new ApiError(
      404,
      'invalid_request_error',
      `Chat completion with id ${quoted(id)} not found: the last ${kept} that came with store: true are kept, in memory.`,
      { code: 'chat_completion_not_found' },
    ),

  notBackground: () =>
    new ApiError(
      400,
      'invalid_request_error',
      'Cannot cancel a synchronous response: only background responses can be cancelled, and there are none here. ' +
        'To end a response that is being made, close its connection.',
      { code: 'response_not_cancellable' },
    ),

  itemNotFound: (id: string, kept: number) =>
    new ApiError(
      404,
      'invalid_request_error',
      `Item with id ${quoted(id)} not found: those of the last ${kept} responses are kept, in memory, unless they came ` +
        'with store: false. Send the item itself.',
      { code: 'item_not_found', param: 'input' },
    ),

  notFound: (message: string, code: string | null = null, param: string | null = null) =>
    new ApiError(404, 'invalid_request_error', message, { code, param }),

  methodNotAllowed: (method: string, allow: string) =>
    new ApiError(405, 'invalid_request_error', `Method ${method} is not allowed here; use ${allow}.`, {
      code: 'method_not_allowed',
      headers: { allow },
    }),

  unsupportedMediaType: () =>
    new ApiError(415, 'invalid_request_error', "The body must be JSON with 'Content-Type: application/json'.", {
      code: 'unsupported_media_type',
    }),

  unsupportedEncoding: () =>
    new ApiError(415, 'invalid_request_error', 'The body must not be compressed: send it without Content-Encoding.', {
      code: 'unsupported_media_type',
    }),

  tooLarge: (limitBytes: number) =>
    new ApiError(413, 'invalid_request_error', `The request body is larger than ${limitBytes} bytes.`, {
      code: 'request_too_large',
    }),

  intricate: () =>
    new ApiError(
      413,
      'invalid_request_error',
      'The JSON has too many parts: numbers, strings, fields, objects and arrays. Send it in several requests.',
      { code: 'request_too_large' },
    ),

  headersTooLarge: () =>
    new ApiError(431, 'invalid_request_error', 'The request headers are too large.', { code: 'headers_too_large' }),

  queueFull: (retryAfterSeconds: number) =>
    new ApiError(429, 'rate_limit_error', 'The server is busy: its queue is full. Please retry later.', {
      code: 'queue_full',
      retryAfterSeconds,
    }),

  rateLimit: (what: string, retryAfterSeconds: number) =>
    new ApiError(429, 'rate_limit_error', `Rate limit reached: ${what}. Please retry later.`, {
      code: 'rate_limit_exceeded',
      retryAfterSeconds,
    }),

  loading: (detail: string) =>
    new ApiError(503, 'unavailable_error', `The model is still loading${detail ? ` (${detail})` : ''}.`, {
      code: 'model_loading',
      retryAfterSeconds: 2,
    }),

  loadFailed: (model: string, reason: string) =>
    new ApiError(
      503,
      'unavailable_error',
      `The model ${quoted(model)} could not be loaded: ${reason.replace(/\s*\n\s*/g, '; ').replace(/ {2,}/g, ' ')}`,
      // Trying again at once would load, and perhaps unload others, for nothing.
      { code: 'model_load_failed', retryAfterSeconds: 30, headers: { 'x-should-retry': 'false' } },
    ),

  modelInUse: (model: string, why: string) =>
    new ApiError(409, 'invalid_request_error', `The model ${quoted(model)} cannot be unloaded now: ${why}.`, {
      param: 'model',
      code: 'model_in_use',
      headers: { 'x-should-retry': 'false' },
    }),

  shuttingDown: () =>
    new ApiError(503, 'unavailable_error', 'The server is shutting down.', {
      code: 'shutting_down',
      retryAfterSeconds: 5,
    }),

  engineDead: () =>
    new ApiError(503, 'unavailable_error', 'The engine has failed and serves no more requests.', {
      code: 'engine_failed',
      retryAfterSeconds: 30,
    }),

  modelDamaged: (message: string) =>
    new ApiError(500, 'server_error', `The model cannot answer: ${message}.`, {
      code: 'model_damaged',
      // It would fail again.
      headers: { 'x-should-retry': 'false' },
    }),

  internal: () => new ApiError(500, 'server_error', 'The server had an error while processing your request.'),
} as const;
