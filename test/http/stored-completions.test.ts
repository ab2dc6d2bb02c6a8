// Chat completions with store: true, as the SDK lists, reads, changes and deletes them.

import { readFileSync } from 'node:fs';
import OpenAI from 'openai';
import { afterEach, expect, it } from 'vitest';
import { CompletionStore, completionsMax } from '../../server/http/completion-store.ts';
import { ResponseBudget } from '../../server/http/response-store.ts';
import type { StoredCompletion, StoredMessage } from '../../server/openai/stored-completions.ts';
import { chatBody, type TestApp, testApp } from '../support/app.ts';

const png = readFileSync(new URL('../fixtures/images/pillow-hopper.png', import.meta.url)).toString('base64');
const picture = `data:image/png;base64,${png}`;
const vision = { family: 'x', placeholder: '<image>', tokensPerImage: 4 };

let app: TestApp | null = null;
afterEach(async () => {
  await app?.close();
  app = null;
});

async function serve(options: Parameters<typeof testApp>[0] = {}): Promise<OpenAI> {
  const models = [{ vision }];
  app = await testApp({ listen: true, models, reply: () => ({ tokens: ['Hel', 'lo'] }), ...options });
  return new OpenAI({ baseURL: `${app.url}/v1`, apiKey: 'one', maxRetries: 0 });
}

const ask = (extra: object = {}) => ({ ...chatBody(), store: true, ...extra }) as never;
const idsOf = async (list: AsyncIterable<{ id: string }>) => {
  const ids: string[] = [];
  for await (const { id } of list) ids.push(id);
  return ids;
};

it('keeps what was asked to be kept, and nothing else', async () => {
  const sdk = await serve();
  const { completions } = sdk.chat;
  const plain = await completions.create({ ...chatBody() } as never);
  const refused = await completions.create({ ...chatBody({ store: false }) } as never);
  const kept = await completions.create(ask({ metadata: { case: 'a' }, n: 2, logprobs: true }));
  expect(await completions.retrieve(kept.id)).toEqual({ ...kept, metadata: { case: 'a' } });
  expect(await idsOf(completions.list())).toEqual([kept.id]);
  for (const { id } of [plain, refused]) {
    await expect(completions.retrieve(id)).rejects.toMatchObject({ status: 404, code: 'chat_completion_not_found' });
  }
});

it('keeps a stream as it would have been answered without one, before it ends', async () => {
  const sdk = await serve();
  const { completions } = sdk.chat;
  const whole = await completions.create(ask({ logprobs: true, n: 2 }));
  const stream = completions.stream(ask({ logprobs: true, n: 2 }));
  const { id } = await stream.finalChatCompletion();
  expect(await completions.retrieve(id)).toEqual({
    ...whole,
    id,
    created: expect.any(Number),
    metadata: {},
  });
});

it('has the messages, with the pictures that came in them', async () => {
  const sdk = await serve();
  const large = `${picture.slice(0, -4)}${'A'.repeat(200_000)}${picture.slice(-4)}`;
  for (const url of [picture, large]) {
    const content = [
      { type: 'text', text: 'Look' },
      { type: 'image_url', image_url: { url } },
    ];
    const call = { id: 'c1', type: 'function', function: { name: 'f', arguments: '{}' } };
    const messages = [
      { role: 'user', content, name: 'Ann' },
      { role: 'assistant', tool_calls: [call] },
      { role: 'tool', tool_call_id: 'c1', content: 'sunny' },
    ];
    const { id } = await sdk.chat.completions.create(ask({ messages }));
    const { data } = await sdk.chat.completions.messages.list(id);
    const none = { content_parts: null, refusal: null, name: null };
    const shown = { type: 'image_url', image_url: { url, detail: 'auto' } };
    expect(data).toEqual([
      { ...none, id: `${id}-0`, role: 'user', content: null, content_parts: [content[0], shown], name: 'Ann' },
      { ...none, id: `${id}-1`, role: 'assistant', content: null, tool_calls: [call] },
      { ...none, id: `${id}-2`, role: 'tool', content: 'sunny', tool_call_id: 'c1' },
    ]);
    expect(await idsOf(sdk.chat.completions.messages.list(id, { order: 'desc', limit: 2 }))).toEqual(
      data.map((message) => message.id).reverse(),
    );
  }
});

it('lists by page, model and metadata', async () => {
  const sdk = await serve();
  const { completions } = sdk.chat;
  const ids: string[] = [];
  for (const metadata of [{ a: '1' }, { a: '2', b: '1' }, { a: '1', b: '1' }]) {
    ids.push((await completions.create(ask({ metadata }))).id);
  }
  expect(await idsOf(completions.list({ limit: 2 }))).toEqual(ids);
  expect(await idsOf(completions.list({ order: 'desc', limit: 1 }))).toEqual([...ids].reverse());
  expect(await idsOf(completions.list({ metadata: { a: '1', b: '1' } }))).toEqual([ids[2]]);
  expect(await idsOf(completions.list({ metadata: { a: '1' }, after: ids[0] }))).toEqual([ids[2]]);
  for (const model of ['tiny', 'default']) expect(await idsOf(completions.list({ model }))).toEqual(ids);
  const problem = (query: object) =>
    completions.list(query as never).then(
      () => null,
      (error: InstanceType<typeof OpenAI.APIError>) => [error.status, error.param, error.code],
    );
  expect(await problem({ model: 'other' })).toEqual([404, 'model', 'model_not_found']);
  expect(await problem({ limit: 0 })).toEqual([400, 'limit', null]);
  expect(await problem({ after: 'chatcmpl-x' })).toEqual([400, 'after', null]);
  expect(await problem({ metadata: 'x' })).toEqual([400, 'metadata', null]);
  expect(await problem({ user: 'x' })).toEqual([400, 'user', 'unsupported_parameter']);
});

it('changes metadata and forgets, for the owner alone', async () => {
  const sdk = await serve({ settings: { apiKey: ['one', 'two'] } });
  const other = new OpenAI({ baseURL: `${app!.url}/v1`, apiKey: 'two', maxRetries: 0 });
  const { id } = await sdk.chat.completions.create(ask({ metadata: { a: '1' } }));
  for (const call of [
    () => other.chat.completions.retrieve(id),
    () => other.chat.completions.update(id, { metadata: { a: '2' } }),
    () => other.chat.completions.delete(id),
    () => other.chat.completions.messages.list(id),
  ]) {
    await expect(call()).rejects.toThrow(OpenAI.NotFoundError);
  }
  expect(await idsOf(other.chat.completions.list())).toEqual([]);
  expect((await sdk.chat.completions.update(id, { metadata: { b: '2' } })) as object).toMatchObject({
    id,
    metadata: { b: '2' },
  });
  expect(await idsOf(sdk.chat.completions.list({ metadata: { b: '2' } }))).toEqual([id]);
  await expect(sdk.chat.completions.update(id, { metadata: { b: 2 as never } })).rejects.toMatchObject({ status: 400 });
  expect(await sdk.chat.completions.delete(id)).toEqual({ object: 'chat.completion.deleted', id, deleted: true });
  await expect(sdk.chat.completions.delete(id)).rejects.toThrow(OpenAI.NotFoundError);
  const wrong = await fetch(`${app!.url}/v1/chat/completions/${id}`, {
    method: 'PUT',
    headers: { 'x-api-key': 'one' },
  });
  expect([wrong.status, wrong.headers.get('allow')]).toEqual([405, 'GET, POST, DELETE']);
});

it('does not keep a stream that its client left', async () => {
  const sdk = await serve({ reply: () => ({ tokens: Array(50).fill('x'), everyMs: 5 }) });
  const stream = sdk.chat.completions.stream(ask());
  for await (const _chunk of stream) break;
  stream.abort();
  while (app!.engine.live.size > 0) await new Promise((resolve) => setTimeout(resolve, 5));
  expect(await idsOf(sdk.chat.completions.list())).toEqual([]);
});

it('stays within its number, and the budget that it shares', () => {
  const budget = new ResponseBudget(256 * 1024);
  const store = new CompletionStore(budget);
  const completion = (id: string, metadata = {}) => ({ id, metadata }) as StoredCompletion;
  const message = (characters: number) => [{ content: 'x'.repeat(characters) } as StoredMessage];
  const ids = () => store.of('me').map(({ id }) => id);
  for (const id of ['a', 'b', 'c', 'd', 'e']) store.put('me', completion(id), message(60 * 1024));
  expect(ids()).toEqual(['b', 'c', 'd', 'e']);
  store.get('b', 'me');
  // Metadata count, too.
  store.amend('e', 'me', { large: 'x'.repeat(40 * 1024) });
  expect(ids()).toEqual(['b', 'd', 'e']);
  for (let at = 0; at < 50; at++) store.amend('e', 'me', {});
  expect(ids()).toEqual(['b', 'd', 'e']);
  const many = new CompletionStore(new ResponseBudget());
  for (let at = 0; at <= completionsMax; at++) many.put('me', completion(`c${at}`), []);
  expect(many.of('me').map(({ id }) => id)).toHaveLength(completionsMax);
  expect(many.get('c0', 'me')).toBe(null);
});
