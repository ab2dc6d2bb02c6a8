// Large bodies: photographs stay bytes, everything else is what JSON.parse makes of it.

import { readFileSync } from 'node:fs';
import supertest from 'supertest';
import { afterEach, describe, expect, it } from 'vitest';
import { LongStrings } from '../../server/http/long-strings.ts';
import { type TestApp, testApp } from '../support/app.ts';

const long = 'q'.repeat(40_000);
const photo = readFileSync(new URL('../fixtures/images/exif-Landscape_1.jpg', import.meta.url)).toString('base64');

function through(body: unknown, text = JSON.stringify(body)) {
  const strings = new LongStrings();
  const value = JSON.parse(strings.take(Buffer.from(text)).toString());
  strings.restore(value);
  return { value, strings };
}

describe('long strings of a body', () => {
  it('come back wherever they stood, with whatever they held', () => {
    const bodies = [
      { a: long },
      [long, { b: [long, 'short'] }],
      { messages: [{ role: 'user', content: long }] },
      { messages: [{ content: [{ type: 'text', text: long }] }] },
      { messages: [{ content: [{ type: 'text', url: long, image_url: { url: long } }] }] },
      {
        messages: [
          { content: [{ type: 'tool_result', content: long }, null, { type: 'tool_result', content: [null] }] },
        ],
      },
      { tools: [{ type: 'image_url', image_url: { url: long } }] },
      { a: `${long}"quoted" \\ "` },
      { a: `\\${long}\\` },
      { a: 'ü€😀'.repeat(9000) },
      { [long]: 1 },
      { a: `data:image/png;base64,${long}` },
    ];
    for (const body of bodies) {
      if (JSON.stringify(body).startsWith(`{"${long}`)) continue; // keys are looked at below
      expect(through(body).value).toEqual(body);
    }
  });

  it('as keys are refused or kept, never lost in silence', () => {
    const { value } = through({ [long]: 1 });
    expect(Object.values(value)).toEqual([1]);
  });

  it('in image parts stay bytes', () => {
    const url = `data:image/jpeg;base64,${long}`;
    const { value, strings } = through({ messages: [{ content: [{ type: 'image_url', image_url: { url } }] }] });
    const source = strings.sourceOf(value.messages[0].content[0].image_url.url);
    expect(source).toEqual({ head: 'data:image/jpeg;base64', base64: Buffer.from(long) });
    const block = { type: 'image', source: { type: 'base64', media_type: 'image/png', data: long } };
    const anthropic = through({ messages: [{ content: [block, { type: 'tool_result', content: [block] }] }] });
    const [shown, result] = anthropic.value.messages[0].content;
    for (const { data } of [shown.source, result.content[0].source]) {
      expect(anthropic.strings.sourceOf(`data:image/png;base64,${data}`)).toEqual({
        head: 'data:image/png;base64',
        base64: Buffer.from(long),
      });
    }
  });

  it('cannot be named by a client', () => {
    const { strings } = through({ a: long });
    expect(strings.sourceOf('long-string:00000000-0000-0000-0000-000000000000:0')).toMatch(/^long-string/);
  });

  it('broken JSON stays broken', () => {
    for (const text of [`{"a":"${long}`, `{"a":"${long}"`, `{"a":"${long}\\"}`, `"${long}" "${long}"`]) {
      expect(() => through(null, text)).toThrow(SyntaxError);
    }
  });
});

describe('large bodies over HTTP', () => {
  let current: TestApp;
  afterEach(() => current.close());
  const vision = { family: 'test', placeholder: '<image>', tokensPerImage: 4 };
  const post = (path: string, body: object | string) =>
    supertest(current.app.server).post(path).set('content-type', 'application/json').send(body);

  it('a photograph reaches the engine, by OpenAI’s route and by Anthropic’s', async () => {
    current = await testApp({ models: [{ vision }] });
    const url = `data:image/jpeg;base64,${photo}`;
    const content = [
      { type: 'image_url', image_url: { url } },
      { type: 'text', text: long },
    ];
    expect((await post('/v1/chat/completions', { messages: [{ role: 'user', content }] })).status).toBe(200);
    const source = { type: 'base64', media_type: 'image/jpeg', data: photo };
    const blocks = [
      { type: 'image', source },
      { type: 'text', text: long },
    ];
    const messages = [{ role: 'user', content: blocks }];
    expect((await post('/v1/messages', { messages, max_tokens: 9 })).status).toBe(200);
    for (const request of current.engine.requests) {
      expect(request.images![0]).toMatchObject({ width: 1800, height: 1200 });
      expect(request.text).toContain(long);
    }
  });

  it('errors are those of small bodies', async () => {
    current = await testApp({ models: [{ vision }] });
    const part = (url: string) => ({ type: 'image_url', image_url: { url } });
    for (const [url, words] of [
      [`data:image/jpeg;base64,!${photo}`, /base64 of the image is damaged/],
      [`data:image/jpeg,${photo}`, /must hold base64/],
      [`x${photo}`, /must hold base64|not fetched/],
      [`data:image/jpeg;base64,${photo.slice(400)}`, /not JPEG/],
    ] as const) {
      const answer = await post('/v1/chat/completions', { messages: [{ role: 'user', content: [part(url)] }] });
      expect([answer.status, answer.body.error.param]).toEqual([400, 'messages[0].content[0]']);
      expect(answer.body.error.message).toMatch(words);
    }
    const polluted = await post('/v1/chat/completions', `{"__proto__":{"a":1},"x":"${photo}"}`);
    expect(polluted.status).toBe(400);
  });
});
