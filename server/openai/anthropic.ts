// POST /v1/messages on the wire: Anthropic's form of a conversation, and its events.

import { z } from 'zod';
import { modelField, type Part, resultOf } from './common.ts';
import type { OutputDelta } from './deltas.ts';
import { partError } from './parts.ts';
import { ignored, optional } from './validation.ts';

const textMax = 64 * 1024 * 1024;
const cacheControl = { cache_control: ignored(z.unknown()) };
const nameSchema = z.string().regex(/^[a-zA-Z0-9_.-]{1,64}$/, 'must be 1 to 64 letters, digits, _, . or -');

const textBlock = z.strictObject({
  type: z.literal('text'),
  text: z.string().max(textMax),
  citations: ignored(z.array(z.unknown())),
  ...cacheControl,
});
const imageBlock = z.strictObject({
  type: z.literal('image'),
  source: z.discriminatedUnion('type', [
    z.strictObject({
      type: z.literal('base64'),
      media_type: z.string().max(100),
      data: z.string().min(1).max(textMax),
    }),
    z.strictObject({ type: z.literal('url'), url: z.string().min(1).max(65_536) }),
  ]),
  ...cacheControl,
});
const toolResultBlock = z.strictObject({
  type: z.literal('tool_result'),
  tool_use_id: z.string().min(1).max(256),
  content: optional(
    z.union(
      [
        z.string().max(textMax),
        z.array(z.discriminatedUnion('type', [textBlock, imageBlock], partError('text', 'image'))).max(4096),
      ],
      { error: 'must be text, or text and image blocks' },
    ),
  ),
  is_error: optional(z.boolean()),
  ...cacheControl,
});
const toolUseBlock = z.strictObject({
  type: z.literal('tool_use'),
  id: z.string().min(1).max(256),
  name: nameSchema,
  input: z.record(z.string(), z.unknown()),
  caller: ignored(z.unknown()),
  ...cacheControl,
});
const thinkingBlock = z.strictObject({
  type: z.literal('thinking'),
  thinking: z.string().max(textMax),
  signature: ignored(z.string()),
});

const blocks = <T extends z.ZodType>(block: T) =>
  z.union([z.string().max(textMax), z.array(block).min(1).max(4096)], {
    error: 'must be a string or an array of blocks',
  });

const messageSchema = z.discriminatedUnion('role', [
  z.strictObject({
    role: z.literal('user'),
    content: blocks(
      z.discriminatedUnion('type', [textBlock, imageBlock, toolResultBlock], partError('text', 'image', 'tool_result')),
    ),
  }),
  z.strictObject({
    role: z.literal('assistant'),
    content: blocks(z.discriminatedUnion('type', [textBlock, toolUseBlock, thinkingBlock])),
  }),
]);

const toolSchema = z.strictObject({
  type: ignored(z.literal('custom')),
  name: nameSchema,
  description: optional(z.string().max(65_536)),
  input_schema: z.record(z.string(), z.unknown()),
  strict: optional(z.boolean()),
  eager_input_streaming: ignored(z.boolean()), // arguments come as they are drawn, always
  ...cacheControl,
});

const parallelField = { disable_parallel_tool_use: optional(z.boolean()) };
const promptFields = {
  model: modelField,
  messages: z.array(messageSchema).min(1).max(16_384),
  system: optional(
    z.union([z.string().max(textMax), z.array(textBlock).max(4096)], { error: 'must be text or text blocks' }),
  ),
  tools: optional(z.array(toolSchema).max(128)),
  tool_choice: optional(
    z.discriminatedUnion('type', [
      z.strictObject({ type: z.literal('auto'), ...parallelField }),
      z.strictObject({ type: z.literal('any'), ...parallelField }),
      z.strictObject({ type: z.literal('tool'), name: nameSchema, ...parallelField }),
      z.strictObject({ type: z.literal('none') }),
    ]),
  ),
  thinking: optional(
    z.discriminatedUnion('type', [
      z.strictObject({
        type: z.literal('enabled'),
        budget_tokens: ignored(z.int()),
        display: ignored(z.literal('summarized')),
      }),
      z.strictObject({ type: z.literal('disabled') }),
      z.strictObject({ type: z.literal('adaptive'), display: ignored(z.literal('summarized')) }),
    ]),
  ),
  output_config: optional(
    z.strictObject({
      format: optional(z.strictObject({ type: z.literal('json_schema'), schema: z.record(z.string(), z.unknown()) })),
      effort: ignored(z.literal('high')), // what the API does where nothing is said
    }),
  ),
  ...cacheControl,
};

export const countTokensRequestSchema = z.strictObject(promptFields);
export const messagesRequestSchema = z
  .strictObject({
    ...promptFields,
    max_tokens: z.int().min(1).max(2_147_483_647),
    stream: optional(z.boolean()),
    temperature: optional(z.number().min(0).max(1)),
    top_p: optional(z.number().gt(0).max(1)),
    top_k: optional(z.int().min(0).max(2_147_483_647)),
    stop_sequences: optional(z.array(z.string().min(1).max(1000)).max(16)),
    metadata: ignored(z.record(z.string(), z.unknown())),
    service_tier: ignored(z.string().max(64)),
  })
  .superRefine((body, context) => {
    const choice = body.tool_choice;
    const problem = (message: string) => context.addIssue({ code: 'custom', path: ['tool_choice'], message });
    if (choice && choice.type !== 'none' && !body.tools?.length) problem('needs tools');
    if (choice?.type === 'tool' && !body.tools?.some((tool) => tool.name === choice.name)) {
      problem('names a tool that is not in tools');
    }
    // Anthropic’s older models go on from there; a new turn behind it would be something else.
    const last = body.messages.length - 1;
    if (body.messages[last]?.role === 'assistant') {
      const message = "must be the user's, as the last one: answers are not continued from what the assistant said";
      context.addIssue({ code: 'custom', path: ['messages', last], message });
    }
  });

export type MessagesRequest = z.output<typeof messagesRequestSchema>;
export type PromptRequest = z.output<typeof countTokensRequestSchema>;

// ---- From the wire ----------------------------------------------------------------------------------------------

export interface AnthropicTurn {
  role: 'system' | 'user' | 'assistant' | 'tool';
  content: string | Part[] | null;
  reasoning?: string | undefined;
  toolCalls?: Array<{ id: string; name: string; arguments: string }> | undefined;
  toolCallId?: string | undefined;
}

const joined = (content: string | Array<{ text: string }> | undefined) =>
  typeof content === 'string' ? content : (content ?? []).map((block) => block.text).join('\n');

export function toTurns(body: Pick<PromptRequest, 'messages' | 'system'>): AnthropicTurn[] {
  const system = joined(body.system);
  return [
    ...(system === '' ? [] : [{ role: 'system' as const, content: system }]),
    ...body.messages.flatMap((message) =>
      message.role === 'user' ? userTurns(message.content) : [assistantTurn(message.content)],
    ),
  ];
}

type Blocks<R> = Extract<PromptRequest['messages'][number], { role: R }>['content'];

type UserBlock = Exclude<Blocks<'user'>, string>[number];
type ToolResult = Extract<UserBlock, { type: 'tool_result' }>;

/** Results of tools are turns of their own; what else the user says comes after them. */
function userTurns(content: Blocks<'user'>): AnthropicTurn[] {
  if (typeof content === 'string') return [{ role: 'user', content }];
  const results = content.flatMap((block) =>
    block.type === 'tool_result'
      ? [{ role: 'tool' as const, content: resultContent(block), toolCallId: block.tool_use_id }]
      : [],
  );
  const parts = content.flatMap((block) => (block.type === 'tool_result' ? [] : [toPart(block)]));
  return parts.length === 0 ? results : [...results, { role: 'user', content: parts }];
}

const toPart = (block: Exclude<UserBlock, ToolResult>): Part =>
  block.type === 'text' ? { type: 'text', text: block.text } : { type: 'image' };

/** Templates have no place for a failure: the result says so in words, in front of its own. */
function resultContent({ content, is_error }: ToolResult): string | Part[] {
  const parts: Part[] = typeof content === 'string' ? [{ type: 'text', text: content }] : (content ?? []).map(toPart);
  if (!is_error) return resultOf(parts);
  const said = parts.filter((part) => part.type === 'image' || part.text !== '');
  return resultOf([{ type: 'text', text: said.length > 0 ? 'The tool failed:' : 'The tool failed.' }, ...said]);
}

function assistantTurn(content: Blocks<'assistant'>): AnthropicTurn {
  if (typeof content === 'string') return { role: 'assistant', content };
  const text = content.flatMap((block) => (block.type === 'text' ? [block.text] : []));
  const thoughts = content.flatMap((block) => (block.type === 'thinking' ? [block.thinking] : []));
  const calls = content.flatMap((block) =>
    block.type === 'tool_use' ? [{ id: block.id, name: block.name, arguments: JSON.stringify(block.input) }] : [],
  );
  return {
    role: 'assistant',
    content: text.length ? text.join('') : calls.length ? null : '',
    reasoning: thoughts.length ? thoughts.join('\n') : undefined,
    toolCalls: calls.length ? calls : undefined,
  };
}

/** The pictures of a conversation in the order of its turns: in a message, those of tools come first. */
export function imageSources(body: Pick<PromptRequest, 'messages'>) {
  return body.messages.flatMap(({ content }, index) => {
    if (typeof content === 'string') return [];
    const path = `messages[${index}].content`;
    const results = content.flatMap((block, at) =>
      block.type === 'tool_result' && Array.isArray(block.content)
        ? imagesAmong(block.content, `${path}[${at}].content`)
        : [],
    );
    return [...results, ...imagesAmong(content, path)];
  });
}

const imagesAmong = (blocks: ReadonlyArray<{ type: string }>, path: string) =>
  blocks.flatMap((block, at) => {
    if (!isImage(block)) return [];
    const { source } = block;
    const url = source.type === 'url' ? source.url : `data:${source.media_type};base64,${source.data}`;
    return [{ url, detail: 'auto' as const, param: `${path}[${at}]` }];
  });

type ImageBlock = z.output<typeof imageBlock>;
const isImage = (block: { type: string }): block is ImageBlock => block.type === 'image';

export const toFunctionTools = (body: Pick<PromptRequest, 'tools'>) =>
  body.tools?.map(({ name, description, input_schema, strict }) => ({
    type: 'function' as const,
    function: { name, description, parameters: input_schema, strict },
  }));

export function toToolChoice(body: Pick<PromptRequest, 'tool_choice'>) {
  const choice = body.tool_choice;
  if (!choice || choice.type === 'auto') return 'auto' as const;
  if (choice.type === 'any') return 'required' as const;
  return choice.type === 'none' ? ('none' as const) : { function: { name: choice.name } };
}

// ---- To the wire ------------------------------------------------------------------------------------------------

export type ContentBlock =
  | { type: 'text'; text: string }
  | { type: 'thinking'; thinking: string; signature: string }
  | { type: 'tool_use'; id: string; name: string; input: Record<string, unknown> };

export interface AnthropicEvent {
  type: string;
  [key: string]: unknown;
}

/** Turns deltas into blocks and their events. */
export class BlockWriter {
  readonly content: ContentBlock[] = [];
  readonly #emit: (event: AnthropicEvent) => void;
  #json = '';
  #open = false;

  constructor(emit: (event: AnthropicEvent) => void) {
    this.#emit = emit;
  }

  delta(delta: OutputDelta): void {
    const last = this.#open ? this.content.at(-1)! : null;
    if (delta.type === 'call') {
      this.#begin({ type: 'tool_use', id: delta.id, name: delta.name, input: {} });
    } else if (delta.type === 'arguments') {
      this.#json += delta.text;
      this.#send({ type: 'input_json_delta', partial_json: delta.text });
    } else if (delta.type === 'reasoning') {
      const block = last?.type === 'thinking' ? last : this.#begin({ type: 'thinking', thinking: '', signature: '' });
      block.thinking += delta.text;
      this.#send({ type: 'thinking_delta', thinking: delta.text });
    } else {
      const block = last?.type === 'text' ? last : this.#begin({ type: 'text', text: '' });
      block.text += delta.text;
      this.#send({ type: 'text_delta', text: delta.text });
    }
  }

  end(): void {
    if (!this.#open) return;
    this.#open = false;
    const block = this.content.at(-1)!;
    if (block.type === 'tool_use') block.input = parsedInput(this.#json);
    this.#json = '';
    this.#emit({ type: 'content_block_stop', index: this.content.length - 1 });
  }

  #begin<B extends ContentBlock>(block: B): B {
    this.end();
    this.#emit({ type: 'content_block_start', index: this.content.length, content_block: { ...block } });
    this.content.push(block);
    this.#open = true;
    return block;
  }

  #send(delta: object): void {
    this.#emit({ type: 'content_block_delta', index: this.content.length - 1, delta });
  }
}

function parsedInput(json: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(json);
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
  } catch {
    // Cut by max_tokens: stop_reason says so.
    return {};
  }
}

export interface StopInput {
  finishReason: 'stop' | 'length' | 'tool_calls';
  stop: string | number | null;
}

export function stopFields({ finishReason, stop }: StopInput) {
  if (finishReason === 'tool_calls') return { stop_reason: 'tool_use', stop_sequence: null };
  if (finishReason === 'length') return { stop_reason: 'max_tokens', stop_sequence: null };
  if (typeof stop === 'string') return { stop_reason: 'stop_sequence', stop_sequence: stop };
  return { stop_reason: 'end_turn', stop_sequence: null };
}

export const toAnthropicUsage = (usage: { promptTokens: number; cachedTokens: number; completionTokens: number }) => ({
  input_tokens: usage.promptTokens - usage.cachedTokens,
  cache_creation_input_tokens: 0,
  cache_read_input_tokens: usage.cachedTokens,
  output_tokens: usage.completionTokens,
});

export function toMessage(id: string, model: string, content: ContentBlock[], stop: object, usage: object) {
  return { id, type: 'message' as const, role: 'assistant' as const, model, content, ...stop, usage };
}

export const messageResponseSchema = z.object({
  id: z.string(),
  type: z.literal('message'),
  role: z.literal('assistant'),
  model: z.string(),
  content: z.array(
    z.union([
      z.object({ type: z.literal('text'), text: z.string() }),
      z.object({ type: z.literal('thinking'), thinking: z.string(), signature: z.string() }),
      z.object({
        type: z.literal('tool_use'),
        id: z.string(),
        name: z.string(),
        input: z.record(z.string(), z.unknown()),
      }),
    ]),
  ),
  stop_reason: z.enum(['end_turn', 'max_tokens', 'stop_sequence', 'tool_use']),
  stop_sequence: z.string().nullable(),
  usage: z.object({
    input_tokens: z.int(),
    cache_creation_input_tokens: z.int(),
    cache_read_input_tokens: z.int(),
    output_tokens: z.int(),
  }),
});
