// POST /v1/chat/completions on the wire: what is accepted, and the objects that are sent back.

import { z } from 'zod';
import {
  defined,
  functionOnly,
  ignoredFields,
  maxTokensField,
  modelField,
  samplingFields,
  streamOptionsSchema,
  type toUsage,
  usageSchema,
} from './common.ts';
import { partError } from './parts.ts';
import { ignored, optional } from './validation.ts';

const textMax = 64 * 1024 * 1024;
const nameSchema = z
  .string()
  .regex(/^[^\s<|\\/>]{1,64}$/, 'must be 1 to 64 characters without spaces, <, |, \\, / or >');
const functionNameSchema = z.string().regex(/^[a-zA-Z0-9_.-]{1,64}$/, 'must be 1 to 64 letters, digits, _, . or -');

const textPartSchema = z.strictObject({ type: z.literal('text'), text: z.string().max(textMax) });
const refusalPartSchema = z.strictObject({ type: z.literal('refusal'), refusal: z.string().max(textMax) });
const imagePartSchema = z.strictObject({
  type: z.literal('image_url'),
  image_url: z.strictObject({
    url: z.string().min(1).max(textMax),
    detail: optional(z.enum(['auto', 'low', 'high'])),
  }),
});

const unionError = { error: 'must be a string or an array of content parts' };
const textContent = z.union([z.string().max(textMax), z.array(textPartSchema).min(1).max(4096)], unionError);
const picturedContent = z.union(
  [
    z.string().max(textMax),
    z
      .array(z.discriminatedUnion('type', [textPartSchema, imagePartSchema], partError('text', 'image_url')))
      .min(1)
      .max(4096),
  ],
  unionError,
);
const assistantContent = z.union(
  [
    z.string().max(textMax),
    z
      .array(z.discriminatedUnion('type', [textPartSchema, refusalPartSchema], partError('text', 'refusal')))
      .min(1)
      .max(4096),
  ],
  unionError,
);

const toolCallSchema = z.strictObject({
  id: z.string().min(1).max(256),
  type: z.literal('function').default('function'),
  function: z.strictObject({ name: functionNameSchema, arguments: z.string().max(textMax) }),
  index: ignored(z.int()),
});

const name = optional(nameSchema);
const plainMessage = <R extends string>(role: R) =>
  z.strictObject({ role: z.literal(role), content: textContent, name });

const assistantMessage = z
  .strictObject({
    role: z.literal('assistant'),
    content: optional(assistantContent),
    name,
    refusal: optional(z.string().max(textMax)),
    reasoning_content: optional(z.string().max(textMax)),
    reasoning: optional(z.string().max(textMax)),
    tool_calls: optional(z.array(toolCallSchema).max(128)),
    annotations: ignored(z.array(z.unknown())),
    audio: ignored(z.null()),
    function_call: ignored(z.null()),
    parsed: ignored(z.unknown()),
  })
  .refine((message) => message.content !== undefined || message.tool_calls?.length || message.refusal !== undefined, {
    path: ['content'],
    error: 'is required unless there are tool_calls',
  });

export const messageSchema = z.discriminatedUnion(
  'role',
  [
    plainMessage('system'),
    plainMessage('developer'),
    z.strictObject({ role: z.literal('user'), content: picturedContent, name }),
    assistantMessage,
    z.strictObject({
      role: z.literal('tool'),
      content: picturedContent,
      tool_call_id: z.string().min(1).max(256),
      name,
    }),
  ],
  { error: 'must be a message with a role of system, developer, user, assistant or tool' },
);

export const jsonSchemaSchema = z.union([z.record(z.string(), z.unknown()), z.boolean()]);

export const toolSchema = z.strictObject({
  type: z.literal('function', functionOnly),
  function: z.strictObject({
    name: functionNameSchema,
    description: optional(z.string().max(65_536)),
    parameters: optional(z.record(z.string(), z.unknown())),
    strict: optional(z.boolean()),
  }),
});

export const toolChoiceSchema = z.union(
  [
    z.enum(['none', 'auto', 'required']),
    z.strictObject({ type: z.literal('function'), function: z.strictObject({ name: functionNameSchema }) }),
  ],
  { error: "must be 'none', 'auto', 'required' or {type:'function',function:{name}}" },
);

export const responseFormatSchema = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('text') }),
  z.strictObject({ type: z.literal('json_object') }),
  z.strictObject({
    type: z.literal('json_schema'),
    json_schema: z.strictObject({
      name: z.string().regex(/^[a-zA-Z0-9_-]{1,64}$/, 'must be 1 to 64 letters, digits, _ or -'),
      description: optional(z.string().max(65_536)),
      schema: jsonSchemaSchema,
      strict: optional(z.boolean()),
    }),
  }),
]);

/** Text that the answer is expected to hold, such as the file that is to be changed. */
const predictionSchema = z.strictObject({ type: z.literal('content'), content: textContent });

export const chatRequestSchema = z
  .strictObject({
    model: modelField,
    messages: z.array(messageSchema).min(1).max(16_384),
    stream: optional(z.boolean()),
    stream_options: optional(streamOptionsSchema),
    n: optional(z.int().min(1).max(128)),
    max_tokens: maxTokensField,
    max_completion_tokens: maxTokensField,
    ...samplingFields,
    logprobs: optional(z.boolean()),
    top_logprobs: optional(z.int().min(0).max(20)),
    tools: optional(z.array(toolSchema).max(128)),
    tool_choice: optional(toolChoiceSchema),
    parallel_tool_calls: optional(z.boolean()),
    response_format: optional(responseFormatSchema),
    prediction: optional(predictionSchema),
    reasoning_effort: optional(z.enum(['none', 'minimal', 'low', 'medium', 'high', 'xhigh'])),
    chat_template_kwargs: optional(z.record(z.string().max(64), z.unknown())),
    ...ignoredFields,
    store: optional(z.boolean()),
    metadata: optional(z.record(z.string().max(64), z.string().max(512))),
    modalities: ignored(z.array(z.literal('text', { error: "must be 'text': nothing else is made here" })).min(1)),
    functions: ignored(z.array(z.unknown()).max(0, 'is the older form of tools, which is not taken: send tools')),
    verbosity: ignored(z.literal('medium')),
    prompt_cache_retention: ignored(z.string().max(64)),
  })
  .superRefine((body, context) => {
    const problem = (path: string, message: string) => context.addIssue({ code: 'custom', path: [path], message });
    if (body.stream_options && !body.stream) problem('stream_options', 'is only allowed with stream: true');
    if (body.top_logprobs !== undefined && body.top_logprobs > 0 && !body.logprobs) {
      problem('top_logprobs', 'needs logprobs: true');
    }
    const given = [body.max_tokens, body.max_completion_tokens];
    if (given[0] !== undefined && given[1] !== undefined && given[0] !== given[1]) {
      problem('max_tokens', 'differs from max_completion_tokens; send one of them');
    }
    const choice = body.tool_choice;
    if (choice !== undefined && choice !== 'none' && !body.tools?.length) problem('tool_choice', 'needs tools');
    const named = typeof choice === 'object' ? choice.function.name : undefined;
    if (named && body.tools?.length && !body.tools.some((tool) => tool.function.name === named)) {
      problem('tool_choice', 'names a function that is not in tools');
    }
    const names = body.tools?.map((tool) => tool.function.name) ?? [];
    if (new Set(names).size !== names.length) problem('tools', 'has two functions of the same name');
  });

export type ChatRequest = z.output<typeof chatRequestSchema>;
export type ChatMessage = z.output<typeof messageSchema>;
export type Tool = z.output<typeof toolSchema>;

// ---- Answers ----------------------------------------------------------------------------------------------------

export interface LogprobToken {
  logprob: number;
  bytes: Uint8Array;
}

const decoder = new TextDecoder();
/** JSON has no -Infinity; OpenAI documents -9999 for "very unlikely". */
export const finiteLogprob = (value: number) => (Number.isFinite(value) ? value : -9999);

export function toLogprobEntry(token: LogprobToken, top: readonly LogprobToken[]) {
  const plain = (entry: LogprobToken) => ({
    token: decoder.decode(entry.bytes),
    logprob: finiteLogprob(entry.logprob),
    bytes: [...entry.bytes],
  });
  return { ...plain(token), top_logprobs: top.map(plain) };
}
export type LogprobEntry = ReturnType<typeof toLogprobEntry>;

export type ChatFinishReason = 'stop' | 'length' | 'tool_calls';

export interface ToolCall {
  id: string;
  name: string;
  arguments: string;
}

export const toToolCall = (call: ToolCall) => ({
  id: call.id,
  type: 'function' as const,
  function: { name: call.name, arguments: call.arguments },
});

export interface Envelope {
  id: string;
  created: number;
  model: string;
  fingerprint: string;
}

/** What stands before and after the choices in every chunk of one answer, serialised once. */
export function chunkEnvelope(envelope: Envelope): { head: string; tail: string } {
  const fields = JSON.stringify({
    id: envelope.id,
    object: 'chat.completion.chunk',
    created: envelope.created,
    model: envelope.model,
    system_fingerprint: envelope.fingerprint,
  });
  return { head: `${fields.slice(0, -1)},"choices":[`, tail: ']}' };
}

export interface ChatChoice {
  content: string;
  reasoning: string;
  toolCalls: ToolCall[];
  logprobs: LogprobEntry[] | null;
  finishReason: ChatFinishReason;
}

export function toChatCompletion(
  envelope: Envelope,
  choices: readonly ChatChoice[],
  usage: ReturnType<typeof toUsage>,
) {
  return {
    id: envelope.id,
    object: 'chat.completion' as const,
    created: envelope.created,
    model: envelope.model,
    system_fingerprint: envelope.fingerprint,
    choices: choices.map((choice, index) => ({
      index,
      message: {
        role: 'assistant' as const,
        content: choice.toolCalls.length && !choice.content ? null : choice.content,
        refusal: null,
        ...defined({
          reasoning_content: choice.reasoning || undefined,
          reasoning: choice.reasoning || undefined,
          tool_calls: choice.toolCalls.length ? choice.toolCalls.map(toToolCall) : undefined,
        }),
      },
      logprobs: choice.logprobs && { content: choice.logprobs, refusal: null },
      finish_reason: choice.finishReason,
    })),
    usage,
  };
}

const logprobEntrySchema = z.object({ token: z.string(), logprob: z.number(), bytes: z.array(z.int()).nullable() });

export const chatCompletionSchema = z.object({
  id: z.string(),
  object: z.literal('chat.completion'),
  created: z.int(),
  model: z.string(),
  system_fingerprint: z.string(),
  choices: z.array(
    z.object({
      index: z.int(),
      message: z.object({
        role: z.literal('assistant'),
        content: z.string().nullable(),
        refusal: z.string().nullable(),
        reasoning_content: z.string().optional(),
        reasoning: z.string().optional(),
        tool_calls: z
          .array(
            z.object({
              id: z.string(),
              type: z.literal('function'),
              function: z.object({ name: z.string(), arguments: z.string() }),
            }),
          )
          .optional(),
      }),
      logprobs: z
        .object({
          content: z.array(logprobEntrySchema.extend({ top_logprobs: z.array(logprobEntrySchema) })),
          refusal: z.null(),
        })
        .nullable(),
      finish_reason: z.enum(['stop', 'length', 'tool_calls']),
    }),
  ),
  usage: usageSchema,
});
