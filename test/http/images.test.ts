// Pictures in chat requests: where they go, and what is said when one is wrong.

import { readFileSync } from 'node:fs';
import supertest from 'supertest';
import { afterEach, describe, expect, it } from 'vitest';
import { type TestApp, testApp } from '../support/app.ts';

let current: TestApp;
afterEach(() => current.close());

const png = readFileSync(new URL('../fixtures/images/pillow-hopper.png', import.meta.url)).toString('base64');
const part = (url: string) => ({ type: 'image_url', image_url: { url } });
const picture = part(`data:image/png;base64,${png}`);
const vision = { family: 'test', placeholder: '<image>', tokensPerImage: 4 };
const ask = (content: unknown) =>
  supertest(current.app.server)
    .post('/v1/chat/completions')
    .send({
      messages: [
        { role: 'system', content: 's' },
        { role: 'user', content },
      ],
    });

describe('pictures', () => {
  it('go to the engine in order, their places marked by the placeholder outside the literal text', async () => {
    current = await testApp({ models: [{ vision }] });
    const answer = await ask([
      { type: 'text', text: 'Is <image> like' },
      picture,
      { type: 'text', text: 'this?' },
      picture,
    ]);
    expect(answer.status).toBe(200);
    const request = current.engine.requests[0]!;
    expect(request.images).toHaveLength(2);
    expect(request.images![0]).toMatchObject({ width: 128, height: 128, detail: 'auto' });
    const bytes = Buffer.from(request.text);
    const typed = request.literal.map(([begin, end]) => bytes.subarray(begin, end).toString());
    expect(typed).toEqual(['s', 'Is <image> like', 'this?']);
    const outside = request.text.replace('Is <image> like', '');
    expect(outside.match(/<image>/g)).toHaveLength(2);
  });

  it('reach a template that takes parts as {type: image}', async () => {
    const chatTemplate =
      '{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}' +
      "{% if c.type == 'image' %}[IMG]{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}{% endfor %}";
    current = await testApp({ models: [{ vision, chatTemplate }] });
    await ask([picture, { type: 'text', text: 'what?' }]);
    expect(current.engine.requests[0]!.text).toBe('s[IMG]what?');
  });

  it('errors name message and part', async () => {
    current = await testApp({ models: [{ vision }], settings: { maxImages: 2 } });
    const broken = await ask([{ type: 'text', text: 'x' }, picture, part('data:image/png;base64,AAAA')]);
    expect(broken.status).toBe(400);
    expect(broken.body.error).toMatchObject({ code: 'invalid_image', param: 'messages[1].content[2]' });
    const many = await ask([picture, picture, picture]);
    expect(many.body.error).toMatchObject({ code: 'invalid_image', param: 'messages[1].content[2]' });
    const url = await ask([part('http://127.0.0.1/x.png')]);
    expect(url.body.error).toMatchObject({ code: 'invalid_image', param: 'messages[1].content[0]' });
    expect(current.engine.requests).toHaveLength(0);
  });

  it('may be released by the one request that has them, and not where several choices share them', async () => {
    current = await testApp({ models: [{ vision }] });
    for (const n of [1, 2]) {
      const messages = [{ role: 'user', content: [picture] }];
      const answer = await supertest(current.app.server).post('/v1/chat/completions').send({ messages, n });
      expect(answer.status).toBe(200);
    }
    const releases = current.engine.requests.map(({ images }) => typeof images![0]!.release);
    expect(releases).toEqual(['function', 'undefined', 'undefined']);
    expect(current.engine.requests.map(({ images }) => images![0]!.pixels.length)).toEqual(
      Array(3).fill(128 * 128 * 3),
    );
  });

  it('are refused by a model that takes none', async () => {
    current = await testApp();
    const answer = await ask([picture]);
    expect([answer.status, answer.body.error.code]).toEqual([400, 'invalid_image']);
  });
});

describe('parts that are not pictures', () => {
  const refused = async (path: string, body: object, param: string, words: RegExp) => {
    const answer = await supertest(current.app.server).post(path).send(body);
    expect([answer.status, answer.body.error.param]).toEqual([400, param]);
    expect(answer.body.error.message).toMatch(words);
  };
  const video = { type: 'video_url', video_url: { url: 'data:video/mp4;base64,AAAA' } };

  it('videos are refused by name, from data: and from the web, in every route', async () => {
    current = await testApp({ models: [{ vision }] });
    for (const url of ['data:video/mp4;base64,AAAA', 'https://example.com/a.mp4']) {
      const messages = [{ role: 'user', content: [picture, { ...video, video_url: { url } }] }];
      await refused(
        '/v1/chat/completions',
        { messages },
        'messages[0].content[1].type',
        /'video_url': videos are not taken; send frames/,
      );
    }
    const input = [{ role: 'user', content: [{ type: 'input_video', video_url: 'x' }] }];
    await refused('/v1/responses', { input }, 'input[0].content[0].type', /videos are not taken/);
    const messages = [{ role: 'user', content: [{ type: 'video', source: {} }] }];
    await refused('/v1/messages', { messages, max_tokens: 9 }, 'messages[0].content[0].type', /videos are not taken/);
  });

  it('audio, files and unknown types are refused with what is taken', async () => {
    current = await testApp({ models: [{ vision }] });
    const body = (part: object) => ({ messages: [{ role: 'user', content: [part] }] });
    const param = 'messages[0].content[0].type';
    await refused('/v1/chat/completions', body({ type: 'input_audio', input_audio: {} }), param, /audio is not taken/);
    await refused(
      '/v1/chat/completions',
      body({ type: 'hologram' }),
      param,
      /'hologram': must be one of 'text', 'image_url'/,
    );
  });
});
