// What was answered, by its id: again, what it was made from, and forgotten.

import type { FastifyInstance, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { errors } from '../errors.ts';
import {
  inputItemsQuerySchema,
  itemListSchema,
  listItems,
  storedResponseQuerySchema,
} from '../openai/response-items.ts';
import { responseSchema } from '../openai/responses.ts';
import { parseQuery } from './body.ts';
import type { AppContext } from './context.ts';
import { type ResponseStore, responsesMax } from './response-store.ts';
import { addRoute } from './routes.ts';

const url = '/v1/responses/:id';
const idOf = (request: FastifyRequest) => (request.params as { id: string }).id;

export function storedResponses(app: FastifyInstance, context: AppContext, store: ResponseStore): void {
  const { lenient } = context.settings;
  const kept = (request: FastifyRequest) => {
    const found = store.get(idOf(request), request.keyOwner.name);
    if (!found) throw errors.responseNotFound(idOf(request), responsesMax);
    return found;
  };
  addRoute(app, {
    method: 'GET',
    url,
    summary: 'A response that was answered before and is still kept',
    query: storedResponseQuerySchema,
    response: responseSchema,
    handler: (request) => {
      parseQuery(storedResponseQuerySchema, request, lenient);
      return kept(request).response;
    },
  });
  addRoute(app, {
    method: 'DELETE',
    url,
    summary: 'Forgets a response',
    response: z.object({ id: z.string(), object: z.literal('response'), deleted: z.literal(true) }),
    handler: (request) => {
      const id = idOf(request);
      if (!store.delete(id, request.keyOwner.name)) throw errors.responseNotFound(id, responsesMax);
      return { id, object: 'response', deleted: true };
    },
  });
  addRoute(app, {
    method: 'GET',
    url: `${url}/input_items`,
    summary: 'The conversation that a response answered, a page at a time',
    query: inputItemsQuerySchema,
    response: itemListSchema,
    handler: (request) => {
      const query = parseQuery(inputItemsQuerySchema, request, lenient);
      const { items, response } = kept(request);
      const page = listItems(items.slice(0, items.length - response.output.length), query);
      if (!page)
        throw errors.invalid(`Invalid 'after': the response was made from no item with id '${query.after}'.`, 'after');
      return page;
    },
  });
  addRoute(app, {
    method: 'POST',
    url: `${url}/cancel`,
    summary: 'Refused: only background responses can be cancelled, and there are none here',
    handler: (request) => {
      kept(request);
      throw errors.notBackground();
    },
  });
}
