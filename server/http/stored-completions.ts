// Chat completions that came with store: true: listed, again, with other metadata, what they were asked, and forgotten.

import type { FastifyInstance, FastifyRequest } from 'fastify';
import { errors } from '../errors.ts';
import { pageOf } from '../openai/pages.ts';
import {
  completionListSchema,
  completionsQuerySchema,
  deletedCompletionSchema,
  messageListSchema,
  messagesQuerySchema,
  storedCompletionSchema,
  updateCompletionSchema,
} from '../openai/stored-completions.ts';
import { parseBody, parseQuery } from './body.ts';
import { type CompletionStore, completionsMax } from './completion-store.ts';
import type { AppContext } from './context.ts';
import { addRoute } from './routes.ts';

const list = '/v1/chat/completions';
const one = `${list}/:id`;
const idOf = (request: FastifyRequest) => (request.params as { id: string }).id;
const same = <T>(entry: T) => entry;

export function storedCompletions(app: FastifyInstance, context: AppContext, store: CompletionStore): void {
  const { lenient } = context.settings;
  const known = <T>(found: T | null, request: FastifyRequest): T => {
    if (found === null) throw errors.completionNotFound(idOf(request), completionsMax);
    return found;
  };
  const kept = (request: FastifyRequest) => known(store.get(idOf(request), request.keyOwner.name), request);
  addRoute(app, {
    method: 'GET',
    url: list,
    summary: 'Answers that came with store: true, a page at a time',
    query: completionsQuerySchema,
    response: completionListSchema,
    handler: (request) => {
      const query = parseQuery(completionsQuerySchema, request, lenient);
      const { metadata = {} } = query;
      const model = query.model === undefined ? null : context.lifecycle.models().statusOf(query.model).name;
      const chosen = store
        .of(request.keyOwner.name)
        .filter((completion) => model === null || completion.model === model)
        .filter((completion) => Object.entries(metadata).every(([key, value]) => completion.metadata[key] === value));
      return pageOf(chosen, query, same) ?? refuseAfter(query.after!);
    },
  });
  addRoute(app, {
    method: 'GET',
    url: one,
    summary: 'An answer that came with store: true',
    response: storedCompletionSchema,
    handler: (request) => kept(request).completion,
  });
  addRoute(app, {
    method: 'POST',
    url: one,
    summary: 'Gives a stored answer other metadata',
    body: updateCompletionSchema,
    response: storedCompletionSchema,
    handler: (request) => {
      const { metadata = {} } = parseBody(updateCompletionSchema, request, lenient);
      return known(store.amend(idOf(request), request.keyOwner.name, metadata), request);
    },
  });
  addRoute(app, {
    method: 'DELETE',
    url: one,
    summary: 'Forgets a stored answer',
    response: deletedCompletionSchema,
    handler: (request) => {
      kept(request).forget();
      return { object: 'chat.completion.deleted', id: idOf(request), deleted: true };
    },
  });
  addRoute(app, {
    method: 'GET',
    url: `${one}/messages`,
    summary: 'What a stored answer was asked, a page at a time',
    query: messagesQuerySchema,
    response: messageListSchema,
    handler: (request) => {
      const query = parseQuery(messagesQuerySchema, request, lenient);
      return pageOf(kept(request).items, query, same) ?? refuseAfter(query.after!);
    },
  });
}

function refuseAfter(id: string): never {
  throw errors.invalid(`Invalid 'after': the list has no entry with id '${id}'.`, 'after');
}
