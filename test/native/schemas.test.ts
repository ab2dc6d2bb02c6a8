// Structured output against an independent judge: random schemas go to the real engine, which draws at a high temperature,
// and Ajv says whether what came out is what was asked for. The other direction (every valid document is let through) is
// engine-native/tests/grammar's.

import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type RealServer, startRealServer } from '../support/real-server.ts';

const ajv = new Ajv2020({ strict: false });
(addFormats as unknown as (ajv: Ajv2020) => void)(ajv);

type Schema = Record<string, unknown>;
interface Judged {
  schema: Schema;
  reason: string;
  text: string;
}

interface Answer {
  choices: { message: { content: string }; finish_reason: string }[];
  error: { type: string; message: string };
}

let server: RealServer;
let url = '';

beforeAll(async () => {
  server = await startRealServer();
  url = server.url;
}, 60_000);

afterAll(() => server?.stop(), 30_000);

async function answer(schema: unknown, seed: number, n: number) {
  const response_format = { type: 'json_schema', json_schema: { name: 'case', schema, strict: true } };
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      messages: [{ role: 'user', content: 'Answer in JSON.' }],
      response_format,
      temperature: 1.6,
      top_k: 0,
      top_p: 1,
      min_p: 0,
      max_tokens: 120,
      seed,
      n,
    }),
  });
  return { status: response.status, body: (await response.json()) as Answer };
}

class Cut extends Error {}

/** Throws unless the text is the beginning of a JSON document; a reader of its own, since JSON.parse takes whole ones only. */
function expectJsonPrefix(text: string) {
  let at = 0;
  const more = () => {
    if (at >= text.length) throw new Cut();
    return text[at]!;
  };
  const blank = () => {
    while (at < text.length && ' \t\r\n'.includes(text[at]!)) at += 1;
  };
  const take = (word: string) => {
    for (const character of word) {
      if (more() !== character) throw new Error(`${word} expected at ${at}`);
      at += 1;
    }
  };
  const string = () => {
    const begin = at;
    take('"');
    for (; more() !== '"'; at += 1) if (text[at] === '\\') at += 1;
    at += 1;
    JSON.parse(text.slice(begin, at));
  };
  const list = (close: string, entry: () => void) => {
    at += 1;
    blank();
    for (let first = true; first || more() !== close; first = false) {
      if (first && more() === close) break;
      if (!first) take(',');
      blank();
      entry();
      blank();
    }
    at += 1;
  };
  const value = (): void => {
    const first = more();
    if (first === '"') string();
    else if (first === '[') list(']', value);
    else if (first === '{') {
      list('}', () => {
        string();
        blank();
        take(':');
        blank();
        value();
      });
    } else if (/[-\d]/.test(first)) {
      const number = /^-?(?:(?:0|[1-9]\d*)(?:\.\d*)?(?:(?<=\d)[eE][-+]?\d*)?)?/.exec(text.slice(at))![0];
      at += number.length;
    } else take(first === 't' ? 'true' : first === 'f' ? 'false' : 'null');
  };
  try {
    blank();
    value();
    blank();
  } catch (error) {
    if (error instanceof Cut) return;
    throw error;
  }
  if (at < text.length) throw new Error(`something behind the document at ${at}`);
}

/** Answers to one schema, each of them judged. */
async function judge(schema: Schema, seed: number, n = 1): Promise<Judged[]> {
  const { status, body } = await answer(schema, seed, n);
  const about = `schema ${JSON.stringify(schema)} seed ${seed}`;
  if (status !== 200) throw new Error(`${about}: ${status} ${JSON.stringify(body)}`);
  const valid = ajv.compile(schema);
  return body.choices.map((choice) => {
    const text: string = choice.message.content;
    const reason: string = choice.finish_reason;
    try {
      if (reason === 'length') expectJsonPrefix(text);
      else if (!valid(JSON.parse(text))) throw new Error(ajv.errorsText(valid.errors));
    } catch (error) {
      throw new Error(`${about}: ${reason}, ${(error as Error).message}\n${text}`);
    }
    return { schema, reason, text };
  });
}

// ---- Random schemas ----

const bounds = (least: number, most: number) =>
  fc
    .tuple(fc.integer({ min: least, max: most }), fc.integer({ min: least, max: most }))
    .map(([a, b]) => [Math.min(a, b), Math.max(a, b)] as const);

const integer = fc
  .tuple(bounds(-2000, 2000), fc.constantFrom('none', 'closed', 'open', 'least', 'most'))
  .map(([[low, high], kind]): Schema => {
    const type = 'integer';
    if (kind === 'closed') return { type, minimum: low, maximum: high };
    if (kind === 'open') return { type, exclusiveMinimum: low - 1, exclusiveMaximum: high + 1 };
    return kind === 'least' ? { type, minimum: low } : kind === 'most' ? { type, exclusiveMaximum: high } : { type };
  });
const number = fc
  .tuple(bounds(-5000, 5000), fc.constantFrom(1, 10, 1000), fc.constantFrom('none', 'closed', 'open', 'least', 'most'))
  .map(([[low, high], scale, kind]): Schema => {
    const type = 'number';
    if (kind === 'closed') return { type, minimum: low / scale, maximum: high / scale };
    if (kind === 'open') return { type, exclusiveMinimum: low / scale, exclusiveMaximum: (high + 1) / scale };
    return kind === 'least'
      ? { type, exclusiveMinimum: low / scale }
      : kind === 'most'
        ? { type, maximum: high / scale }
        : { type };
  });

const patterns = [
  '^[A-Z]{2}-\\d{2,4}$',
  '^(red|green|blue)$',
  '^[^"\\\\]{1,6}$',
  '^\\w+@\\w+$',
  '^[a-f0-9]{8}$',
  '^a|z$',
  '\\d{3}',
  '^é[àü]{1,3}$',
  '^[\\u3040-\\u309f]{2,4}$',
  '^.{2,5}$',
  '^(?:\\s|x){1,4}$',
  '^\\u{1f600}?[\\u{1f300}-\\u{1f320}]{1,2}$',
  '^(a|b(c|d)*)+?e$',
];
const formats = ['date', 'time', 'date-time', 'duration', 'uuid', 'email', 'hostname', 'ipv4', 'ipv6', 'uri'];
const string = fc.oneof(
  fc.constant<Schema>({ type: 'string', maxLength: 12 }),
  bounds(0, 14).map(([minLength, maxLength]): Schema => ({ type: 'string', minLength, maxLength })),
  fc.constantFrom(...patterns).map((pattern): Schema => ({ type: 'string', pattern, maxLength: 20 })),
  fc.constantFrom(...patterns).map((pattern): Schema => ({ type: 'string', pattern })),
  fc.constantFrom(...formats).map((format): Schema => ({ type: 'string', format })),
);
const plainValue = fc.oneof(
  fc.constantFrom<unknown>(null, true, false, 0, -3, 2.5, 'red', 'a "b"\\', 'é😀', ''),
  fc.constantFrom<unknown>([1, 'x'], { k: [null] }, [], {}),
);
const leaf: fc.Arbitrary<Schema> = fc.oneof(
  integer,
  number,
  string,
  fc.constantFrom<Schema>({ type: 'boolean' }, { type: 'null' }),
  fc
    .uniqueArray(plainValue, { minLength: 1, maxLength: 4, selector: (value) => JSON.stringify(value) })
    .map((values): Schema => ({ enum: values })),
  plainValue.map((value): Schema => ({ const: value })),
  fc.constant<Schema>({ type: ['null', 'integer'], maximum: 9 }),
);

const names = fc.uniqueArray(fc.constantFrom('a', 'ab', 'b', 'name', 'a/b', 'q"', 'ü', '$id', 'x y'), {
  minLength: 1,
  maxLength: 4,
});
/** Objects of the named members; `closed` says what others may be. */
const members = (keys: string[], inner: fc.Arbitrary<Schema>) =>
  fc
    .tuple(
      fc.array(inner, { minLength: keys.length, maxLength: keys.length }),
      fc.array(fc.boolean(), { minLength: keys.length, maxLength: keys.length }),
    )
    .map(
      ([schemas, must]): Schema => ({
        type: 'object',
        properties: Object.fromEntries(keys.map((key, i) => [key, schemas[i]])),
        required: keys.filter((_, i) => must[i]),
      }),
    );

function object(inner: fc.Arbitrary<Schema>): fc.Arbitrary<Schema> {
  const rest = fc.oneof(
    { weight: 3, arbitrary: fc.constant<unknown>(false) },
    { weight: 2, arbitrary: leaf as fc.Arbitrary<unknown> },
  );
  return fc
    .tuple(names, rest)
    .chain(([keys, additionalProperties]) => members(keys, inner).map((made) => ({ ...made, additionalProperties })));
}

function array(inner: fc.Arbitrary<Schema>): fc.Arbitrary<Schema> {
  return fc
    .tuple(bounds(0, 4), inner, fc.array(inner, { maxLength: 2 }), fc.boolean())
    .map(([[low, high], items, first, closed]): Schema => {
      if (first.length === 0) return { type: 'array', items, minItems: low, maxItems: high };
      if (closed) return { type: 'array', prefixItems: first, items: false, minItems: Math.min(low, first.length) };
      return { type: 'array', prefixItems: first, items, minItems: low, maxItems: high };
    });
}

function combined(inner: fc.Arbitrary<Schema>): fc.Arbitrary<Schema> {
  const tagged = (tag: string, schema: Schema): Schema => ({
    type: 'object',
    properties: { tag: { const: tag }, body: schema },
    required: ['tag', 'body'],
    additionalProperties: false,
  });
  return fc.oneof(
    fc.array(inner, { minLength: 1, maxLength: 3 }).map((anyOf): Schema => ({ anyOf })),
    fc
      .array(inner, { minLength: 1, maxLength: 3 })
      .map((list): Schema => ({ oneOf: list.map((schema, i) => tagged(`t${i}`, schema)) })),
    fc
      .tuple(members(['a', 'b'], inner), members(['c', 'd'], inner))
      .map(([one, two]): Schema => ({ allOf: [one, two] })),
    fc
      .tuple(members(['a', 'b'], inner), integer)
      .map(([one, more]): Schema => ({ ...one, allOf: [{ properties: { c: more }, required: ['c'] }] })),
  );
}

const recursive = (inner: fc.Arbitrary<Schema>): fc.Arbitrary<Schema> =>
  inner.map(
    (value): Schema => ({
      $defs: {
        node: {
          type: 'object',
          properties: {
            value,
            next: { anyOf: [{ type: 'null' }, { $ref: '#/$defs/node' }] },
            list: { type: 'array', items: { $ref: '#/$defs/node' }, maxItems: 2 },
          },
          required: ['value', 'next'],
          additionalProperties: false,
        },
      },
      $ref: '#/$defs/node',
    }),
  );

const nested = (depth: number): fc.Arbitrary<Schema> => {
  if (depth === 0) return leaf;
  const inner = nested(depth - 1);
  return fc.oneof(leaf, object(inner), object(inner), array(inner), combined(inner));
};
const anySchema = fc.oneof({ weight: 6, arbitrary: nested(2) }, { weight: 1, arbitrary: recursive(leaf) });

describe('structured output, judged by Ajv', () => {
  it('draws only valid documents from random schemas', async () => {
    const judged: Judged[] = [];
    const several = fc.array(fc.tuple(anySchema, fc.nat(1_000_000)), { minLength: 4, maxLength: 4 });
    const property = fc.asyncProperty(several, async (cases) => {
      for (const one of await Promise.all(cases.map(([schema, seed]) => judge(schema, seed)))) judged.push(...one);
    });
    // HEARTH_SCHEMA_RUNS and HEARTH_SCHEMA_SEED search longer and elsewhere.
    const numRuns = Number(process.env.HEARTH_SCHEMA_RUNS ?? 40);
    const seed = Number(process.env.HEARTH_SCHEMA_SEED ?? 8);
    await fc.assert(property, { numRuns, seed, endOnFailure: true, interruptAfterTimeLimit: numRuns * 300 });
    const finished = judged.filter(({ reason }) => reason === 'stop').length;
    expect(judged.length).toBeGreaterThanOrEqual(4);
    expect(finished).toBeGreaterThan(judged.length / 3);
  }, 600_000);

  it('reads beginnings of JSON as such, and nothing else', () => {
    for (const text of ['', '{"a', '{"a":[1, {"b":"\\', '[', '{', '-', '1.', '12e', '"\\ud8', 'tr', '[1,', '{"a":1}'])
      expect(() => expectJsonPrefix(text), text).not.toThrow();
    for (const text of ['x', '{a', '{"a" 1', '[1 2', '[,', '{"a":1}}', 'trx', '"\n"', '01', '1.x', '{"a":1,}'])
      expect(() => expectJsonPrefix(text), text).toThrow();
  });
});

// ---- Every keyword by name ----

const anyOther = { additionalProperties: false };
const word = { type: 'string', maxLength: 6 };
const named: Record<string, Schema> = {
  'type null': { type: 'null' },
  'type boolean': { type: 'boolean' },
  'type integer': { type: 'integer' },
  'type number': { type: 'number' },
  'several types': { type: ['boolean', 'integer', 'null'] },
  enum: { enum: ['x', 1, null, { deep: [true] }] },
  const: { const: { answer: 42 } },
  'properties, required': {
    type: 'object',
    properties: { a: word, b: { type: 'integer' }, c: word },
    required: ['b'],
    ...anyOther,
  },
  'additionalProperties false': { type: 'object', properties: { a: { type: 'null' } }, ...anyOther },
  'additionalProperties schema': {
    type: 'object',
    properties: { a: { type: 'null' } },
    required: ['a'],
    additionalProperties: { type: 'boolean' },
  },
  items: { type: 'array', items: { type: 'boolean' }, maxItems: 9 },
  'items false': { type: 'array', prefixItems: [word], items: false },
  prefixItems: {
    type: 'array',
    prefixItems: [{ const: 'k' }, { type: 'integer' }],
    items: { type: 'null' },
    minItems: 2,
    maxItems: 5,
  },
  minItems: { type: 'array', items: { type: 'null' }, minItems: 3, maxItems: 12 },
  maxItems: { type: 'array', items: { type: 'integer' }, maxItems: 2 },
  minimum: { type: 'integer', minimum: 17 },
  maximum: { type: 'number', maximum: -0.5 },
  exclusiveMinimum: { type: 'number', exclusiveMinimum: 0.1, maximum: 0.2 },
  exclusiveMaximum: { type: 'number', minimum: 9, exclusiveMaximum: 10 },
  minLength: { type: 'string', minLength: 5, maxLength: 9 },
  maxLength: { type: 'string', maxLength: 3 },
  'pattern, anchored': { type: 'string', pattern: '^[A-Z]{3}\\d+$', maxLength: 8 },
  'pattern, anywhere': { type: 'string', pattern: '\\d[a-c]', maxLength: 8 },
  'pattern, unicode': { type: 'string', pattern: '^[\\u{1f600}-\\u{1f64f}é]{2,4}$' },
  anyOf: { anyOf: [{ type: 'integer' }, { type: 'object', properties: { a: word }, required: ['a'], ...anyOther }] },
  'anyOf beside other keywords': {
    type: ['string', 'integer'],
    anyOf: [
      { maxLength: 3, type: 'string' },
      { type: 'integer', maximum: 5 },
    ],
  },
  oneOf: {
    oneOf: ['cat', 'dog'].map((kind) => ({
      type: 'object',
      properties: { kind: { const: kind }, [kind]: word },
      required: ['kind', kind],
      ...anyOther,
    })),
  },
  allOf: {
    allOf: [
      { type: 'object', properties: { a: { type: 'integer' } }, required: ['a'] },
      { properties: { a: { minimum: 5, maximum: 50 }, b: word }, required: ['b'] },
    ],
  },
  '$ref, $defs': {
    $defs: { side: { enum: ['left', 'right'] } },
    type: 'array',
    items: { $ref: '#/$defs/side' },
    minItems: 1,
    maxItems: 4,
  },
  '$ref, recursion': {
    $defs: {
      list: {
        anyOf: [
          { type: 'null' },
          { type: 'object', properties: { next: { $ref: '#/$defs/list' } }, required: ['next'], ...anyOther },
        ],
      },
    },
    $ref: '#/$defs/list',
  },
  definitions: {
    type: 'object',
    properties: { at: { $ref: '#/definitions/at' } },
    required: ['at'],
    ...anyOther,
    definitions: { at: { type: 'integer', minimum: 0 } },
  },
  annotations: {
    title: 't',
    description: 'd',
    default: 1,
    examples: [2],
    $comment: 'c',
    deprecated: false,
    readOnly: true,
    type: 'integer',
  },
};
for (const format of formats) named[`format ${format}`] = { type: 'string', format };

describe('each keyword', () => {
  it.each(Object.entries(named))('%s', async (_name, schema) => {
    const judged = await judge(schema, 11, 3);
    expect(judged.map(({ reason }) => reason)).toContain('stop');
  });

  it.each([
    [
      'multipleOf',
      { type: 'object', properties: { n: { type: 'integer', multipleOf: 3 } } },
      '#/properties/n/multipleOf',
    ],
    ['uniqueItems', { type: 'array', items: { type: 'array', uniqueItems: true } }, '#/items/uniqueItems'],
    ['not', { not: { type: 'null' } }, '#/not'],
    ['if', { $defs: { a: { if: {} } }, $ref: '#/$defs/a' }, '#/$defs/a/if'],
    ['contains', { type: 'array', prefixItems: [{ contains: {} }] }, '#/prefixItems/0/contains'],
    ['patternProperties', { type: 'object', patternProperties: { a: {} } }, '#/patternProperties'],
    ['minProperties', { anyOf: [{ type: 'null' }, { type: 'object', minProperties: 1 }] }, '#/anyOf/1/minProperties'],
    ['an unknown format', { type: 'string', format: 'regex' }, '#/format'],
    ['look-around', { type: 'string', pattern: '(?=a)' }, '#/pattern'],
    ['a reference elsewhere', { $ref: 'https://example.org/schema' }, '#/$ref'],
    ['a keyword nobody knows', { type: 'object', properties: { 'a/b': { kind: 1 } } }, '#/properties/a~1b/kind'],
  ])('%s is refused by its JSON path', async (_name, schema, path) => {
    const { status, body } = await answer(schema, 1, 1);
    expect(status).toBe(400);
    expect(body.error.type).toBe('invalid_request_error');
    expect(body.error.message).toContain(path);
  });
});

it('a model that could think and does not is held to the schema from its first word', async () => {
  const template = join(mkdtempSync(join(tmpdir(), 'hearth-template-')), 'thinking.jinja');
  const turns =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}";
  writeFileSync(template, `${turns}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}`);
  const other = await startRealServer(['--chat-template', template]);
  try {
    const schema = {
      type: 'object',
      properties: { animal: { enum: ['cat', 'dog'] }, legs: { type: 'integer', minimum: 0, maximum: 9 } },
      required: ['animal', 'legs'],
      additionalProperties: false,
    };
    const post = async (path: string, body: object) => {
      const headers = { 'content-type': 'application/json' };
      return (await fetch(other.url + path, { method: 'POST', headers, body: JSON.stringify(body) })).json();
    };
    // Thoughts of this model would not end: the way to them is all but closed.
    const { tokens } = (await post('/tokenize', { prompt: '<', add_special_tokens: false })) as { tokens: number[] };
    const { choices } = (await post('/v1/chat/completions', {
      messages: [{ role: 'user', content: 'Tell me a story about a cat.' }],
      response_format: { type: 'json_schema', json_schema: { name: 'animal', schema, strict: true } },
      logit_bias: Object.fromEntries(tokens.map((id) => [id, -100])),
      max_tokens: 60,
    })) as Answer;
    expect(choices[0]!.finish_reason).toBe('stop');
    expect(ajv.validate(schema, JSON.parse(choices[0]!.message.content))).toBe(true);
  } finally {
    await other.stop();
  }
});
