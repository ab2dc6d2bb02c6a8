// From a JSON body to a typed request, or to the first problems in words. Pure: knows zod, nothing of HTTP.

import type { z } from 'zod';
import { inWords } from '../words.ts';

/** Optional on the wire, where null means absent. */
export function optional<T extends z.ZodType>(schema: T) {
  return schema.nullish().transform((value) => (value ?? undefined) as z.output<T> | undefined);
}

/** A field that is accepted and has no effect. */
export function ignored<T extends z.ZodType>(schema: T) {
  return schema.nullish().transform(() => undefined);
}

export type Problem =
  | { kind: 'unsupported'; param: string }
  | { kind: 'invalid'; param: string | null; message: string };

export type Validated<T> = { ok: true; value: T; dropped: string[] } | { ok: false; problem: Problem };

const issuesMax = 3;
const issueLengthMax = 200;
export const depthMax = 128;

/** Whether a JSON value nests deeper than the limit; iterative, so that depth cannot overflow the stack. */
export function isTooDeep(value: unknown, limit = depthMax): boolean {
  let level: unknown[] = [value];
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > limit) return true;
    const next: unknown[] = [];
    for (const item of level) {
      if (typeof item !== 'object' || item === null) continue;
      for (const child of Array.isArray(item) ? item : Object.values(item)) {
        if (typeof child === 'object' && child !== null) next.push(child);
      }
    }
    level = next;
  }
  return false;
}

/**
 * Checks a body. Unknown fields that are null ask for nothing: clients write them for every option that nobody set. With
 * `lenient`, the others are taken out and named in `dropped` instead of being a problem.
 */
export function validate<T extends z.ZodType>(schema: T, body: unknown, lenient: boolean): Validated<z.output<T>> {
  if (isTooDeep(body)) {
    return { ok: false, problem: { kind: 'invalid', param: null, message: `The body nests deeper than ${depthMax}.` } };
  }
  const first = schema.safeParse(body, { error: inWords });
  if (first.success) return { ok: true, value: first.data, dropped: [] };
  const unknown = unknownFields(first.error);
  const asks = (path: PropertyKey[]) => valueAt(body, path) !== null;
  const leaving = lenient ? unknown : unknown.filter((path) => !asks(path));
  if (leaving.length === 0) return { ok: false, problem: problemOf(first.error) };
  const second = schema.safeParse(without(body, leaving), { error: inWords });
  if (!second.success) return { ok: false, problem: problemOf(second.error) };
  return { ok: true, value: second.data, dropped: unknown.filter(asks).map(pathText) };
}

const valueAt = (body: unknown, path: readonly PropertyKey[]) =>
  path.reduce<unknown>((at, key) => (at as Record<PropertyKey, unknown>)[key], body);

function unknownFields(error: z.ZodError): PropertyKey[][] {
  return error.issues.flatMap((issue) =>
    issue.code === 'unrecognized_keys' ? issue.keys.map((key) => [...issue.path, key]) : [],
  );
}

function without(body: unknown, paths: PropertyKey[][]): unknown {
  const copy = structuredClone(body);
  for (const path of paths) {
    let at = copy as Record<PropertyKey, unknown>;
    for (const key of path.slice(0, -1)) at = at[key] as Record<PropertyKey, unknown>;
    delete at[path.at(-1)!];
  }
  return copy;
}

function problemOf(error: z.ZodError): Problem {
  const unknown = unknownFields(error);
  if (unknown.length > 0) return { kind: 'unsupported', param: pathText(unknown[0]!) };
  // One problem a field: a number over two limits breaks the smaller one, too.
  const told = new Set<string>();
  const issues = error.issues
    .map(deepest)
    .filter(({ path }) => !told.has(pathText(path)) && told.add(pathText(path)))
    .slice(0, issuesMax);
  const param = issues[0]!.path.length ? pathText(issues[0]!.path) : null;
  const lines = issues.map(({ path, message }) => {
    const where = path.length ? `Invalid '${pathText(path)}': ` : 'Invalid body: ';
    return (where + message).slice(0, issueLengthMax);
  });
  return { kind: 'invalid', param, message: `${lines.join('; ')}.` };
}

/** The most telling issue inside a union: that of the branch which got furthest, and not of one for another `type`. */
function deepest(issue: z.core.$ZodIssue): { path: PropertyKey[]; message: string } {
  if (issue.code !== 'invalid_union' || issue.errors.length === 0)
    return { path: [...issue.path], message: issue.message };
  const inner = issue.errors
    .filter(([first]) => !(first?.code === 'invalid_value' && first.path.length === 1 && first.path[0] === 'type'))
    .flatMap((branch) => branch.slice(0, 1).map(deepest))
    .sort((a, b) => b.path.length - a.path.length)[0];
  if (!inner || inner.path.length === 0) return { path: [...issue.path], message: issue.message };
  return { path: [...issue.path, ...inner.path], message: inner.message };
}

/** ['messages', 0, 'content'] → messages[0].content, cut to a length that cannot amplify. */
export function pathText(path: readonly PropertyKey[]): string {
  const text = path.map((key) => (typeof key === 'number' ? `[${key}]` : `.${String(key)}`)).join('');
  return text.replace(/^\./, '').slice(0, 100);
}
