// Which formats a model speaks, read off its chat template: there is no flag for it.

export type CallFormat = 'hermes' | 'llama' | 'mistral' | 'deepseek';

export interface Family {
  /** How tool calls are written, or null when the template has no format that is known here. */
  calls: CallFormat | null;
  reasoning: { open: string; close: string } | null;
}

export const deepseek = {
  callsBegin: '<｜tool▁calls▁begin｜>',
  callsEnd: '<｜tool▁calls▁end｜>',
  callBegin: '<｜tool▁call▁begin｜>',
  callEnd: '<｜tool▁call▁end｜>',
  separator: '<｜tool▁sep｜>',
} as const;

const cache = new Map<string, Family>();

export function familyOf(template: string | null): Family {
  if (template === null) return { calls: null, reasoning: null };
  const known = cache.get(template);
  if (known) return known;
  const family = { calls: callsOf(template), reasoning: reasoningOf(template) };
  if (cache.size > 64) cache.clear();
  cache.set(template, family);
  return family;
}

function callsOf(template: string): CallFormat | null {
  if (template.includes(deepseek.callBegin)) return 'deepseek';
  if (template.includes('[TOOL_CALLS]')) return 'mistral';
  // Qwen3-Coder and GLM also say <tool_call>, but write XML inside it.
  if (template.includes('<tool_call>') && !/<function=|<arg_key>|<parameter=/.test(template)) return 'hermes';
  if (
    /<\|python_tag\|>|ipython/.test(template) &&
    template.includes('parameters') &&
    !template.includes('<function=')
  ) {
    return 'llama';
  }
  return null;
}

function reasoningOf(template: string): Family['reasoning'] {
  if (template.includes('</think>')) return { open: '<think>', close: '</think>' };
  if (template.includes('[/THINK]')) return { open: '[THINK]', close: '[/THINK]' };
  return null;
}

/** Formats whose marks are special tokens, which a tokenizer leaves out of the text unless it is asked not to. */
export const callMarksAreSpecial = (family: Family): boolean => family.calls === 'mistral' || family.calls === 'llama';
export const thinkMarksAreSpecial = (family: Family): boolean => family.reasoning?.open === '[THINK]';
