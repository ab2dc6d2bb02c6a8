// Every JSON answer of a test's server is held against openapi.yaml, whatever the test itself looks at.

import { readFileSync } from 'node:fs';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import { parse } from 'yaml';

type Content = Record<string, { schema: object }>;
type Operation = { responses: Record<string, { content: Content }> };
interface Document {
  paths: Record<string, Record<string, Operation>>;
  components: object;
}

const document = parse(readFileSync(new URL('../../openapi.yaml', import.meta.url), 'utf8')) as Document;
const ajv = new Ajv2020({ strict: false, formats: { uri: true } });
ajv.addSchema({ $id: 'root', components: document.components });
const compiled = new Map<object, ValidateFunction>();

function validator(schema: object): ValidateFunction {
  const known = compiled.get(schema);
  if (known) return known;
  const made = ajv.compile(JSON.parse(JSON.stringify(schema).replaceAll('"#/', '"root#/')));
  compiled.set(schema, made);
  return made;
}

/** Ids of models may hold slashes, and are last. */
const templated = Object.keys(document.paths)
  .filter((path) => path.includes('{id}'))
  .map((path) => ({ path, pattern: new RegExp(`^${path.replace(/\{id\}$/, '.+').replace('{id}', '[^/]+')}$`) }));

function operationOf(method: string, path: string): Operation | null {
  const known = document.paths[path] ?? document.paths[templated.find(({ pattern }) => pattern.test(path))?.path ?? ''];
  return known?.[method.toLowerCase()] ?? null;
}

/** What is wrong with an answer, or null. Errors of paths that are not in the document are still errors. */
export function problemOf(method: string, path: string, status: number, body: unknown): string | null {
  const operation = operationOf(method, path);
  const anthropic = path.startsWith('/v1/messages') && status >= 400;
  const content = operation?.responses[status < 300 ? '200' : 'default']?.content;
  const fallback = document.paths['/v1/models']!['get']!.responses['default']!.content;
  const schema = (content ?? (status >= 400 ? fallback : {}))['application/json']?.schema;
  if (!schema) return `${method} ${path} ${status}: openapi.yaml has no JSON answer`;
  const check = validator(schema);
  if (check(body)) return null;
  const [first] = check.errors!;
  // Anthropic's clients know errors in another shape; see app.ts.
  if (anthropic && (body as { type?: unknown }).type === 'error') return null;
  return `${method} ${path} ${status}: ${first!.instancePath} ${first!.message}: ${JSON.stringify(body).slice(0, 300)}`;
}

/** Collects the problems of every JSON answer that the server sends. */
export function watchAnswers(server: Server, basePath: string): string[] {
  const problems: string[] = [];
  server.prependListener('request', (request: IncomingMessage, response: ServerResponse) => {
    const pieces: Buffer[] = [];
    const keep = (piece: unknown) => {
      if (typeof piece === 'string' || piece instanceof Uint8Array) pieces.push(Buffer.from(piece as string));
    };
    const { write, end } = response;
    response.write = ((...given: Parameters<typeof write>) => {
      keep(given[0]);
      return write.apply(response, given);
    }) as typeof write;
    response.end = ((...given: unknown[]) => {
      keep(given[0]);
      return (end as (...all: unknown[]) => ServerResponse).apply(response, given);
    }) as typeof end;
    response.once('finish', () => {
      if (request.method === 'HEAD' || !String(response.getHeader('content-type')).startsWith('application/json'))
        return;
      const path = request.url!.split('?')[0]!.slice(basePath.length);
      const body = JSON.parse(Buffer.concat(pieces).toString()) as unknown;
      const problem = problemOf(request.method!, path, response.statusCode, body);
      if (problem) problems.push(problem);
    });
  });
  return problems;
}
