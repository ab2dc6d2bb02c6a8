// What a field of a request, or a setting, must be: in words for whoever wrote it.

import type { z } from 'zod';

type RawIssue = Parameters<z.core.$ZodErrorMap>[0];

const kinds: Record<string, string> = {
  array: 'an array',
  boolean: 'a boolean',
  int: 'an integer',
  null: 'null',
  number: 'a number',
  object: 'an object',
  record: 'an object',
  string: 'a string',
};

const kindOf = (value: unknown) => (value === null ? 'null' : Array.isArray(value) ? 'array' : typeof value);

function wrongType(expected: string, input: unknown): string {
  if (input === undefined) return 'is missing';
  const got = kindOf(input);
  const wanted = kinds[expected] ?? expected;
  return got === 'number' ? `must be ${wanted}, not ${input}` : `must be ${wanted}, not ${kinds[got] ?? got}`;
}

const plural = (count: number | bigint, what: string) => `${count} ${what}${count === 1 ? '' : 's'}`;

function size(word: 'at least' | 'at most', origin: string, bound: number | bigint, inclusive: boolean): string {
  if (origin === 'string') return `must have ${word} ${plural(bound, 'character')}`;
  if (origin === 'array') return `must have ${word} ${plural(bound, 'item')}`;
  return `must be ${inclusive ? word : word === 'at least' ? 'more than' : 'less than'} ${bound}`;
}

function anyOf(values: readonly unknown[]): string {
  const words = values.map((value) => (typeof value === 'string' ? `'${value}'` : String(value)));
  const last = words.pop();
  return words.length > 0 ? `${words.join(', ')} or ${last}` : String(last);
}

/** An error map for zod; undefined leaves an issue to zod's own words. */
export function inWords(issue: RawIssue): string | undefined {
  switch (issue.code) {
    case 'invalid_type':
      return wrongType(issue.expected, issue.input);
    case 'too_small':
      return size('at least', issue.origin, issue.minimum, issue.inclusive ?? true);
    case 'too_big':
      return size('at most', issue.origin, issue.maximum, issue.inclusive ?? true);
    case 'invalid_value':
      return issue.input === undefined ? 'is missing' : `must be ${anyOf(issue.values)}`;
    case 'invalid_union':
      // Told apart by a field: the issue is that field's, the input all of the object.
      if (!issue.discriminator || !Array.isArray(issue.options)) return undefined;
      return Object.hasOwn(Object(issue.input), String(issue.discriminator))
        ? `must be ${anyOf(issue.options)}`
        : 'is missing';
    case 'invalid_format':
      return issue.pattern ? `must match ${issue.pattern}` : undefined;
    case 'invalid_key':
      return `the key ${issue.issues[0]?.message ?? 'is not allowed'}`;
    default:
      return undefined;
  }
}

/** The same for settings, which are text where they come from, so that their type says nothing: the text itself does. */
export function settingInWords(issue: RawIssue): string | undefined {
  if (issue.code !== 'invalid_type' || typeof issue.input !== 'string') return inWords(issue);
  // Every number among the settings is whole.
  const wanted = issue.expected === 'number' ? 'a whole number' : kinds[issue.expected];
  return wanted && `must be ${wanted}, not '${issue.input.slice(0, 80)}'`;
}
