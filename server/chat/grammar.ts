// What the engine must force an answer to be, in the words of engine-native/src/grammar/grammar.h.

import { type CallFormat, deepseek, type Family } from './families.ts';

interface ToolInput {
  function: { name: string; parameters?: Record<string, unknown> | undefined; strict?: boolean | undefined };
}

export interface GrammarInput {
  responseFormat?:
    | { type: 'text' }
    | { type: 'json_object' }
    | { type: 'json_schema'; json_schema: { schema: unknown; strict?: boolean | undefined } }
    | undefined;
  tools?: readonly ToolInput[] | undefined;
  toolChoice?: 'none' | 'auto' | 'required' | { function: { name: string } } | undefined;
  parallel?: boolean | undefined;
}

export interface Grammar {
  type: 'json_schema' | 'json_object' | 'tools';
  spec?: unknown;
  /** Text after which the constraint begins: the end of a model's thoughts. */
  after?: string;
  /** What thoughts begin with: where they do not come first, the constraint holds at once. */
  open?: string;
}

interface Layout {
  /** What stands around the arguments of one call. */
  begin: (name: string) => string;
  end: string;
  /** Begins every call, and nothing else: where free text may come first, the constraint starts here. */
  trigger?: string;
  separator?: string;
  prefix?: string;
  suffix?: string;
}

function layoutOf(format: CallFormat, template: string): Layout {
  switch (format) {
    case 'hermes': {
      const begin = (name: string) => `<tool_call>\n{"name": "${name}", "arguments": `;
      return { begin, end: '}\n</tool_call>', trigger: '<tool_call>', separator: '\n' };
    }
    case 'llama': {
      const begin = (name: string) => `{"name": "${name}", "parameters": `;
      return { begin, end: '}', trigger: '{"name": "', separator: '; ' };
    }
    case 'mistral': {
      if (template.includes('[ARGS]')) {
        return { begin: (name) => `[TOOL_CALLS]${name}[ARGS]`, end: '', trigger: '[TOOL_CALLS]' };
      }
      const begin = (name: string) => `{"name": "${name}", "arguments": `;
      return { begin, end: '}', separator: ', ', prefix: '[TOOL_CALLS][', suffix: ']' };
    }
    case 'deepseek': {
      const around = { prefix: deepseek.callsBegin, suffix: deepseek.callsEnd };
      if (!template.includes('```json')) {
        return { ...around, begin: (name) => deepseek.callBegin + name + deepseek.separator, end: deepseek.callEnd };
      }
      const begin = (name: string) => `${deepseek.callBegin}function${deepseek.separator}${name}\n\`\`\`json\n`;
      return { ...around, begin, end: `\n\`\`\`${deepseek.callEnd}`, separator: '\n' };
    }
  }
}

const noParameters = { type: 'object', properties: {}, additionalProperties: false };

const shaping = ['type', '$ref', 'anyOf', 'oneOf', 'allOf', 'enum', 'const'];

/** Arguments are an object, also where a schema leaves it open: {} is a common way to say that there are none to speak of. */
function argumentsSchema(parameters: Record<string, unknown> = noParameters): Record<string, unknown> {
  return shaping.some((key) => Object.hasOwn(parameters, key)) ? parameters : { ...parameters, type: 'object' };
}

/** Whose schema an error of the engine is about, and what it says; null for other errors. */
export function schemaProblem(message: string, { tools, toolChoice }: GrammarInput) {
  const [, index, problem] = /^grammar\/spec\/calls\/(\d+)\/schema(.*)$/s.exec(message) ?? [];
  if (problem === undefined) return null;
  const name = typeof toolChoice === 'object' ? toolChoice.function.name : tools?.[Number(index)]?.function.name;
  return `The parameters of function '${name}': #${problem}`;
}

/** The constraint of a request, or null when its text is free. */
export function grammarOf(input: GrammarInput, family: Family, template: string | null): Grammar | null {
  const after = family.reasoning ? { open: family.reasoning.open, after: family.reasoning.close } : {};
  const tools = toolGrammar(input, family, template);
  if (tools) return { ...tools, ...after };
  const format = input.responseFormat;
  if (format?.type === 'json_object') return { type: 'json_object', ...after };
  if (format?.type === 'json_schema') return { type: 'json_schema', spec: format.json_schema.schema, ...after };
  return null;
}

/** What an answer that is no call must be; undefined where it is free. */
function answerSchema({ responseFormat }: GrammarInput): unknown {
  if (responseFormat?.type === 'json_schema') return responseFormat.json_schema.schema;
  return responseFormat?.type === 'json_object' ? { type: 'object' } : undefined;
}

function toolGrammar(input: GrammarInput, family: Family, template: string | null): Grammar | null {
  const { tools = [], toolChoice = 'auto', parallel } = input;
  if (tools.length === 0 || toolChoice === 'none' || !family.calls || template === null) return null;
  const { begin, end, trigger, ...around } = layoutOf(family.calls, template);
  const auto = toolChoice === 'auto';
  const answer = auto ? answerSchema(input) : undefined;
  const free = auto && answer === undefined;
  // Under auto only strict functions are held to their schema, and only where a call can be told from text.
  if (free && (!trigger || !tools.some((tool) => tool.function.strict))) return null;
  const named = typeof toolChoice === 'object' ? toolChoice.function.name : null;
  const calls = tools
    .filter(({ function: { name } }) => named === null || name === named)
    .map(({ function: { name, parameters, strict } }) => ({
      begin: begin(name),
      schema: auto && !strict ? { type: 'object' } : argumentsSchema(parameters),
      end,
    }));
  const spec = { calls, ...around, required: !free, parallel: named === null && parallel !== false };
  if (answer !== undefined) return { type: 'tools', spec: { ...spec, answer } };
  return { type: 'tools', spec: free ? { ...spec, trigger } : spec };
}
