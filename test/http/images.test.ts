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

describe('pictures in the results of tools', () => {
  const calls = [{ id: 'c1', type: 'function', function: { name: 'shoot', arguments: '{}' } }];
  const chat = (content: unknown, after: object[] = []) => ({
    messages: [
      { role: 'user', content: [picture, { type: 'text', text: 'Look.' }] },
      { role: 'assistant', content: null, tool_calls: calls },
      { role: 'tool', tool_call_id: 'c1', content },
      ...after,
    ],
  });
  const source = { type: 'base64', media_type: 'image/png', data: png };
  const anthropic = (content: unknown, ...after: object[]) => ({
    max_tokens: 9,
    messages: [
      { role: 'user', content: 'Look.' },
      { role: 'assistant', content: [{ type: 'tool_use', id: 'c1', name: 'shoot', input: {} }] },
      { role: 'user', content: [...after, { type: 'tool_result', tool_use_id: 'c1', content }] },
    ],
  });
  const responses = (output: unknown) => ({
    input: [
      { role: 'user', content: 'Look.' },
      { type: 'function_call', call_id: 'c1', name: 'shoot', arguments: '{}' },
      { type: 'function_call_output', call_id: 'c1', output },
    ],
  });
  const url = `data:image/png;base64,${png}`;
  const damaged = 'AAAA';
  const post = (path: string, body: object) => supertest(current.app.server).post(path).send(body);
  const turns = '{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}';

  it('reach the engine in the order of their places, by every route', async () => {
    current = await testApp({ models: [{ vision, chatTemplate: turns }] });
    const low = { type: 'image_url', image_url: { url, detail: 'low' } };
    const bodies: Array<[string, object]> = [
      ['/v1/chat/completions', chat([{ type: 'text', text: 'Shot:' }, low], [{ role: 'user', content: 'So?' }])],
      [
        '/v1/messages',
        anthropic(
          [
            { type: 'text', text: 'Shot:' },
            { type: 'image', source },
          ],
          { type: 'text', text: 'So?' },
        ),
      ],
      [
        '/v1/responses',
        responses([
          { type: 'input_text', text: 'Shot:' },
          { type: 'input_image', image_url: url, detail: 'low' },
        ]),
      ],
    ];
    for (const [path, body] of bodies) {
      const answer = await post(path, body);
      expect([path, answer.status]).toEqual([path, 200]);
    }
    const [first, second, third] = current.engine.requests;
    expect(first!.text).toBe('<user><image>\nLook.<assistant><tool>Shot:\n<image><user>So?');
    expect(first!.images).toMatchObject([{ detail: 'auto' }, { detail: 'low', width: 128 }]);
    expect(second!.text).toBe('<user>Look.<assistant><tool>Shot:\n<image><user>So?');
    expect(second!.images).toMatchObject([{ width: 128, height: 128 }]);
    expect(third!.text).toBe('<user>Look.<assistant><tool>Shot:\n<image>');
    expect(third!.images).toMatchObject([{ detail: 'low' }]);
  });

  it('of one message come before what else the user shows there, as their turns do', async () => {
    current = await testApp({ models: [{ vision, chatTemplate: turns }] });
    const large = readFileSync(new URL('../fixtures/images/exif-Landscape_1.jpg', import.meta.url)).toString('base64');
    const shown = { type: 'image', source: { type: 'base64', media_type: 'image/jpeg', data: large } };
    expect((await post('/v1/messages', anthropic([{ type: 'image', source }], shown))).status).toBe(200);
    const { text, images } = current.engine.requests[0]!;
    expect(text).toBe('<user>Look.<assistant><tool><image><user><image>');
    expect(images!.map(({ width }) => width)).toEqual([128, 1800]);
  });

  it('are counted with all others, and errors name the message and the part in it', async () => {
    current = await testApp({ models: [{ vision }], settings: { maxImages: 1 } });
    const refused = async (path: string, body: object, param: string, words: RegExp) => {
      const { status, body: said } = await post(path, body);
      expect([status, said.error.code, said.error.param]).toEqual([400, 'invalid_image', param]);
      expect(said.error.message).toMatch(words);
    };
    await refused('/v1/chat/completions', chat([picture]), 'messages[2].content[0]', /at most 1 images/);
    const bad = { type: 'base64', media_type: 'image/png', data: damaged };
    const result = [
      { type: 'text', text: 'x' },
      { type: 'image', source: bad },
    ];
    await refused('/v1/messages', anthropic(result), 'messages[2].content[0].content[1]', /not JPEG, PNG|damaged/);
    const broken = [{ type: 'input_image', image_url: `data:image/png;base64,${damaged}` }];
    await refused('/v1/responses', responses(broken), 'input[2].output[0]', /not JPEG, PNG|damaged/);
    expect(current.engine.requests).toHaveLength(0);
  });

  it('are refused by a model that takes none, and other parts by name', async () => {
    current = await testApp();
    const blind = await post('/v1/responses', responses([{ type: 'input_image', image_url: url }]));
    expect([blind.status, blind.body.error.code, blind.body.error.param]).toEqual([
      400,
      'invalid_image',
      'input[2].output[0]',
    ]);
    for (const [path, body, param] of [
      ['/v1/chat/completions', chat([{ type: 'file', file: {} }]), 'messages[2].content[0].type'],
      ['/v1/messages', anthropic([{ type: 'document', source: {} }]), 'messages[2].content[0].content[0].type'],
      ['/v1/responses', responses([{ type: 'input_file', file_id: 'x' }]), 'input[2].output[0].type'],
    ] as const) {
      const answer = await post(path, body);
      expect([answer.status, answer.body.error.param]).toEqual([400, param]);
      expect(answer.body.error.message).toMatch(/are not taken; send text|are not taken; send input_text/);
    }
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
