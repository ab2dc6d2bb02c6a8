// GET /: the page people see, from server/web/dist. Fetches nothing from elsewhere and says so in its policy.

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import fastifyStatic from '@fastify/static';
import type { FastifyInstance } from 'fastify';
import { errors } from '../errors.ts';

export const pageFolder = fileURLToPath(new URL('../web/dist', import.meta.url));

/** Scripts and styles from here only; pictures also from data: and blob:, since they never leave the browser. */
const policy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data: blob:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

const headers = {
  'content-security-policy': policy,
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
  'permissions-policy': 'camera=(self), microphone=(), geolocation=()',
};

/** Serves the page at `/` of the scope (so behind any base path); `folder` is for tests. */
export async function page(app: FastifyInstance, folder = pageFolder): Promise<void> {
  await app.register(async (scope) => {
    // Where a key is asked for, it is typed into the page: that itself has to come without.
    scope.addHook('onRoute', (route) => {
      route.config = { ...route.config, open: true };
    });
    // Without the slash at its end, the page's relative addresses would lead one folder up.
    scope.addHook('onRequest', async (request, reply) => {
      const { prefix } = scope;
      if (prefix !== '' && request.url.split('?')[0] === prefix) return reply.redirect(`${prefix.split('/').at(-1)}/`);
    });
    await servePage(scope, folder);
  });
}

async function servePage(app: FastifyInstance, folder: string): Promise<void> {
  if (!existsSync(folder)) {
    app.get('/', () => {
      throw errors.notFound('The page is not built: run npm start, or npx vite build server/web.', 'unknown_url');
    });
    return;
  }
  await app.register(fastifyStatic, {
    root: folder,
    prefix: '/',
    wildcard: false,
    preCompressed: true,
    cacheControl: false,
    setHeaders: (reply, path) => {
      for (const [name, value] of Object.entries(headers)) reply.header(name, value);
      // Names under assets/ hold a hash of their content.
      const forever = path.includes('/assets/');
      reply.header('cache-control', forever ? 'public, max-age=31536000, immutable' : 'no-cache');
    },
  });
}
