// GET /docs: the OpenAPI document as a page for people. Written here, whole: no script, nothing from elsewhere.

import { createHash } from 'node:crypto';
import type { FastifyInstance } from 'fastify';
import { makeOpenapi } from './openapi.ts';
import { addRoute } from './routes.ts';

interface Schema {
  type?: string | string[];
  description?: string;
  properties?: Record<string, Schema>;
  required?: string[];
  items?: Schema;
  anyOf?: Schema[];
  oneOf?: Schema[];
  enum?: unknown[];
  const?: unknown;
  $ref?: string;
  [bound: string]: unknown;
}

interface Operation {
  summary: string;
  operationId: string;
  security?: unknown[];
  requestBody?: { content: Record<string, { schema: Schema }> };
  responses: Record<string, { description: string; content?: Record<string, { schema: Schema }> }>;
}

/** The look of server/web: its colours, light and dark. */
const style = `
:root{--ground:#faf8f5;--raised:#fff;--line:#ddd6cc;--text:#221d19;--muted:#665d54;--accent:#b5420f;--code:#f3efe9;
color-scheme:light dark;font:16px/1.6 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
@media(prefers-color-scheme:dark){:root{--ground:#171412;--raised:#25201c;--line:#3b342e;--text:#f0ebe5;--muted:#ada297;
--accent:#ff8a55;--code:#1f1b18}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--text)}
main{max-width:56rem;margin:0 auto;padding:2rem 1rem 4rem}
h1{font-size:1.6rem;margin:0}
h2{font-size:1.05rem;margin:0;display:inline}
h3{font-size:.9rem;margin:1rem 0 .3rem;color:var(--muted)}
a{color:var(--accent)}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
code,.path{font-family:ui-monospace,"Cascadia Mono",Menlo,monospace;font-size:.9em}
nav ul{columns:2 16rem;padding:0;list-style:none}
section>details{background:var(--raised);border:1px solid var(--line);border-radius:14px;padding:.7rem 1rem;margin:.7rem 0}
summary{cursor:pointer}
.method{display:inline-block;min-width:3.5rem;font-weight:600;color:var(--accent)}
.muted{color:var(--muted)}
dl{margin:.2rem 0;padding:0 0 0 .8rem;border-left:2px solid var(--line)}
dt{margin-top:.4rem}
dd{margin:0 0 0 .8rem;overflow-wrap:anywhere}
.need{color:var(--accent);font-size:.8rem}
`;

const policy = [
  "default-src 'none'",
  `style-src 'sha256-${createHash('sha256').update(style).digest('base64')}'`,
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

const entities: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
const escaped = (value: unknown) => String(value).replace(/[&<>"']/g, (letter) => entities[letter]!);

/** Deeper than this a schema is named, not unfolded. */
const depthMax = 5;

const bounds: Record<string, string> = {
  minimum: '≥',
  exclusiveMinimum: '>',
  maximum: '≤',
  exclusiveMaximum: '<',
  minLength: 'length ≥',
  maxLength: 'length ≤',
  minItems: 'items ≥',
  maxItems: 'items ≤',
  pattern: 'pattern',
};

/** Beyond a double's whole numbers a bound says only that the value is one. */
const isTelling = (value: unknown) => typeof value !== 'number' || Math.abs(value) < Number.MAX_SAFE_INTEGER;

function typeOf(schema: Schema): string {
  if (schema.$ref) return escaped(schema.$ref.split('/').at(-1));
  if (schema.const !== undefined) return `<code>${escaped(JSON.stringify(schema.const))}</code>`;
  if (schema.enum) return schema.enum.map((one) => `<code>${escaped(JSON.stringify(one))}</code>`).join(' · ');
  const options = schema.anyOf ?? schema.oneOf;
  if (options) return [...new Set(options.map(typeOf))].join(' or ');
  if (schema.items) return `array of ${typeOf(schema.items)}`;
  const limits = Object.entries(bounds)
    .filter(([key]) => schema[key] !== undefined && isTelling(schema[key]))
    .map(([key, word]) => `${word} ${escaped(schema[key])}`);
  return [escaped([schema.type ?? 'any'].flat().join(' or ')), ...limits].join(', ');
}

/** Every object inside a schema: what has fields to list. */
function objectsOf(schema: Schema): Schema[] {
  if (schema.properties) return [schema];
  if (schema.items) return objectsOf(schema.items);
  return (schema.anyOf ?? schema.oneOf ?? []).flatMap(objectsOf);
}

function fields(schema: Schema, depth: number): string {
  if (depth > depthMax) return '';
  return objectsOf(schema)
    .map((object) => {
      const items = Object.entries(object.properties!).map(([name, field]) => {
        const need = object.required?.includes(name) ? ' <span class="need">required</span>' : '';
        const note = field.description ? `<div>${escaped(field.description)}</div>` : '';
        return `<dt><code>${escaped(name)}</code>${need} <span class="muted">${typeOf(field)}</span></dt><dd>${note}${fields(field, depth + 1)}</dd>`;
      });
      return `<dl>${items.join('')}</dl>`;
    })
    .join('');
}

function contents(title: string, content: Record<string, { schema: Schema }>): string {
  return Object.entries(content)
    .map(
      ([type, { schema }]) =>
        `<h3>${title} <code>${escaped(type)}</code></h3>${fields(schema, 0) || `<p class="muted">${escaped(schema.description ?? '')} ${typeOf(schema)}</p>`}`,
    )
    .join('');
}

function operation(method: string, path: string, entry: Operation): string {
  const open = entry.security ? '<p class="muted">Answers without a key.</p>' : '';
  const body = entry.requestBody ? contents('Request', entry.requestBody.content) : '';
  const answer = contents('Answer', entry.responses['200']?.content ?? {});
  return (
    `<section id="${escaped(entry.operationId)}"><details><summary><span class="method">${method.toUpperCase()}</span> ` +
    `<h2 class="path">${escaped(path)}</h2> <span class="muted">${escaped(entry.summary)}</span></summary>` +
    `${open}${body}${answer}</details></section>`
  );
}

/** The page of an OpenAPI document. */
export function docsPage(document: Record<string, unknown>): string {
  const paths = Object.entries(document['paths'] as Record<string, Record<string, Operation>>);
  const all = paths.flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, entry]) => ({ path, method, entry })),
  );
  const links = all.map(
    ({ path, method, entry }) =>
      `<li><a href="#${escaped(entry.operationId)}"><span class="path">${method.toUpperCase()} ${escaped(path)}</span></a></li>`,
  );
  const error = (document['components'] as { schemas: Record<string, Schema> }).schemas['Error']!;
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Hearth API</title>' +
    `<meta name="viewport" content="width=device-width,initial-scale=1"><style>${style}</style></head><body><main>` +
    `<h1>Hearth API</h1><p>${escaped((document['info'] as { description: string }).description)} ` +
    'For programs: <a href="openapi.json">openapi.json</a>.</p>' +
    `<nav aria-label="Routes"><ul>${links.join('')}</ul></nav>` +
    all.map(({ path, method, entry }) => operation(method, path, entry)).join('') +
    `<section id="errors"><details><summary><h2>Errors</h2></summary>${fields(error, 0)}</details></section>` +
    '</main></body></html>'
  );
}

export function docs(app: FastifyInstance): void {
  let made: string | null = null;
  addRoute(app, {
    method: 'GET',
    url: '/docs',
    summary: 'This document as a page',
    responseType: 'text/html',
    open: true,
    handler: (_request, reply) => {
      made ??= docsPage(makeOpenapi(app.definitions));
      return reply
        .header('content-type', 'text/html; charset=utf-8')
        .header('content-security-policy', policy)
        .header('referrer-policy', 'no-referrer')
        .send(made);
    },
  });
}
