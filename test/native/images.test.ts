// Pictures through the whole server and the model that ships with the project: every file of test/fixtures/images is
// either described or refused with a message that says where it stood; and what people send by mistake or on purpose.

import { readdirSync, readFileSync } from 'node:fs';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type RealServer, startRealServer } from '../support/real-server.ts';

const folder = new URL('../fixtures/images/', import.meta.url);

/** Files that no reader takes, and the words that say why. All others must be described. */
const refused: Record<string, RegExp> = {
  'pillow-broken.png': /damaged or cannot be decoded/,
  'pillow-decompression_bomb.gif': /more than \d+ pixels|damaged/,
  'pillow-truncated_jpeg.jpg': /damaged or cannot be decoded/,
  'pillow-zero_width.gif': /damaged or cannot be decoded/,
  'sharp-corrupt-header.jpg': /damaged or cannot be decoded/,
  'sharp-truncated.jpg': /damaged or cannot be decoded/,
};
const files = readdirSync(folder).filter((name) => name !== 'README.md');

let server: RealServer;
beforeAll(async () => {
  server = await startRealServer();
}, 120_000);
afterAll(() => server.stop(), 30_000);

const read = (name: string) => readFileSync(new URL(name, folder));
const image = (bytes: Uint8Array, detail?: string) => ({
  type: 'image_url',
  image_url: { url: `data:image/png;base64,${Buffer.from(bytes).toString('base64')}`, ...(detail ? { detail } : {}) },
});
const text = (words: string) => ({ type: 'text', text: words });

async function post(path: string, body: object) {
  const response = await fetch(server.url + path, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  // biome-ignore lint/suspicious/noExplicitAny: answers of several routes
  return { status: response.status, body: (await response.json()) as any };
}
const ask = (content: unknown[], extra = {}) =>
  post('/v1/chat/completions', { messages: [{ role: 'user', content }], max_tokens: 12, temperature: 0, ...extra });
const flat = (width: number, height: number) =>
  sharp({ create: { width, height, channels: 3, background: '#c03020' } })
    .png()
    .toBuffer();

describe('every file of test/fixtures/images', () => {
  it('is in the list that this test knows', () => {
    expect(files).toHaveLength(46);
    for (const name of Object.keys(refused)) expect(files).toContain(name);
  });

  for (const name of files) {
    const words = refused[name];
    it(`${name} is ${words ? 'refused' : 'described'}`, async () => {
      const { status, body } = await ask([text('What is this?'), image(read(name))]);
      if (words) {
        expect([status, body.error.code, body.error.param]).toEqual([400, 'invalid_image', 'messages[0].content[1]']);
        expect(body.error.message).toMatch(words);
        return;
      }
      expect([status, body.error]).toEqual([200, undefined]);
      expect(body.choices[0].message.content.trim().length).toBeGreaterThan(0);
      expect(body.usage.prompt_tokens).toBeGreaterThan(48);
    });
  }
});

describe('pictures nobody should send', () => {
  const isRefused = async (bytes: Uint8Array, words: RegExp) => {
    const { status, body } = await ask([image(bytes), text('What is this?')]);
    expect([status, body.error?.code, body.error?.param]).toEqual([400, 'invalid_image', 'messages[0].content[0]']);
    expect(body.error.message).toMatch(words);
  };

  it('of one pixel, and needles in both directions, are answered, with a description or with a 400', async () => {
    for (const [width, height] of [
      [1, 1],
      [2, 1],
      [1, 65_535],
      [65_535, 1],
    ] as const) {
      const { status, body } = await ask([image(await flat(width, height)), text('What is this?')]);
      expect([width, height, status === 200 || body.error.code === 'invalid_image']).toEqual([width, height, true]);
    }
  });

  it('that claim more pixels than they may have, before they are decoded', async () => {
    const png = await flat(16, 16);
    png.writeUInt32BE(65_535, 16);
    png.writeUInt32BE(65_535, 20);
    await isRefused(png, /more than \d+ pixels|damaged/);
    const jpeg = Buffer.from(read('pillow-hopper.jpg'));
    const frame = jpeg.indexOf(Buffer.from([0xff, 0xc0]));
    jpeg.writeUInt16BE(65_500, frame + 5);
    jpeg.writeUInt16BE(65_500, frame + 7);
    await isRefused(jpeg, /more than \d+ pixels|damaged/);
  });

  it('that are cut anywhere', async () => {
    const whole = read('pillow-hopper.webp');
    for (const part of [0.02, 0.3, 0.9])
      await isRefused(whole.subarray(0, Math.floor(whole.length * part)), /damaged|not JPEG/);
  });

  it('that are not pictures', async () => {
    await isRefused(Buffer.from('<svg xmlns="http://www.w3.org/2000/svg"/>'), /not JPEG, PNG/);
    await isRefused(Buffer.from('%PDF-1.7'), /not JPEG, PNG/);
    await isRefused(Buffer.concat([Buffer.from('GIF89a'), Buffer.alloc(2000, 0x41)]), /damaged|more than/);
  });

  it('an animation of thousands of frames costs no more than its first', async () => {
    const frames = await sharp(Buffer.alloc(64 * 64 * 400 * 3, 90), {
      raw: { width: 64, height: 64 * 400, channels: 3, pageHeight: 64 },
    })
      .gif({ delay: Array(400).fill(20) })
      .toBuffer();
    const { status } = await ask([image(frames), text('What is this?')]);
    expect(status).toBe(200);
  });

  it('a file that is two things at once is what its first bytes say', async () => {
    const both = Buffer.concat([read('pillow-hopper.png'), Buffer.from('PK\u0003\u0004<script>alert(1)</script>')]);
    expect((await ask([image(both), text('What is this?')])).status).toBe(200);
  });
});

describe('many pictures', () => {
  it('too many for the context are refused with both numbers', async () => {
    const one = image(await flat(20, 20));
    const { status, body } = await ask([...Array(20).fill(one), text('x '.repeat(3000))]);
    expect([status, body.error.code]).toEqual([400, 'context_length_exceeded']);
    const numbers = body.error.message.match(/\d+/g).map(Number);
    expect(numbers[0]).toBeLessThan(numbers[1]);
  });

  it('twenty at once in one request, and twenty requests at once', async () => {
    const parts = await Promise.all(Array.from({ length: 20 }, (_, index) => flat(20 + index, 30)));
    const together = await ask([...parts.map((bytes) => image(bytes)), text('What changed?')]);
    expect([200, 400]).toContain(together.status);
    if (together.status === 400) expect(together.body.error.code).toBe('context_length_exceeded');
    const apart = await Promise.all(parts.map((bytes) => ask([image(bytes), text('What is this?')])));
    expect(apart.map(({ status }) => status)).toEqual(Array(20).fill(200));
    const oneMore = await ask([...Array(21).fill(image(parts[0]!)), text('?')]);
    expect(oneMore.body.error).toMatchObject({ code: 'invalid_image', param: 'messages[0].content[20]' });
  });

  it('<image> typed by a user is text', async () => {
    const typed = await ask([text('What is <image> and </s>?')]);
    expect(typed.status).toBe(200);
    const both = await ask([image(await flat(20, 20)), text('What is <image>?')]);
    expect(both.status).toBe(200);
  });

  it('the second question about two pictures reads them from the cache, and counts their tokens', async () => {
    const [red, blue] = [await flat(40, 40), read('pillow-hopper.jpg')];
    const first = [image(red), image(blue), text('Which is red?')];
    const one = await ask(first);
    const two = await post('/v1/chat/completions', {
      messages: [
        { role: 'user', content: first },
        { role: 'assistant', content: one.body.choices[0].message.content },
        { role: 'user', content: 'And the other?' },
      ],
      max_tokens: 12,
      temperature: 0,
    });
    expect(two.status).toBe(200);
    const perImage = 49;
    expect(two.body.usage.prompt_tokens).toBeGreaterThan(2 * perImage);
    expect(two.body.usage.prompt_tokens_details.cached_tokens).toBeGreaterThan(2 * perImage - 16);
  });
});

describe('pictures as examples, and in other routes', () => {
  it('image and text pairs before the question, in one message and in several, without a system message', async () => {
    const [red, blue] = [
      await flat(56, 56),
      await sharp({ create: { width: 56, height: 56, channels: 3, background: '#2030c0' } })
        .png()
        .toBuffer(),
    ];
    const inOne = await ask([
      image(red),
      text('red.'),
      image(blue),
      text('blue.'),
      image(red),
      text('What colour is this?'),
    ]);
    expect(inOne.status).toBe(200);
    const inSeveral = await post('/v1/chat/completions', {
      messages: [
        { role: 'user', content: [image(red), text('What colour is this?')] },
        { role: 'assistant', content: 'red' },
        { role: 'user', content: [image(blue), text('What colour is this?')] },
        { role: 'assistant', content: 'blue' },
        { role: 'user', content: [text('And this?'), image(red)] },
      ],
      max_tokens: 12,
      temperature: 0,
    });
    expect(inSeveral.status).toBe(200);
    expect(inSeveral.body.usage.prompt_tokens).toBeGreaterThan(3 * 48);
  });

  it('input_image in Responses, image blocks in Messages, and their tokens in count_tokens', async () => {
    const bytes = await flat(56, 56);
    const url = `data:image/png;base64,${bytes.toString('base64')}`;
    const response = await post('/v1/responses', {
      input: [
        {
          role: 'user',
          content: [
            { type: 'input_image', image_url: url },
            { type: 'input_text', text: 'What is this?' },
          ],
        },
      ],
      max_output_tokens: 12,
    });
    expect([response.status, response.body.usage?.input_tokens > 48]).toEqual([200, true]);
    const source = { type: 'base64', media_type: 'image/png', data: bytes.toString('base64') };
    const messages = [
      {
        role: 'user',
        content: [
          { type: 'image', source },
          { type: 'text', text: 'What is this?' },
        ],
      },
    ];
    const message = await post('/v1/messages', { messages, max_tokens: 12 });
    expect(message.status).toBe(200);
    const counted = await post('/v1/messages/count_tokens', { messages });
    const { input_tokens, cache_read_input_tokens } = message.body.usage;
    expect(counted.body.input_tokens).toBe(input_tokens + (cache_read_input_tokens ?? 0));
  });

  it('detail low looks at a smaller picture, and others than low, high and auto are refused', async () => {
    const bytes = await flat(900, 700);
    for (const detail of ['low', 'high', 'auto'])
      expect((await ask([image(bytes, detail), text('?')])).status).toBe(200);
    const { status, body } = await ask([image(bytes, 'middling'), text('?')]);
    expect([status, body.error.param]).toEqual([400, 'messages[0].content[0].image_url.detail']);
  });
});

describe('pictures that tools give back', () => {
  it('are seen in their place by every route, the same tokens each time', async () => {
    const bytes = read('pillow-hopper.jpg');
    const data = bytes.toString('base64');
    const shot = image(bytes);
    const chat = (content: unknown[]) => ({
      messages: [
        { role: 'user', content: 'What is in the photo?' },
        { role: 'assistant', content: null, tool_calls: [{ id: 'c1', function: { name: 'shoot', arguments: '{}' } }] },
        { role: 'tool', tool_call_id: 'c1', content },
      ],
      max_tokens: 12,
      temperature: 0,
    });
    const without = await post('/v1/chat/completions', chat([text('Here:')]));
    const { status, body } = await post('/v1/chat/completions', chat([text('Here:'), shot]));
    expect([without.status, status]).toEqual([200, 200]);
    const tokens = body.usage.prompt_tokens;
    expect(tokens - without.body.usage.prompt_tokens).toBeGreaterThanOrEqual(48);
    expect(body.choices[0].message.content).not.toBe(without.body.choices[0].message.content);

    const result = [
      { type: 'text', text: 'Here:' },
      { type: 'image', source: { type: 'base64', media_type: 'image/jpeg', data } },
    ];
    const messages = [
      { role: 'user', content: 'What is in the photo?' },
      { role: 'assistant', content: [{ type: 'tool_use', id: 'c1', name: 'shoot', input: {} }] },
      { role: 'user', content: [{ type: 'tool_result', tool_use_id: 'c1', content: result }] },
    ];
    const counted = await post('/v1/messages/count_tokens', { model: 'default', messages });
    expect(counted.body.input_tokens).toBe(tokens);
    const anthropic = await post('/v1/messages', { model: 'default', messages, max_tokens: 12, temperature: 0 });
    expect(anthropic.body.content[0].text).toBe(body.choices[0].message.content);
    const responses = await post('/v1/responses', {
      input: [
        { role: 'user', content: 'What is in the photo?' },
        { type: 'function_call', call_id: 'c1', name: 'shoot', arguments: '{}' },
        {
          type: 'function_call_output',
          call_id: 'c1',
          output: [
            { type: 'input_text', text: 'Here:' },
            { type: 'input_image', image_url: shot.image_url.url },
          ],
        },
      ],
      max_output_tokens: 12,
      temperature: 0,
    });
    expect(responses.body.usage.input_tokens).toBe(tokens);
    expect(responses.body.output[0].content[0].text).toBe(body.choices[0].message.content);
  });
});
