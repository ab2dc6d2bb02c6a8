// Models over HTTP: the list, first use by a request, and what an operator may do.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readSettings, settingsSchema } from '../../server/config.ts';
import { ModelSet } from '../../server/engine/model-set.ts';
import { EngineError } from '../../server/engine/port.ts';
import { ModelPathError } from '../../server/models/local.ts';
import { offeredModels } from '../../server/models/offered.ts';
import { ask, client, post, server, textWhen, until } from '../contract/support.ts';
import { gate } from '../support/gate.ts';

const folder = mkdtempSync(join(tmpdir(), 'hearth-models-'));
afterAll(() => rmSync(folder, { recursive: true }));

const tokens = ['one', ' two', ' three', ' four'];

/** A server that offers three models and has loaded none. */
async function offering(settings: object = {}, after: { load?: Promise<void>; tokens?: Promise<void> } = {}) {
  const whenTold = after.load ? { after: after.load } : {};
  const loadable = {
    first: { mb: 40, loadMs: 10 },
    second: { mb: 70, loadMs: 10 },
    slow: { mb: 10, ...whenTold },
    broken: { ...whenTold, fail: new EngineError('corrupt', '/secret/broken/x.safetensors: truncated') },
  };
  const app = await server({
    models: [],
    loadable,
    memoryMb: 100,
    loading: true,
    reply: () => ({ tokens, everyMs: 5, ...(after.tokens ? { after: after.tokens } : {}) }),
    settings,
  });
  const offered = Object.keys(loadable).map((name) => ({
    load: { name, path: `/secret/${name}` },
    context: 512,
    vision: name === 'second',
  }));
  const set = new ModelSet(app.engine, offered, { defaultModel: 'first', turnMs: 50, waitersMax: 8 });
  app.lifecycle.ready(app.engine, set);
  const list = async () =>
    ((await (await fetch(`${app.url}/v1/models`)).json()) as { data: Array<Record<string, unknown>> }).data;
  return { app, set, list };
}

describe('a stream that waits for its model to be loaded', () => {
  const messages = [{ role: 'user', content: 'Hi' }];
  const routes = [
    ['/v1/chat/completions', { messages }, 'data: [DONE]\n\n'],
    ['/v1/completions', { prompt: 'Hi' }, 'data: [DONE]\n\n'],
    ['/v1/messages', { messages, max_tokens: 16 }, 'event: message_stop\ndata: {"type":"message_stop"}\n\n'],
    ['/v1/responses', { input: 'Hi' }, null],
  ] as const;
  for (const [route, body, end] of routes) {
    it(`${route} gets comments, then its answer`, async () => {
      const loading = gate();
      const { app } = await offering({ keepAliveSeconds: 0.05 }, { load: loading.opened });
      const response = await post(app, route, { ...body, model: 'slow', stream: true });
      const text = await textWhen(response, /^(: keep-alive\n\n){2}/, loading.open);
      expect(text).toMatch(/^(: keep-alive\n\n)+(event|data): /);
      expect(text).toContain(' four');
      if (end) expect(text.endsWith(end)).toBe(true);
      else expect(text).toContain('event: response.completed');
    });

    it(`${route} gets a failure as an event once comments were sent, as a status before`, async () => {
      const loading = gate();
      const { app } = await offering({ keepAliveSeconds: 0.05 }, { load: loading.opened });
      const late = await post(app, route, { ...body, model: 'broken', stream: true });
      expect(late.status).toBe(200);
      const text = await textWhen(late, /^: keep-alive\n\n/, loading.open);
      expect(text).toMatch(/^(: keep-alive\n\n)+/);
      expect(text).toMatch(/data: \{.*"error".*\}\n\n$/);
      expect(text).not.toContain('/secret');
      const { app: patient } = await offering({ keepAliveSeconds: 1000 });
      expect((await post(patient, route, { ...body, model: 'broken', stream: true })).status).toBe(503);
    });
  }
});

describe('GET /v1/models', () => {
  it('lists what can be loaded, and what is', async () => {
    const { app, list } = await offering();
    const [first, second] = await list();
    expect(first).toMatchObject({ id: 'first', object: 'model', status: 'available', default: true });
    expect(second).toMatchObject({
      id: 'second',
      default: false,
      max_model_len: 512,
      capabilities: { vision: true },
      precision: null,
      memory_bytes: null,
    });
    await post(app, '/v1/chat/completions', ask({ model: 'second' }));
    expect((await list())[1]).toMatchObject({ status: 'loaded', precision: 'f32', memory_bytes: 70 * 1024 * 1024 });
    const ids = (await client(app).models.list()).data.map(({ id }) => id);
    expect(ids).toEqual(['first', 'second', 'slow', 'broken']);
  });
});

describe('a request for a model that is not loaded', () => {
  const routes: Array<[string, object]> = [
    ['/v1/chat/completions', ask({ model: 'second' })],
    ['/v1/completions', { model: 'second', prompt: 'x' }],
    ['/v1/responses', { model: 'second', input: 'x' }],
    ['/v1/messages', { model: 'second', max_tokens: 5, messages: [{ role: 'user', content: 'x' }] }],
    ['/v1/messages/count_tokens', { model: 'second', messages: [{ role: 'user', content: 'x' }] }],
    ['/tokenize', { model: 'second', prompt: 'x' }],
    ['/detokenize', { model: 'second', tokens: [72] }],
    ['/apply-template', ask({ model: 'second' })],
  ];
  for (const [route, body] of routes) {
    it(`loads it, uses it and lets it go: ${route}`, async () => {
      const { app, set } = await offering();
      const response = await post(app, route, body);
      expect([route, response.status]).toEqual([route, 200]);
      await response.text();
      expect(set.statusOf('second').state).toBe('loaded');
      await until(() => set.statusOf('second').inUse === 0);
      expect(app.engine.violations).toEqual([]);
    });
  }

  it('is one load for a crowd, whose streams all end well', async () => {
    const { app } = await offering();
    const texts = await Promise.all(
      Array.from({ length: 8 }, async () => {
        const stream = await client(app).chat.completions.create({
          ...ask({ model: 'second' }),
          stream: true,
        } as never);
        let text = '';
        for await (const { choices } of stream as never as AsyncIterable<{
          choices: [{ delta: { content?: string } }];
        }>)
          text += choices[0]?.delta.content ?? '';
        return text;
      }),
    );
    expect(new Set(texts)).toEqual(new Set([tokens.join('')]));
    expect(app.engine.changes).toEqual(['load second']);
  });

  it('is a 503 with the reason when it cannot be loaded, and never a stream', async () => {
    const { app } = await offering();
    for (const stream of [false, true]) {
      const response = await post(app, '/v1/chat/completions', ask({ model: 'broken', stream }));
      expect(response.status).toBe(503);
      expect(response.headers.get('retry-after')).toBe('30');
      expect(response.headers.get('x-should-retry')).toBe('false');
      const { error } = (await response.json()) as { error: { message: string; code: string } };
      expect(error.code).toBe('model_load_failed');
      expect(error.message).toMatch(/truncated/);
      expect(error.message).not.toMatch(/secret/);
    }
    expect(app.engine.changes).toEqual(['load broken']);
  });

  it('waits while another model streams, and both answers are whole', async () => {
    const answering = gate();
    const { app, set } = await offering({}, { tokens: answering.opened });
    const begun = post(app, '/v1/chat/completions', ask({ model: 'first', stream: true }));
    await until(() => app.engine.live.size > 0);
    const second = client(app).chat.completions.create(ask({ model: 'second' }) as never);
    await until(() => set.statusOf('second').waiting === 1);
    expect(app.engine.changes).toEqual(['load first']);
    answering.open();
    expect(await second).toMatchObject({ choices: [{ message: { content: tokens.join('') } }] });
    expect(await (await begun).text()).toMatch(/data: \[DONE\]\n\n$/);
    expect(app.engine.changes).toEqual(['load first', 'unload first', 'load second']);
    expect(app.engine.violations).toEqual([]);
  });
});

describe('POST /admin/models', () => {
  it('loads and unloads on loopback, where no keys are asked for', async () => {
    const { app, list } = await offering();
    const load = await post(app, '/admin/models/load', { model: 'first' });
    expect([load.status, await load.json()]).toMatchObject([200, { id: 'first', status: 'loaded' }]);
    const unload = await post(app, '/admin/models/unload', { model: 'first' });
    expect([unload.status, await unload.json()]).toMatchObject([200, { id: 'first', status: 'available' }]);
    expect((await post(app, '/admin/models/load', { model: 'broken' })).status).toBe(503);
    expect((await list())[3]).toMatchObject({ status: 'failed', error: expect.stringContaining('truncated') });
    expect((await post(app, '/admin/models/load', { model: 'nobody' })).status).toBe(404);
    expect((await post(app, '/admin/models/load', {})).status).toBe(400);
    expect((await post(app, '/admin/models/unload', { model: 'first', wait_seconds: -1 })).status).toBe(400);
    expect((await fetch(`${app.url}/admin/models/load`)).status).toBe(405);
  });

  it('does not unload under a stream', async () => {
    const answering = gate();
    const { app } = await offering({}, { tokens: answering.opened });
    const begun = post(app, '/v1/chat/completions', ask({ model: 'first', stream: true }));
    await until(() => app.engine.live.size > 0);
    const refused = await post(app, '/admin/models/unload', { model: 'first' });
    expect([refused.status, await refused.json()]).toMatchObject([409, { error: { code: 'model_in_use' } }]);
    const waited = post(app, '/admin/models/unload', { model: 'first', wait_seconds: 60 });
    answering.open();
    expect((await waited).status).toBe(200);
    expect(await (await begun).text()).toMatch(/data: \[DONE\]\n\n$/);
    expect(app.engine.violations).toEqual([]);
  });

  it('is for keys that have the right', async () => {
    const path = join(folder, 'keys');
    writeFileSync(path, 'plain name=plain\nboss name=boss admin=yes\n');
    const { app } = await offering({ apiKeyFile: path, apiKey: ['given'], adminKey: ['chief'] });
    const status = async (key: string | null) => {
      const headers: Record<string, string> = key ? { authorization: `Bearer ${key}` } : {};
      return (await post(app, '/admin/models/load', { model: 'first' }, { headers })).status;
    };
    const keys = [null, 'wrong', 'plain', 'given', 'boss', 'chief'];
    expect(await Promise.all(keys.map(status))).toEqual([401, 401, 403, 403, 200, 200]);
  });

  it('is not for what a proxy on this machine passes on', async () => {
    const { app } = await offering();
    for (const name of ['x-forwarded-for', 'forwarded', 'x-forwarded-host']) {
      const answer = await post(app, '/admin/models/load', { model: 'first' }, { headers: { [name]: '192.0.2.7' } });
      expect([name, answer.status]).toEqual([name, 403]);
    }
    const trusting = (await offering({ trustProxy: true })).app;
    const from = async (address: string) =>
      (await post(trusting, '/admin/models/load', { model: 'first' }, { headers: { 'x-forwarded-for': address } }))
        .status;
    // The far end of the list is whatever the client wrote.
    expect(await Promise.all(['127.0.0.1', '192.0.2.7', '127.0.0.1, 192.0.2.7'].map(from))).toEqual([200, 403, 403]);
  });
});

describe('metrics', () => {
  it('say which models are there, and how they come and go', async () => {
    const { app } = await offering();
    await post(app, '/admin/models/load', { model: 'first' });
    await post(app, '/admin/models/load', { model: 'second' });
    await post(app, '/admin/models/load', { model: 'broken' });
    const text = await (await fetch(`${app.url}/metrics`)).text();
    for (const line of [
      'hearth:model_loaded{model_name="first"} 0',
      'hearth:model_loaded{model_name="second"} 1',
      'hearth:model_loads_total{model_name="first"} 1',
      'hearth:model_load_failures_total{model_name="broken"} 1',
      'hearth:model_unloads_total{model_name="first",reason="memory"} 1',
    ]) {
      expect(text).toContain(line);
    }
  });
});

describe('--more-models', () => {
  const make = (name: string, config: object) => {
    mkdirSync(join(folder, name), { recursive: true });
    writeFileSync(join(folder, name, 'config.json'), JSON.stringify(config));
    return join(folder, name);
  };
  const text = make('words', { max_position_embeddings: 2048 });
  make('pictures', { text_config: { max_position_embeddings: 4096 }, vision_config: {} });
  const first = { name: 'default-one', path: '/elsewhere' };
  const names = (entries: Parameters<typeof offeredModels>[1], named = false) =>
    offeredModels(first, entries, named, folder).map(({ name, context, vision }) => [name, context, vision]);

  it('is every pulled model unless one was asked for by name', () => {
    expect(names(undefined)).toEqual([
      ['pictures', 4096, true],
      ['words', 2048, false],
    ]);
    expect(names(undefined, true)).toEqual([]);
    expect(names(['all'], true)).toHaveLength(2);
  });

  it('takes names, paths under names of one’s own, and mappings with options', () => {
    expect(names(['words', `mine=${text}`])).toEqual([
      ['words', 2048, false],
      ['mine', 2048, false],
    ]);
    const [entry] = offeredModels(first, [{ name: 'm', path: text, context: 99 }], true, folder);
    expect(entry).toMatchObject({ name: 'm', path: text, options: { context: 99 } });
  });

  it('refuses what is not there, and two of one name', () => {
    expect(() => names(['nothing'])).toThrow(ModelPathError);
    expect(() => names([`default-one=${text}`])).toThrow(/two models are called 'default-one'/);
  });

  it('comes from flags, the environment and the file; HEARTH_MODELS is the folder, and no setting', () => {
    const env = { HEARTH_MODELS: '/some/folder', HEARTH_MORE_MODELS: 'x' };
    expect(readSettings([], env).settings.moreModels).toEqual(['x']);
    expect(readSettings(['--more-models', 'y'], env).settings.moreModels).toEqual(['y']);
    expect(settingsSchema.parse({ moreModels: 'a, b=/c' }).moreModels).toEqual(['a', 'b=/c']);
    expect(settingsSchema.parse({}).moreModels).toBeUndefined();
    const mapping = { name: 'm', path: '/m', precision: 'w4a16', context: 4096 };
    expect(settingsSchema.parse({ moreModels: [mapping] }).moreModels).toEqual([mapping]);
    expect(settingsSchema.safeParse({ moreModels: [{ ...mapping, frobnicate: 1 }] }).success).toBe(false);
  });
});
