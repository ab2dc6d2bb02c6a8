// openapi.yaml is what the code says, and every answer is what openapi.yaml says.

import { readFileSync } from 'node:fs';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { makeOpenapi } from '../../server/http/openapi.ts';
import { chatRequestSchema } from '../../server/openai/chat.ts';
import { completionRequestSchema } from '../../server/openai/completions.ts';
import { ask, post, server } from './support.ts';

const committed = parse(readFileSync(new URL('../../openapi.yaml', import.meta.url), 'utf8'));

type Operation = { responses: Record<string, { content: Record<string, { schema: object }> }> };
const operation = (path: string, method: string) => committed.paths[path][method] as Operation;

describe('openapi.yaml', () => {
  it('is up to date: npm run openapi writes it', async () => {
    const app = await server();
    expect(JSON.parse(JSON.stringify(makeOpenapi(app.app.definitions)))).toEqual(committed);
    const served = await fetch(`${app.url}/openapi.json`);
    // Only where it is served differs: by how it was asked for.
    expect(await served.json()).toEqual({ ...(committed as object), servers: [{ url: app.url }] });
  });

  it('describes what is answered', async () => {
    const app = await server({
      reply: () => ({ tokens: ['a', 'b'], embedding: [1, 2] }),
    });
    const ajv = new Ajv2020({ strict: false, formats: { uri: true } });
    ajv.addSchema({ $id: 'root', components: committed.components });
    const check = async (path: string, method: string, response: Response) => {
      const { responses } = operation(path, method);
      const { content } = response.ok ? responses['200']! : responses['default']!;
      const schema = JSON.parse(JSON.stringify(content['application/json']!.schema).replaceAll('"#/', '"root#/'));
      const body = await response.json();
      const valid = ajv.validate(schema, body);
      expect([path, response.status, valid ? null : ajv.errors]).toEqual([path, response.status, null]);
    };
    const get = (path: string) => fetch(app.url + path);
    const chat = '/v1/chat/completions';
    await check(chat, 'post', await post(app, chat, ask()));
    await check(chat, 'post', await post(app, chat, ask({ n: 2, logprobs: true, top_logprobs: 3 })));
    await check(chat, 'post', await post(app, chat, {}));
    await check(
      '/v1/completions',
      'post',
      await post(app, '/v1/completions', { prompt: 'x', echo: true, logprobs: 2 }),
    );
    await check('/v1/embeddings', 'post', await post(app, '/v1/embeddings', { input: ['x', 'y'] }));
    await check('/v1/embeddings', 'post', await post(app, '/v1/embeddings', { input: 'x', encoding_format: 'base64' }));
    await check('/tokenize', 'post', await post(app, '/tokenize', { prompt: 'x' }));
    await check('/detokenize', 'post', await post(app, '/detokenize', { tokens: [72] }));
    await check('/apply-template', 'post', await post(app, '/apply-template', ask()));
    await check('/v1/models', 'get', await get('/v1/models'));
    await check('/v1/models/{id}', 'get', await get('/v1/models/tiny'));
    await check('/v1/models/{id}', 'get', await get('/v1/models/other'));
    await check('/health', 'get', await get('/health'));
  });
});

describe('docs/api.md', () => {
  const text = readFileSync(new URL('../../docs/api.md', import.meta.url), 'utf8');
  for (const [route, schema] of [
    ['/v1/chat/completions', chatRequestSchema],
    ['/v1/completions', completionRequestSchema],
  ] as const) {
    it(`names every field of ${route}`, () => {
      const missing = Object.keys(schema.shape).filter((field) => !new RegExp(`\`${field}[\`:]`).test(text));
      expect(missing).toEqual([]);
    });
  }
});
