// What chat completions, responses and messages have in common: from a conversation to requests, from tokens to
// deltas. The three routes differ only in the wire on either side.

import { randomUUID } from 'node:crypto';
import { callParser } from '../chat/calls.ts';
import { callMarksAreSpecial, type Family, familyOf, thinkMarksAreSpecial } from '../chat/families.ts';
import { type Grammar, type GrammarInput, grammarOf, schemaProblem } from '../chat/grammar.ts';
import { type OutputDelta, type OutputParser, PlainParser } from '../chat/output.ts';
import { buildPrompt, type PromptInput } from '../chat/prompt.ts';
import { ReasoningParser } from '../chat/reasoning.ts';
import { TemplateError } from '../chat/templates.ts';
import {
  type DecodedImage,
  EngineError,
  type EngineRequest,
  type ModelInfo,
  type RequestUsage,
  type TokenEvent,
} from '../engine/port.ts';
import { errors } from '../errors.ts';
import { choiceSeed } from '../openai/common.ts';
import type { AppContext } from './context.ts';
import { admit, type Generation, readGeneration } from './generation.ts';
import type { RequestScope } from './scope.ts';

export interface ChatTask {
  model: ModelInfo;
  prompt: PromptInput;
  /** Sampling, limits and stops, in the engine's words. */
  engine: Omit<Partial<EngineRequest>, 'model' | 'kind' | 'text' | 'literal' | 'images'>;
  choices: number;
  /** What the answer must be, and the functions it may call. `tools` stay here when `toolChoice` is none. */
  constraint: GrammarInput;
}

export interface ChatRun {
  generations: Generation[];
  parserOf: () => OutputParser;
  /** Tokens of the prompt, as far as the engine has said; 0 when it has not. */
  promptTokens: number;
}

/** Renders the prompt and has the engine accept it. Whatever is wrong with the request is thrown from here. */
export async function startChat(
  context: AppContext,
  task: ChatTask,
  scope: RequestScope,
  images: DecodedImage[],
): Promise<ChatRun> {
  const { model, constraint } = task;
  const family = checkedFamily(constraint, model);
  const prompt = await renderPrompt(context, model, task.prompt);
  scope.throwIfAborted();
  const grammar = grammarOf(constraint, family, model.chatTemplate);
  if (grammar && family.reasoning) fitToPrompt(grammar, family.reasoning, prompt.text.trimEnd());
  const base: EngineRequest = {
    ...(showsSpecial(constraint, family) ? { skipSpecialTokens: false } : {}),
    ...task.engine,
    ...(grammar ? { grammar } : {}),
    ...(images.length > 0 ? { images } : {}),
    model: model.name,
    kind: 'generate',
    ...prompt,
  };
  const generations = await admit(context, perChoice(base, task.choices), scope).catch((error: unknown) => {
    const problem = error instanceof EngineError ? schemaProblem(error.message, constraint) : null;
    if (problem === null) throw error;
    const unsupported = (error as EngineError).code === 'unsupported';
    throw unsupported ? errors.unsupportedValue('tools', problem) : errors.invalid(problem, 'tools');
  });
  const promptTokens = generations[0]!.promptTokens;
  return { generations, promptTokens, parserOf: () => makeParser(constraint, family, prompt.text) };
}

/** A prompt may end with thoughts that it has opened, or closed: switched off. */
function fitToPrompt(grammar: Grammar, { open, close }: { open: string; close: string }, prompt: string): void {
  if (prompt.endsWith(open) || prompt.endsWith(close)) delete grammar.open;
  if (prompt.endsWith(close)) delete grammar.after;
}

/** Longest schema, tools together, in characters of JSON. */
const schemaLengthMax = 512 * 1024;

/** The family of a model that can do what is asked for. */
export function checkedFamily({ tools, toolChoice, responseFormat }: GrammarInput, model: ModelInfo): Family {
  const family = familyOf(model.chatTemplate);
  if (tools?.length && toolChoice !== 'none' && !family.calls) {
    throw errors.unsupportedValue('tools', `The chat template of '${model.name}' has no format for tool calls.`);
  }
  const schema = responseFormat?.type === 'json_schema' ? responseFormat.json_schema.schema : null;
  if (JSON.stringify([tools ?? null, schema]).length > schemaLengthMax) {
    throw errors.invalid(
      `The schemas of a request may take ${schemaLengthMax} characters.`,
      tools ? 'tools' : 'response_format',
    );
  }
  return family;
}

const usesCalls = ({ tools }: GrammarInput, family: Family) => Boolean(tools?.length && family.calls);

const showsSpecial = (constraint: GrammarInput, family: Family) =>
  (usesCalls(constraint, family) && callMarksAreSpecial(family)) || thinkMarksAreSpecial(family);

function makeParser(constraint: GrammarInput, family: Family, prompt: string): OutputParser {
  let parser: OutputParser = new PlainParser();
  if (usesCalls(constraint, family)) {
    const names = new Set(constraint.tools?.map((tool) => tool.function.name));
    const single = constraint.parallel === false || typeof constraint.toolChoice === 'object';
    const callsMax = constraint.toolChoice === 'none' ? 0 : single ? 1 : Number.POSITIVE_INFINITY;
    parser = callParser(family.calls!, { names, callsMax });
  }
  const { reasoning } = family;
  if (!reasoning) return parser;
  return new ReasoningParser(parser, reasoning, prompt.trimEnd().endsWith(reasoning.open));
}

export async function renderPrompt(context: AppContext, model: ModelInfo, input: PromptInput) {
  try {
    return await buildPrompt(input, { ...model, imagePlaceholder: model.vision?.placeholder ?? null }, context.render);
  } catch (error) {
    if (!(error instanceof TemplateError)) throw error;
    if (error.fault === 'broken') throw errors.modelDamaged(`its chat template cannot be read: ${error.message}`);
    const did = error.fault === 'refused' ? 'refused' : 'failed on';
    throw errors.invalid(`The model's chat template ${did} the messages: ${error.message}`, 'messages');
  }
}

/** One request a choice, with seeds of their own: equal seeds would give n equal answers. */
export function perChoice(base: EngineRequest, choices: number): EngineRequest[] {
  if (choices === 1) return [base];
  const seed = base.sampling?.seed ?? Math.floor(Math.random() * 2 ** 32);
  return Array.from({ length: choices }, (_, choice) => ({
    ...base,
    sampling: { ...base.sampling, seed: choiceSeed(seed, choice) },
  }));
}

export interface ChoiceSink {
  /** `token` is null for what was held back until the end. */
  delta(delta: OutputDelta): void;
  token?(event: TokenEvent): void;
}

export interface ChoiceOutcome {
  finishReason: 'stop' | 'length' | 'tool_calls';
  /** The stop string or token that ended the text, when one did. */
  stop: string | number | null;
  usage: RequestUsage;
  reasoningTokens: number;
}

/** Reads one choice to its end, giving deltas as they become certain. */
export async function runChoice(
  generation: Generation,
  parser: OutputParser,
  scope: RequestScope,
  sink: ChoiceSink,
): Promise<ChoiceOutcome> {
  let reasoningTokens = 0;
  let calls = 0;
  const deltas: OutputDelta[] = [];
  const flush = () => {
    for (const delta of deltas) {
      if (delta.type === 'call') calls++;
      sink.delta(delta);
    }
    deltas.length = 0;
  };
  const finished = await readGeneration(generation, scope, {
    token(event) {
      sink.token?.(event);
      if (parser.reasoning) reasoningTokens++;
      if (event.text === '') return;
      parser.push(event.text, deltas);
      flush();
    },
  });
  if (finished.text !== '') parser.push(finished.text, deltas);
  const natural = finished.reason === 'length' ? 'length' : 'stop';
  parser.finish(deltas, natural === 'length');
  flush();
  return {
    finishReason: calls > 0 && natural === 'stop' ? 'tool_calls' : natural,
    stop: finished.stop,
    usage: finished.usage,
    reasoningTokens,
  };
}

/** The prompt is counted once, the answers together. */
export function sumUsage(outcomes: readonly ChoiceOutcome[]) {
  const sum = (read: (outcome: ChoiceOutcome) => number) => outcomes.reduce((total, one) => total + read(one), 0);
  const first = outcomes[0]!.usage;
  return {
    promptTokens: first.promptTokens,
    cachedTokens: first.cachedTokens,
    completionTokens: sum(({ usage }) => usage.completionTokens),
    reasoningTokens: sum(({ reasoningTokens }) => reasoningTokens),
    predictedTokens: sum(({ usage }) => usage.predictedTokens),
    predictedAccepted: sum(({ usage }) => usage.predictedAccepted),
  };
}

/** n against the operator's limit, for every route that has it. */
export function checkChoices(context: AppContext, n: number): void {
  const { maxChoices } = context.settings;
  if (n > maxChoices) throw errors.invalid(`Invalid 'n': must be at most ${maxChoices} here.`, 'n');
}

export const newId = (prefix: string) => `${prefix}${randomUUID().replaceAll('-', '')}`;
export const nowSeconds = () => Math.floor(Date.now() / 1000);
