// What the engine must force an answer to be, in the words of the port's GrammarSpec. `after` is the text after which
// the constraint begins (the end of a reasoning model's thoughts); null constrains from the first token.

import { type CallFormat, deepseek, type Family } from './families.ts';

export interface GrammarInput {
  responseFormat?:
    | { type: 'text' }
    | { type: 'json_object' }
    | { type: 'json_schema'; json_schema: { schema: unknown; strict?: boolean | undefined } }
    | undefined;
  tools?: ReadonlyArray<{ function: { name: string; parameters?: Record<string, unknown> | undefined } }> | undefined;
  toolChoice?: 'none' | 'auto' | 'required' | { function: { name: string } } | undefined;
  parallel?: boolean | undefined;
}

/** How one call is written around its JSON; the engine's tool grammar is made of these. */
const layouts: Record<CallFormat, { begin: string; name: string; arguments: string; end: string; separator: string }> =
  {
    hermes: {
      begin: '<tool_call>\n{"name": "',
      name: '", "arguments": ',
      arguments: '}',
      end: '\n</tool_call>',
      separator: '\n',
    },
    llama: { begin: '{"name": "', name: '", "parameters": ', arguments: '}', end: '', separator: '; ' },
    mistral: { begin: '[TOOL_CALLS]', name: '[ARGS]', arguments: '', end: '', separator: '' },
    deepseek: {
      begin: deepseek.callsBegin + deepseek.callBegin,
      name: deepseek.separator,
      arguments: '',
      end: deepseek.callEnd + deepseek.callsEnd,
      separator: '',
    },
  };

export interface Grammar {
  type: 'json_schema' | 'json_object' | 'tools';
  spec: unknown;
}

/** The constraint of a request, or null when its text is free. */
export function grammarOf(input: GrammarInput, family: Family): Grammar | null {
  const after = family.reasoning?.close ?? null;
  const choice = input.toolChoice;
  if (input.tools?.length && family.calls && (choice === 'required' || typeof choice === 'object')) {
    const named = typeof choice === 'object' ? choice.function.name : null;
    const tools = input.tools.filter(({ function: { name } }) => named === null || name === named);
    return {
      type: 'tools',
      spec: {
        tools: tools.map(({ function: { name, parameters } }) => ({ name, parameters: parameters ?? null })),
        layout: layouts[family.calls],
        parallel: named === null && input.parallel !== false,
        after,
      },
    };
  }
  const format = input.responseFormat;
  if (format?.type === 'json_object') return { type: 'json_object', spec: { after } };
  if (format?.type === 'json_schema')
    return { type: 'json_schema', spec: { schema: format.json_schema.schema, after } };
  return null;
}
