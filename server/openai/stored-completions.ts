// Chat completions that are kept (store: true), as OpenAI lists them.

import { z } from 'zod';
import { type ChatMessage, chatCompletionSchema, type toChatCompletion } from './chat.ts';
import { listOf, pageFields } from './pages.ts';
import { optional } from './validation.ts';

export const metadataSchema = z.record(z.string().max(64), z.string().max(512));

export type StoredCompletion = ReturnType<typeof toChatCompletion> & { metadata: Record<string, string> };

export const storedCompletionSchema = chatCompletionSchema.extend({ metadata: metadataSchema });

export const completionsQuerySchema = z.strictObject({
  ...pageFields('asc'),
  model: z.string().min(1).max(512).optional(),
  metadata: z
    .record(z.string().max(64), z.string().max(512), 'must be written as metadata[key]=value')
    .optional()
    .meta({ description: 'metadata[key]=value: only those that have it.' }),
});
export const completionListSchema = listOf(storedCompletionSchema);

export const updateCompletionSchema = z.strictObject({ metadata: optional(metadataSchema) });
export const deletedCompletionSchema = z.object({
  object: z.literal('chat.completion.deleted'),
  id: z.string(),
  deleted: z.literal(true),
});

const storedPartSchema = z.union([
  z.object({ type: z.literal('text'), text: z.string() }),
  z.object({ type: z.literal('image_url'), image_url: z.object({ url: z.string(), detail: z.string() }) }),
  z.object({ type: z.literal('refusal'), refusal: z.string() }),
]);
type StoredPart = z.output<typeof storedPartSchema>;

const storedMessageSchema = z.object({
  id: z.string(),
  role: z.enum(['system', 'developer', 'user', 'assistant', 'tool']),
  content: z.string().nullable(),
  content_parts: z
    .array(storedPartSchema)
    .nullable()
    .meta({ description: 'What came as parts; content is null then.' }),
  refusal: z.string().nullable(),
  name: z.string().nullable(),
  tool_call_id: z.string().optional(),
  tool_calls: z
    .array(
      z.object({
        id: z.string(),
        type: z.literal('function'),
        function: z.object({ name: z.string(), arguments: z.string() }),
      }),
    )
    .optional(),
  reasoning_content: z.string().optional(),
});
export type StoredMessage = z.output<typeof storedMessageSchema>;

export const messagesQuerySchema = z.strictObject(pageFields('asc'));
export const messageListSchema = listOf(storedMessageSchema);

/** Messages of a request with ids. `urlOf` has a picture's URL where the message has none of its own. */
export function toStoredMessages(
  messages: readonly ChatMessage[],
  completion: string,
  urlOf: (url: string) => string,
): StoredMessage[] {
  return messages.map((message, index) => {
    const { role, content, name } = message;
    const stored: StoredMessage = {
      id: `${completion}-${index}`,
      role,
      content: typeof content === 'string' ? content : null,
      content_parts: Array.isArray(content) ? content.map((part) => toStoredPart(part, urlOf)) : null,
      refusal: null,
      name: name ?? null,
    };
    if (message.role === 'tool') stored.tool_call_id = message.tool_call_id;
    if (message.role !== 'assistant') return stored;
    stored.refusal = message.refusal ?? null;
    const thoughts = message.reasoning_content ?? message.reasoning;
    if (thoughts !== undefined) stored.reasoning_content = thoughts;
    if (message.tool_calls) {
      stored.tool_calls = message.tool_calls.map(({ id, type, function: called }) => ({ id, type, function: called }));
    }
    return stored;
  });
}

type Part = Exclude<ChatMessage['content'], string | undefined>[number];

function toStoredPart(part: Part, urlOf: (url: string) => string): StoredPart {
  if (part.type !== 'image_url') return part;
  const { url, detail = 'auto' } = part.image_url;
  return { type: 'image_url', image_url: { url: urlOf(url), detail } };
}
