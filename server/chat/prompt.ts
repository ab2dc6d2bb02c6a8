// From a conversation to the variables of a chat template, and from the rendered text to a prompt whose typed parts
// are known. Pure but for the renderer it is given.

import { Marks, type Ranges } from './marks.ts';
import { TemplateError } from './templates.ts';
import { imagesBehindTools, partsOf, placesAll, toolsShowImages } from './tool-images.ts';

export type ContentPart = { type: 'text'; text: string } | { type: 'image' };

export interface Turn {
  role: 'system' | 'developer' | 'user' | 'assistant' | 'tool';
  content: string | ContentPart[] | null;
  name?: string | undefined;
  reasoning?: string | undefined;
  toolCalls?: ReadonlyArray<{ id: string; name: string; arguments: string }> | undefined;
  toolCallId?: string | undefined;
}

export interface PromptTool {
  type: 'function';
  function: { name: string; description?: string | undefined; parameters?: Record<string, unknown> | undefined };
}

export interface PromptInput {
  turns: readonly Turn[];
  tools?: readonly PromptTool[] | undefined;
  /** chat_template_kwargs and what the route derives (enable_thinking, reasoning_effort). */
  variables?: Record<string, unknown> | undefined;
}

export interface TemplateOwner {
  chatTemplate: string | null;
  specialTokens: Record<string, string>;
  /** Text that stands for one image, for templates that only take strings. */
  imagePlaceholder: string | null;
}

export interface Prompt {
  text: string;
  literal: Ranges;
  /** Whether the tokenizer adds BOS: only where no template did. */
  addSpecialTokens: boolean;
}

export type Render = (source: string, variables: Record<string, unknown>) => Promise<string>;

/** Tags that templates look for in earlier answers; they stay outside the marks so that they are still found there. */
const thinkTags = /(<\/?think>|<\/?seed:think>|\[\/?THINK\]|<\|(?:START|END)_THINKING\|>)/;

/**
 * The prompt of a conversation. A template that refuses its system message gets it at the head of the first user message
 * instead, as the makers of such models (Gemma, early Mistral) advise; when it refuses that too, its first word stands.
 */
export async function buildPrompt(input: PromptInput, owner: TemplateOwner, render: Render): Promise<Prompt> {
  try {
    return await renderWithImages(input, owner, render);
  } catch (refusal) {
    const folded = isRefusal(refusal) ? foldSystem(input.turns) : null;
    if (!folded) throw refusal;
    return renderWithImages({ ...input, turns: folded }, owner, render).catch(() => Promise.reject(refusal));
  }
}

/**
 * Pictures in the results of tools stay there where the template shows them. Many print such results as text and would
 * leave the pictures out, or refuse them; there the user shows them right behind. Which kind a template is, only what
 * it makes of the conversation tells.
 */
async function renderWithImages(input: PromptInput, owner: TemplateOwner, render: Render): Promise<Prompt> {
  const { imagePlaceholder } = owner;
  if (imagePlaceholder === null || !toolsShowImages(input.turns)) return renderOnce(input, owner, render);
  const behind = () => renderOnce({ ...input, turns: imagesBehindTools(input.turns) }, owner, render);
  try {
    const prompt = await renderOnce(input, owner, render);
    if (placesAll(prompt, input.turns, imagePlaceholder)) return prompt;
  } catch (refusal) {
    if (!isRefusal(refusal)) throw refusal;
    return behind().catch(() => Promise.reject(refusal));
  }
  return behind();
}

/** A template that complained; one that was stopped or cannot be read would only be so again. */
const isRefusal = (error: unknown) =>
  error instanceof TemplateError && (error.fault === 'refused' || error.fault === 'failed');

/**
 * Why a template serves nobody, or null: it fails on the plainest conversation there is. One that refuses this may want
 * others, and says so in its own words to whoever asks.
 */
export async function templateProblem(owner: TemplateOwner, render: Render): Promise<TemplateError | null> {
  try {
    await buildPrompt({ turns: [{ role: 'user', content: 'Hello' }] }, owner, render);
    return null;
  } catch (error) {
    if (!(error instanceof TemplateError)) throw error;
    return error.fault === 'refused' ? null : error;
  }
}

/** The leading system text joined to the first user message, or null when there is none. */
function foldSystem(turns: readonly Turn[]): Turn[] | null {
  const isSystem = ({ role }: Turn) => role === 'system' || role === 'developer';
  const count = turns.findIndex((turn) => !isSystem(turn));
  const leading = count < 0 ? turns : turns.slice(0, count);
  const next = turns[leading.length];
  if (leading.length === 0 || (next && next.role !== 'user')) return null;
  const system = leading.flatMap(({ content }) => partsOf(content));
  const parts = [...system, ...partsOf(next?.content ?? null)];
  const hasImage = parts.some(({ type }) => type === 'image');
  const content = hasImage ? parts : parts.map(partText).join('\n\n');
  return [{ ...next, role: 'user', content }, ...turns.slice(leading.length + 1)];
}

async function renderOnce(input: PromptInput, owner: TemplateOwner, render: Render): Promise<Prompt> {
  if (owner.chatTemplate === null) return plainPrompt(input);
  const marks = new Marks(stringsOf([input.turns, input.tools, input.variables]));
  const source = owner.chatTemplate;
  const wants = wantsOf(source);
  const messages = input.turns.map((turn) => toTemplateMessage(turn, marks, wants, owner));
  const tools = input.tools?.length ? input.tools.map((tool) => markDescriptions(tool, marks)) : undefined;
  const rendered = await render(source, {
    ...owner.specialTokens,
    add_generation_prompt: true,
    // Templates test `if tools` or `tools is not none`; an undefined name fails the second.
    documents: null,
    ...(input.variables ?? {}),
    messages,
    tools: tools ?? null,
  });
  return { ...marks.strip(rendered), addSpecialTokens: false };
}

/** No template and no chat tokens: BOS and the contents joined by newlines. */
function plainPrompt(input: PromptInput): Prompt {
  const text = input.turns
    .map(({ content }) => (typeof content === 'string' ? content : (content ?? []).map(partText).join('\n')))
    .join('\n');
  const bytes = Buffer.byteLength(text);
  return { text, literal: bytes ? [[0, bytes]] : [], addSpecialTokens: true };
}

const partText = (part: ContentPart) => (part.type === 'text' ? part.text : '');

/** What a template expects of its messages, read off its source: there is no other way to know. */
interface Wants {
  /** Walks lists of content parts; `partsOnly` when it never asks whether content is a string. */
  parts: boolean;
  partsOnly: boolean;
  /** Prints tool-call arguments as they are, so they must be JSON text and not an object. */
  argumentsText: boolean;
  developerRole: boolean;
  /** Asks whether content is none. */
  nullContent: boolean;
}

function wantsOf(source: string): Wants {
  const parts =
    /for\s+\w+\s+in\s+\w+(?:\.content|\[['"]content['"]\])/.test(source) ||
    /content['"]?\]?\[0\]\[?\.?['"]?type/.test(source) ||
    /for\s+\w+\s+in\s+content\b/.test(source);
  const printsArguments = /(?:\+|\{\{-?)\s*[\w.[\]'"]*arguments['"]?\]?\s*(?:\+|-?[%}]\})/.test(source);
  const readsArguments =
    /arguments[^%}]{0,40}(?:tojson|items|dictsort|is\s+mapping|is\s+string)/.test(source) ||
    /set\s+\w+\s*=\s*[\w.['"\]]*arguments/.test(source);
  return {
    parts,
    partsOnly: parts && !/is\s+(?:not\s+)?string/.test(source),
    argumentsText: printsArguments && !readsArguments,
    developerRole: source.includes('developer'),
    nullContent: /(?<![a-z_])content['"]?\]?\s+is\s+(?:not\s+)?none/i.test(source),
  };
}

function toTemplateMessage(turn: Turn, marks: Marks, wants: Wants, owner: TemplateOwner): Record<string, unknown> {
  const role = turn.role === 'developer' && !wants.developerRole ? 'system' : turn.role;
  const mark = (text: string) => (role === 'assistant' ? markAnswer(text, marks) : marks.mark(text));
  const message: Record<string, unknown> = { role, content: toContent(turn.content, mark, wants, owner) };
  if (turn.name !== undefined) message['name'] = turn.name;
  if (turn.reasoning !== undefined) message['reasoning_content'] = marks.mark(turn.reasoning);
  if (turn.toolCallId !== undefined) message['tool_call_id'] = turn.toolCallId;
  if (turn.toolCalls?.length) {
    message['tool_calls'] = turn.toolCalls.map((call) => ({
      id: call.id,
      type: 'function',
      function: {
        name: call.name,
        arguments: wants.argumentsText ? marks.mark(call.arguments) : toArguments(call.arguments, marks),
      },
    }));
  }
  return message;
}

function toContent(
  content: Turn['content'],
  mark: (text: string) => string,
  wants: Wants,
  owner: TemplateOwner,
): unknown {
  if (content === null) return wants.nullContent ? null : wants.partsOnly ? [] : '';
  if (typeof content === 'string') return wants.partsOnly ? [{ type: 'text', text: mark(content) }] : mark(content);
  const hasImage = content.some((part) => part.type === 'image');
  if (wants.partsOnly || (wants.parts && hasImage)) {
    return content.map((part) => (part.type === 'text' ? { type: 'text', text: mark(part.text) } : { type: 'image' }));
  }
  return content.map((part) => (part.type === 'text' ? mark(part.text) : (owner.imagePlaceholder ?? ''))).join('\n');
}

/** An earlier answer: its thinking tags stay what templates search for, everything around them is text. */
function markAnswer(text: string, marks: Marks): string {
  return text
    .split(thinkTags)
    .map((piece, index) => (index % 2 === 1 ? piece : marks.mark(piece)))
    .join('');
}

/** Templates expect an object; a text that is not one is passed as it is. */
function toArguments(text: string, marks: Marks): unknown {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return markStrings(value, marks);
  } catch {
    // Not JSON: an answer that was cut, or another program's. The text itself goes into the prompt.
  }
  return marks.mark(text);
}

function markStrings(value: unknown, marks: Marks): unknown {
  if (typeof value === 'string') return marks.mark(value);
  if (Array.isArray(value)) return value.map((item) => markStrings(item, marks));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [marks.mark(key), markStrings(item, marks)]));
}

/** Descriptions come from whoever wrote the tool; names and types are checked or compared, and stay as they are. */
function markDescriptions(value: unknown, marks: Marks): unknown {
  if (Array.isArray(value)) return value.map((item) => markDescriptions(item, marks));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, item]) => item !== undefined)
      .map(([key, item]) => [
        key,
        key === 'description' && typeof item === 'string' ? marks.mark(item) : markDescriptions(item, marks),
      ]),
  );
}

function* stringsOf(value: unknown): Generator<string> {
  if (typeof value === 'string') yield value;
  else if (Array.isArray(value)) for (const item of value) yield* stringsOf(item);
  else if (typeof value === 'object' && value !== null) {
    for (const [key, item] of Object.entries(value)) {
      yield key;
      yield* stringsOf(item);
    }
  }
}
