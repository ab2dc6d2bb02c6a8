// Lists that come a page at a time, going on behind the id of an entry.

import { z } from 'zod';

const limitDefault = 20;
const limitMax = 100;
const limitWords = `must be an integer from 1 to ${limitMax}`;

/** A query has texts alone. */
const wholeNumber = (text: unknown) => (typeof text === 'string' && /^-?\d{1,15}$/.test(text) ? Number(text) : text);

/** The fields of a query for one; lists differ in the order that they come in unless asked. */
export const pageFields = (order: 'asc' | 'desc') => ({
  limit: z
    .preprocess(wholeNumber, z.int(limitWords).min(1, limitWords).max(limitMax, limitWords))
    .default(limitDefault)
    .meta({ description: 'Entries of a page.' }),
  order: z.enum(['asc', 'desc']).default(order).meta({ description: 'asc: the earliest first.' }),
  after: z.string().min(1).max(256).optional().meta({ description: 'Id of the entry that the page goes on behind.' }),
});

interface PageQuery {
  limit: number;
  order: 'asc' | 'desc';
  after?: string | undefined;
}

export const listOf = <T extends z.ZodType>(entry: T) =>
  z.object({
    object: z.literal('list'),
    data: z.array(entry),
    first_id: z.string().nullable(),
    last_id: z.string().nullable(),
    has_more: z.boolean(),
  });

/** A page of what stands in ascending order, or null when there is no entry that it could go on behind. */
export function pageOf<E extends { id: string }, W extends { id: string }>(
  entries: readonly E[],
  { limit, order, after }: PageQuery,
  toWire: (entry: E) => W,
) {
  const ordered = order === 'asc' ? entries : entries.toReversed();
  const before = after === undefined ? -1 : ordered.findIndex(({ id }) => id === after);
  if (after !== undefined && before < 0) return null;
  const end = before + 1 + limit;
  const data = ordered.slice(before + 1, end).map(toWire);
  return {
    object: 'list' as const,
    data,
    first_id: data[0]?.id ?? null,
    last_id: data.at(-1)?.id ?? null,
    has_more: end < ordered.length,
  };
}
