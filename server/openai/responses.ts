// POST /v1/responses on the wire: items in, items and events out.

import { z } from 'zod';
import { functionOnly, ignoredFields, modelField, type Part, resultOf } from './common.ts';
import { partError } from './parts.ts';
import { ignored, optional } from './validation.ts';

const textMax = 64 * 1024 * 1024;
const text = z.string().max(textMax);
const nameSchema = z.string().regex(/^[a-zA-Z0-9_.-]{1,64}$/, 'must be 1 to 64 letters, digits, _, . or -');
const idFields = { id: ignored(z.string().max(256)), status: ignored(z.string().max(64)) };

const textPart = z.strictObject({ type: z.literal('input_text'), text });
const imagePart = z.strictObject({
  type: z.literal('input_image'),
  image_url: z.string().min(1).max(textMax),
  detail: optional(z.enum(['auto', 'low', 'high'])),
  file_id: ignored(z.null()),
});
const inputPart = z.discriminatedUnion(
  'type',
  [
    textPart,
    imagePart,
    z.strictObject({
      type: z.literal('output_text'),
      text,
      annotations: ignored(z.array(z.unknown())),
      logprobs: ignored(z.array(z.unknown())),
      parsed: ignored(z.unknown()),
    }),
    z.strictObject({ type: z.literal('refusal'), refusal: text }),
  ],
  partError('input_text', 'input_image', 'output_text', 'refusal'),
);

const messageItem = z.strictObject({
  type: z.literal('message').default('message'),
  role: z.enum(['user', 'assistant', 'system', 'developer']),
  content: z.union([text, z.array(inputPart).min(1).max(4096)], { error: 'must be a string or an array of parts' }),
  phase: ignored(z.string()),
  ...idFields,
});
const callItem = z.strictObject({
  type: z.literal('function_call'),
  call_id: z.string().min(1).max(256),
  name: nameSchema,
  arguments: text,
  parsed_arguments: ignored(z.unknown()),
  ...idFields,
});
const callOutputItem = z.strictObject({
  type: z.literal('function_call_output'),
  call_id: z.string().min(1).max(256),
  output: z.union(
    [
      text,
      z.array(z.discriminatedUnion('type', [textPart, imagePart], partError('input_text', 'input_image'))).max(4096),
    ],
    { error: 'must be text, or input_text and input_image parts' },
  ),
  ...idFields,
});
const reasoningItem = z.strictObject({
  type: z.literal('reasoning'),
  summary: ignored(z.array(z.unknown())),
  content: optional(z.array(z.strictObject({ type: z.literal('reasoning_text'), text })).max(4096)),
  encrypted_content: ignored(z.string()),
  ...idFields,
});

/** An item of an earlier answer: what the AI SDK sends of those in place of the items themselves. */
const itemReference = z.strictObject({ type: z.literal('item_reference'), id: z.string().min(1).max(256) });

const itemSchema = z.union([messageItem, callItem, callOutputItem, reasoningItem, itemReference], {
  error: 'must be a message, function_call, function_call_output, reasoning or item_reference item',
});

const formatSchema = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('text') }),
  z.strictObject({ type: z.literal('json_object') }),
  z.strictObject({
    type: z.literal('json_schema'),
    name: z.string().regex(/^[a-zA-Z0-9_-]{1,64}$/),
    description: optional(z.string().max(65_536)),
    schema: z.record(z.string(), z.unknown()),
    strict: optional(z.boolean()),
  }),
]);

const toolSchema = z.strictObject({
  type: z.literal('function', functionOnly),
  name: nameSchema,
  description: optional(z.string().max(65_536)),
  parameters: optional(z.record(z.string(), z.unknown())),
  strict: optional(z.boolean()),
});

const inputSchema = z.union([text, z.array(itemSchema).min(1).max(16_384)], {
  error: 'must be text or a list of items',
});

/** What a prompt is made of, and what a request says beside it that takes no tokens. */
const promptFields = {
  instructions: optional(text),
  previous_response_id: optional(z.string().min(1).max(256)),
  tools: optional(z.array(toolSchema).max(128)),
  tool_choice: optional(
    z.union([z.enum(['none', 'auto', 'required']), z.strictObject({ type: z.literal('function'), name: nameSchema })], {
      error: "must be 'none', 'auto', 'required' or {type:'function',name}",
    }),
  ),
  parallel_tool_calls: optional(z.boolean()),
  text: optional(z.strictObject({ format: optional(formatSchema), verbosity: ignored(z.literal('medium')) })),
  reasoning: optional(
    z.strictObject({
      effort: optional(z.enum(['none', 'minimal', 'low', 'medium', 'high', 'xhigh'])),
      summary: ignored(z.string().max(64)),
    }),
  ),
  truncation: ignored(z.literal('disabled')),
};

export const responseRequestSchema = z
  .strictObject({
    model: modelField,
    input: inputSchema,
    ...promptFields,
    store: optional(z.boolean()),
    stream: optional(z.boolean()),
    max_output_tokens: optional(z.int().min(1).max(2_147_483_647)),
    temperature: optional(z.number().min(0).max(2)),
    top_p: optional(z.number().gt(0).max(1)),
    metadata: optional(z.record(z.string().max(64), z.string().max(512))),
    user: ignoredFields.user,
    service_tier: ignoredFields.service_tier,
    prompt_cache_key: ignoredFields.prompt_cache_key,
    safety_identifier: ignoredFields.safety_identifier,
    background: ignored(z.literal(false, { error: 'must be false: answers are not made in the background here' })),
    include: ignored(z.array(z.enum(['reasoning.encrypted_content'])).max(8)),
    stream_options: ignored(z.strictObject({ include_obfuscation: z.literal(false) })),
  })
  .superRefine(checkToolChoice);

export const inputTokensRequestSchema = z
  .strictObject({ model: modelField, input: optional(inputSchema), ...promptFields })
  .superRefine(checkToolChoice)
  .superRefine(({ input, instructions, previous_response_id }, context) => {
    if ((input ?? instructions ?? previous_response_id) !== undefined) return;
    context.addIssue({ code: 'custom', path: ['input'], message: 'is missing: there is nothing to count' });
  });

export const inputTokensResponseSchema = z.object({
  object: z.literal('response.input_tokens'),
  input_tokens: z.int(),
});

type ToolFields = { [K in 'tools' | 'tool_choice']: z.output<(typeof promptFields)[K]> };

function checkToolChoice({ tools, tool_choice: choice }: ToolFields, context: z.RefinementCtx): void {
  const problem = (message: string) => context.addIssue({ code: 'custom', path: ['tool_choice'], message });
  if (choice !== undefined && choice !== 'none' && choice !== 'auto' && !tools?.length) problem('needs tools');
  if (typeof choice === 'object' && tools?.length && !tools.some((tool) => tool.name === choice.name)) {
    problem('names a function that is not in tools');
  }
}

export type ResponseRequest = z.output<typeof responseRequestSchema>;
/** What of a request makes its prompt. */
export type PromptRequest = z.output<typeof inputTokensRequestSchema>;
type ItemReference = z.output<typeof itemReference>;
type GivenItem = Exclude<z.output<typeof itemSchema>, ItemReference>;
/** Ids and states that clients send are taken off: an item gets its own here. */
type Known<T> = T extends unknown ? Omit<T, 'id' | 'status'> & { id?: string; status?: string } : never;
export type Item = Known<GivenItem>;
export type NamedItem = Item & { id: string };

/** Input as items, whatever its form. `find` has those that are referred to. */
export const toItems = (input: PromptRequest['input'], find: (reference: ItemReference) => Item): Item[] =>
  typeof input === 'string'
    ? [{ type: 'message', role: 'user', content: input, phase: undefined }]
    : (input ?? []).map((item) => (item.type === 'item_reference' ? find(item) : asItem(item)));

const asItem = ({ id: _id, status: _status, ...item }: GivenItem) => item as Item;

const idPrefixes: Record<Item['type'], string> = {
  message: 'msg_',
  function_call: 'fc_',
  function_call_output: 'fco_',
  reasoning: 'rs_',
};

/**
 * Items with ids, by which they are listed and referred to. One that is referred to twice in a conversation gets another
 * the second time: whoever turns pages goes on behind an id.
 */
export function nameItems(
  items: readonly Item[],
  earlier: readonly Item[],
  newId: (prefix: string) => string,
): NamedItem[] {
  const taken = new Set(earlier.map(({ id }) => id));
  return items.map((item) => {
    const named = item.id !== undefined && !taken.has(item.id);
    const id = named ? item.id! : newId(idPrefixes[item.type]);
    taken.add(id);
    return named ? (item as NamedItem) : { ...item, id };
  });
}

interface ItemTurn {
  role: 'system' | 'developer' | 'user' | 'assistant' | 'tool';
  content: string | Part[] | null;
  reasoning?: string | undefined;
  toolCalls?: Array<{ id: string; name: string; arguments: string }> | undefined;
  toolCallId?: string | undefined;
}

/** Items as turns: thoughts, text and calls of one answer are one turn of the assistant. */
export function itemsToTurns(items: readonly Item[]): ItemTurn[] {
  const turns: ItemTurn[] = [];
  let answer: ItemTurn | null = null;
  const assistant = (): ItemTurn => {
    if (!answer) {
      answer = { role: 'assistant', content: null };
      turns.push(answer);
    }
    return answer;
  };
  for (const item of items) {
    if (item.type === 'reasoning') {
      answer = null;
      const thought = (item.content ?? []).map((part) => part.text).join('');
      if (thought !== '') assistant().reasoning = thought;
    } else if (item.type === 'function_call') {
      const turn = assistant();
      turn.toolCalls = [...(turn.toolCalls ?? []), { id: item.call_id, name: item.name, arguments: item.arguments }];
    } else if (item.type === 'function_call_output') {
      answer = null;
      const output = toParts(item.output);
      turns.push({
        role: 'tool',
        content: typeof output === 'string' ? output : resultOf(output),
        toolCallId: item.call_id,
      });
    } else if (item.role === 'assistant') {
      const turn = assistant();
      if (turn.content !== null) {
        answer = null;
        assistant();
      }
      answer!.content = plainText(item.content);
    } else {
      answer = null;
      turns.push({ role: item.role, content: toParts(item.content) });
    }
  }
  return turns;
}

type Content = Extract<Item, { type: 'message' }>['content'];

const partText = (part: Exclude<Content, string>[number]) =>
  part.type === 'input_image' ? '' : part.type === 'refusal' ? part.refusal : part.text;

const plainText = (content: Content) => (typeof content === 'string' ? content : content.map(partText).join(''));

const toParts = (content: Content): string | Part[] =>
  typeof content === 'string'
    ? content
    : content.map((part) => (part.type === 'input_image' ? { type: 'image' } : { type: 'text', text: partText(part) }));

export function itemImages(items: readonly Item[], path: string) {
  return items.flatMap((item, index) => {
    if (item.type === 'message') return partImages(item.content, `${path}[${index}].content`);
    return item.type === 'function_call_output' ? partImages(item.output, `${path}[${index}].output`) : [];
  });
}

const partImages = (content: Content, path: string) =>
  typeof content === 'string'
    ? []
    : content.flatMap((part, at) =>
        part.type === 'input_image'
          ? [{ url: part.image_url, detail: part.detail ?? ('auto' as const), param: `${path}[${at}]` }]
          : [],
      );

const partSchema = z.object({
  type: z.literal('output_text'),
  text: z.string(),
  annotations: z.array(z.unknown()),
  logprobs: z.array(z.unknown()),
});

export const responseSchema = z.object({
  id: z.string(),
  object: z.literal('response'),
  created_at: z.int(),
  status: z.enum(['in_progress', 'completed', 'incomplete', 'failed']),
  model: z.string(),
  output: z.array(
    z.union([
      z.object({
        id: z.string(),
        type: z.literal('reasoning'),
        summary: z.array(z.unknown()),
        content: z.array(z.object({ type: z.literal('reasoning_text'), text: z.string() })),
      }),
      z.object({
        id: z.string(),
        type: z.literal('message'),
        status: z.string(),
        role: z.literal('assistant'),
        content: z.array(partSchema),
      }),
      z.object({
        id: z.string(),
        type: z.literal('function_call'),
        status: z.string(),
        call_id: z.string(),
        name: z.string(),
        arguments: z.string(),
      }),
    ]),
  ),
  usage: z
    .object({
      input_tokens: z.int(),
      input_tokens_details: z.object({ cached_tokens: z.int() }),
      output_tokens: z.int(),
      output_tokens_details: z.object({ reasoning_tokens: z.int() }),
      total_tokens: z.int(),
    })
    .nullable(),
});
