// What people look at beside the page: the API's documentation and the dashboard.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import supertest from 'supertest';
import { afterEach, describe, expect, it } from 'vitest';
import { chatBody, type TestApp, testApp } from '../support/app.ts';

let current: TestApp;
afterEach(() => current.close());
const get = (path: string) => supertest(current.app.server).get(path);

describe('GET /docs', () => {
  it('shows every route, every field of a request and its bounds, without a key', async () => {
    current = await testApp({ settings: { apiKey: ['k'] } });
    const { text, status, headers } = await get('/docs');
    expect([status, headers['content-type']]).toEqual([200, 'text/html; charset=utf-8']);
    const document = (await get('/openapi.json')).body;
    for (const [path, methods] of Object.entries(document.paths)) {
      expect(text).toContain(`>${path}</h2>`);
      for (const operation of Object.values(methods as object)) {
        expect(text).toContain(`<section id="${operation.operationId}">`);
        const schema = operation.requestBody?.content['application/json'].schema;
        for (const name of Object.keys(schema?.properties ?? {})) expect(text).toContain(`<code>${name}</code>`);
      }
    }
    expect(text).toContain('number, ≥ 0, ≤ 2');
    expect(text).toContain('<code>messages</code> <span class="need">required</span>');
  });

  it('needs nothing from elsewhere and runs no script', async () => {
    current = await testApp({ settings: { basePath: '/llm' } });
    const { text, headers } = await get('/llm/docs');
    const policy = headers['content-security-policy']!;
    expect(policy).toMatch(/^default-src 'none'; style-src 'sha256-[^']+'; base-uri/);
    const style = /<style>([\s\S]*?)<\/style>/.exec(text)![1]!;
    expect(policy).toContain(createHash('sha256').update(style).digest('base64'));
    expect(text).not.toMatch(/<script|https?:\/\/|style="|\son\w+=|url\(/i);
    // Relative, so that it is right behind a base path too.
    expect(text).toContain('href="openapi.json"');
  });
});

describe('docker/grafana/hearth.json', () => {
  const dashboard = JSON.parse(readFileSync(new URL('../../docker/grafana/hearth.json', import.meta.url), 'utf8'));
  const panels = dashboard.panels as Array<{
    id: number;
    title: string;
    type: string;
    targets?: Array<{ expr: string }>;
  }>;
  const expressions = panels.flatMap(({ targets }) => targets?.map(({ expr }) => expr) ?? []);

  it('asks only for metrics that are there, and shows every one of ours', async () => {
    current = await testApp({ models: [{}], settings: { requestsPerMinute: 1 } });
    await supertest(current.app.server).post('/v1/chat/completions').send(chatBody());
    await supertest(current.app.server).post('/v1/chat/completions').send(chatBody());
    const { text } = await get('/metrics');
    const known = new Set(
      [...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)].flatMap(([, name, type]) =>
        type === 'histogram' ? [`${name}_bucket`, `${name}_sum`, `${name}_count`] : [name!],
      ),
    );
    const used = new Set(
      expressions.flatMap((expression) => [...expression.matchAll(/([a-z_][a-z0-9_:]*)\{/g)].map((match) => match[1]!)),
    );
    expect(used.size).toBeGreaterThan(20);
    expect([...used].filter((name) => !known.has(name))).toEqual([]);
    const ours = [...text.matchAll(/^# TYPE ((?:vllm|hearth):\S+) /gm)].map((match) => match[1]!);
    expect(ours.filter((name) => !used.has(name) && !used.has(`${name}_bucket`))).toEqual([]);
  });

  it('groups only by labels that are there', async () => {
    current = await testApp({ settings: { requestsPerMinute: 1 } });
    current.engine.stats = () => ({ ...ScriptedStats(current), memory: [{ what: 'weights', bytes: 1 }] });
    for (let count = 0; count < 2; count++)
      await supertest(current.app.server).post('/v1/chat/completions').send(chatBody());
    const { text } = await get('/metrics');
    for (const expression of expressions) {
      const by = /sum by \(([a-z_, ]+)\) \((?:rate\()?([a-z_:]+)\{/.exec(expression);
      if (!by || by[1] === 'le' || by[2] === 'hearth:key_requests_waiting') continue;
      const sample = new RegExp(`^${by[2]}\\{(.*)\\}`, 'm').exec(text)?.[1];
      for (const label of by[1]!.split(', '))
        expect([by[2], sample]).toEqual([by[2], expect.stringContaining(`${label}="`)]);
    }
  });

  it('has panels with titles and ids of their own', () => {
    expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length);
    expect(panels.every(({ title }) => title.length > 0)).toBe(true);
  });
});

const ScriptedStats = (app: TestApp) => Object.getPrototypeOf(app.engine).stats.call(app.engine);
