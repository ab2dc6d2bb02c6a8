// The page as the server gives it; what it does in a browser is test/browser's.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Fastify from 'fastify';
import { afterAll, describe, expect, it } from 'vitest';
import { settingsSchema } from '../../server/config.ts';
import { guardAccess } from '../../server/http/access.ts';
import { KeyRing } from '../../server/http/keys.ts';
import { page } from '../../server/http/page.ts';

const folder = mkdtempSync(join(tmpdir(), 'hearth-page-'));
mkdirSync(join(folder, 'assets'));
writeFileSync(join(folder, 'index.html'), '<!doctype html>');
writeFileSync(join(folder, 'assets', 'index-abc.js'), '1');
afterAll(() => rmSync(folder, { recursive: true }));

async function served(prefix = '', from = folder) {
  const app = Fastify();
  const settings = settingsSchema.parse({ apiKey: ['k'] });
  await guardAccess(app, settings, new KeyRing(settings.apiKey, '', settings, () => {}));
  await app.register(
    async (scope) => {
      scope.get('/v1/models', () => 'secret');
      await page(scope, from);
    },
    { prefix },
  );
  return async (url: string) => {
    const { statusCode, headers } = await app.inject({ url, headers: { host: 'localhost' } });
    return { statusCode, location: headers.location, cache: headers['cache-control'] };
  };
}

describe('GET /', () => {
  it('comes without the key that is typed into it; what it asks for does not', async () => {
    const get = await served();
    expect(await get('/')).toMatchObject({ statusCode: 200, cache: 'no-cache' });
    expect(await get('/assets/index-abc.js')).toMatchObject({
      statusCode: 200,
      cache: expect.stringMatching(/immutable/),
    });
    expect(await get('/v1/models')).toMatchObject({ statusCode: 401 });
    expect(await get('/assets/nothing.js')).toMatchObject({ statusCode: 401 });
    expect((await (await served('', join(folder, 'none')))('/')).statusCode).toBe(404);
  });

  it('is found behind a base path, with and without the slash at its end', async () => {
    const get = await served('/llm');
    expect((await get('/llm/')).statusCode).toBe(200);
    // Relative, so that it is right behind a proxy that puts another prefix in front.
    expect(await get('/llm')).toMatchObject({ statusCode: 302, location: 'llm/' });
  });
});
