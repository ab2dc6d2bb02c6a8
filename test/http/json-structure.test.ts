// Bodies that would hold up everyone while they are parsed are refused unparsed; long ones of ordinary shape are not.

import supertest from 'supertest';
import { afterEach, describe, expect, it } from 'vitest';
import { refuseIntricate } from '../../server/http/json-structure.ts';
import { chatBody, type TestApp, testApp } from '../support/app.ts';

const passes = (text: string) => expect(() => refuseIntricate(Buffer.from(text))).not.toThrow();
const refused = (text: string) => expect(() => refuseIntricate(Buffer.from(text))).toThrow(/too many parts/);
const list = (one: string, count: number) => `[${Array(count).fill(one).join(',')}]`;

describe('the structure of a body', () => {
  it('is refused from some hundred thousand parts on', () => {
    refused('['.repeat(200_000));
    refused('{"a":'.repeat(100_000));
    refused(list('{}', 140_000));
    refused(list('""', 310_000));
    refused(list('1', 1_600_000));
    refused(`{${Array.from({ length: 120_000 }, (_, index) => `"k${index}":1`)}}`);
  });

  it('may be that of the largest requests people make', () => {
    passes(list('151645', 1_048_576)); // token ids
    passes(JSON.stringify({ messages: Array(16_384).fill({ role: 'user', content: 'Hello' }) }));
    passes(`{"logit_bias":{${Array.from({ length: 60_000 }, (_, index) => `"${index}":-1.5`)}}}`);
  });

  it('is not what strings hold', () => {
    const text = '[{,:'.repeat(500_000);
    passes(JSON.stringify({ messages: [{ role: 'user', content: text }] }));
    passes(JSON.stringify({ [`"${text}\\`]: `\\"${text}\\` }));
    refused(JSON.stringify({ a: `${text}\\"` }) + '['.repeat(200_000));
  });

  it('of what is no JSON is left to the parser', () => {
    passes(`"${'['.repeat(2_000_000)}`);
    passes('\\'.repeat(2_000_000));
  });
});

describe('over HTTP', () => {
  let current: TestApp;
  afterEach(() => current.close());

  it('a body of brackets is a 413 on every route, and large ordinary ones are answered', async () => {
    current = await testApp();
    const post = (path: string, body: string | object) =>
      supertest(current.app.server).post(path).set('content-type', 'application/json').send(body);
    for (const path of ['/v1/chat/completions', '/v1/messages', '/v1/responses', '/v1/completions', '/tokenize']) {
      const answer = await post(path, '['.repeat(2_000_000));
      expect([answer.status, answer.body.error.message]).toEqual([413, expect.stringMatching(/too many parts/)]);
    }
    const content = '[{'.repeat(100_000);
    expect((await post('/v1/chat/completions', chatBody({ messages: [{ role: 'user', content }] }))).status).toBe(200);
  });
});
