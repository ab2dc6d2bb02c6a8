// The items a response was made from, as GET /v1/responses/{id}/input_items lists them.

import { z } from 'zod';
import { listOf, pageFields, pageOf } from './pages.ts';
import type { Item, NamedItem } from './responses.ts';
import { ignored } from './validation.ts';

const showPictures = 'message.input_image.image_url';
/** Nothing is ever encrypted here: those who ask get what there is. */
const encrypted = 'reasoning.encrypted_content';

/** One value of a list looks like a value. */
const list = (value: unknown) => (typeof value === 'string' ? [value] : value);

/** What the SDK's beta part adds to every URL. */
const beta = ignored(z.string().max(64));

export const storedResponseQuerySchema = z.strictObject({
  include: z
    .preprocess(list, z.array(z.enum([encrypted, showPictures])).max(8))
    .optional()
    .meta({ description: 'Without effect: a response has neither encrypted contents nor pictures.' }),
  stream: z.enum(['false'], { error: 'must be false: an answer is not streamed again' }).optional(),
  beta,
});

export const inputItemsQuerySchema = z.strictObject({
  ...pageFields('desc'),
  include: z
    .preprocess(list, z.array(z.enum([showPictures, encrypted])).max(8))
    .optional()
    .meta({ description: `${showPictures}: pictures with their URLs, which are null otherwise.` }),
  beta,
});

export type InputItemsQuery = z.output<typeof inputItemsQuerySchema>;

const outputText = z.object({
  type: z.literal('output_text'),
  text: z.string(),
  annotations: z.array(z.unknown()),
  logprobs: z.array(z.unknown()),
});
const inputPart = z.union([
  z.object({ type: z.literal('input_text'), text: z.string() }),
  z.object({
    type: z.literal('input_image'),
    detail: z.enum(['auto', 'low', 'high']),
    file_id: z.null(),
    image_url: z.string().nullable(),
  }),
]);
const refusalPart = z.object({ type: z.literal('refusal'), refusal: z.string() });

const listedItemSchema = z.union([
  z.object({
    id: z.string(),
    type: z.literal('message'),
    status: z.string(),
    role: z.enum(['user', 'assistant', 'system', 'developer']),
    content: z.array(z.union([inputPart, outputText, refusalPart])),
  }),
  z.object({
    id: z.string(),
    type: z.literal('function_call'),
    status: z.string(),
    call_id: z.string(),
    name: z.string(),
    arguments: z.string(),
  }),
  z.object({
    id: z.string(),
    type: z.literal('function_call_output'),
    status: z.string(),
    call_id: z.string(),
    output: z.union([z.string(), z.array(inputPart)]),
  }),
  z.object({
    id: z.string(),
    type: z.literal('reasoning'),
    summary: z.array(z.unknown()),
    content: z.array(z.object({ type: z.literal('reasoning_text'), text: z.string() })),
  }),
]);
type ListedItem = z.output<typeof listedItemSchema>;

export const itemListSchema = listOf(listedItemSchema);

/** A page of the items, or null when there is none that it could go on behind. */
export function listItems(items: readonly NamedItem[], query: InputItemsQuery): z.output<typeof itemListSchema> | null {
  const pictures = query.include?.includes(showPictures) ?? false;
  return pageOf(items, query, (item) => toListed(item, pictures));
}

/** Every form that a client may have sent an item in becomes the one that OpenAI lists. */
function toListed(item: NamedItem, pictures: boolean): ListedItem {
  const { id, status = 'completed' } = item;
  switch (item.type) {
    case 'message': {
      const content = toContent(item.content, item.role === 'assistant', pictures);
      return { id, type: 'message', status, role: item.role, content };
    }
    case 'function_call':
      return { id, type: item.type, status, call_id: item.call_id, name: item.name, arguments: item.arguments };
    case 'function_call_output': {
      const { output } = item;
      const shown = typeof output === 'string' ? output : output.map((part) => toInputPart(part, pictures));
      return { id, type: item.type, status, call_id: item.call_id, output: shown };
    }
    case 'reasoning':
      return { id, type: item.type, summary: [], content: item.content ?? [] };
  }
}

type Message = Extract<Item, { type: 'message' }>;
type Part = Exclude<Message['content'], string>[number];
type InputPart = Extract<Part, { type: 'input_text' | 'input_image' }>;

function toContent(content: Message['content'], answered: boolean, pictures: boolean) {
  const parts = typeof content === 'string' ? [{ type: 'input_text' as const, text: content }] : content;
  return parts.map((part) => {
    if (part.type === 'refusal' || part.type === 'input_image') return toInputPart(part, pictures);
    return answered
      ? { type: 'output_text' as const, text: part.text, annotations: [], logprobs: [] }
      : { type: 'input_text' as const, text: part.text };
  });
}

const toInputPart = <T extends InputPart | Extract<Part, { type: 'refusal' }>>(part: T, pictures: boolean) =>
  part.type === 'input_image'
    ? {
        type: part.type,
        detail: part.detail ?? ('auto' as const),
        file_id: null,
        image_url: pictures ? part.image_url : null,
      }
    : (part as Exclude<T, { type: 'input_image' }>);
