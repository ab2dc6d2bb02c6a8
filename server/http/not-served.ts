// Parts of OpenAI's API that are not served here, and what there is instead: SDKs have calls for all of them.

import type { FastifyInstance } from 'fastify';
import { errors } from '../errors.ts';

const compact = '/v1/responses/compact';

/** By what their paths begin with. */
const instead: Record<string, string> = {
  [compact]:
    'Conversations are not compacted here: ask the model for a summary and go on from that, or send fewer items. ' +
    'POST /v1/responses/input_tokens counts what they take.',
  '/v1/conversations': 'Conversations are not kept here: go on from a response with previous_response_id.',
  '/v1/assistants': 'There are no assistants here: send instructions and tools with POST /v1/responses.',
  '/v1/threads': 'There are no threads here: go on from a response of POST /v1/responses with previous_response_id.',
  '/v1/files': 'No files are kept here: send pictures as data: URLs, texts as texts.',
  '/v1/uploads': 'No files are kept here: send pictures as data: URLs, texts as texts.',
  '/v1/vector_stores': 'There are no vector stores here: POST /v1/embeddings makes vectors for one of your own.',
  '/v1/batches': 'There are no batches here: send the requests; what the model has no place for waits for its turn.',
  '/v1/images': 'No pictures are made here; models that see take them in messages.',
  '/v1/videos': 'No videos are made here.',
  '/v1/audio': 'Nothing is spoken or heard here: models take text and pictures.',
  '/v1/realtime':
    'Nothing is spoken or heard here; GET /v1/responses with Upgrade: websocket answers text over a WebSocket.',
  '/v1/moderations': 'Nothing is moderated here.',
  '/v1/fine_tuning': 'Models are not trained here.',
  '/v1/evals': 'There are no evals here; hearth eval measures a model.',
  '/v1/containers': 'No code is run here.',
  '/v1/messages/batches':
    'There are no batches here: send the messages; what the model has no place for waits for its turn.',
};

/** What to do instead, for a path without its base; null where nobody knows. */
export function insteadOf(path: string): string | null {
  const found = Object.keys(instead).find((begin) => path === begin || path.startsWith(`${begin}/`));
  return found ? instead[found]! : null;
}

/** It would be a response by its id otherwise, which can be asked for and deleted. */
export function refuseCompaction(app: FastifyInstance): void {
  app.route({
    method: 'POST',
    url: compact,
    onRequest: (request, _reply, next) =>
      next(errors.unknownUrl(request.method, request.url.split('?')[0]!, insteadOf(compact))),
    handler: () => undefined,
  });
}
