// Who may call: API keys, the Host allow-list against DNS rebinding, and CORS.

import { isIP } from 'node:net';
import { hostname } from 'node:os';
import cors from '@fastify/cors';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { errors } from '../errors.ts';
import type { HttpSettings } from './context.ts';
import type { KeyOwner, KeyRing } from './keys.ts';
import { rateHeaderNames } from './rate-limits.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Whose request it is; `anonymous` where no key is asked for. */
    keyOwner: KeyOwner;
    /** Whether a key was asked for at all. */
    keyAsked: boolean;
  }
}

/** Adds the checks that come before any route, also before the 404 of an unknown one. */
export async function guardAccess(app: FastifyInstance, settings: HttpSettings, keys: KeyRing): Promise<void> {
  const allowed = hostAllowList(settings.allowedHosts);
  app.addHook('onRequest', async (request) => {
    const host = hostNameOf(request.headers.host);
    if (host !== null && !isHostAllowed(host, allowed)) {
      throw errors.forbidden('This Host name is not served here; see --allowed-hosts.');
    }
  });
  if (settings.corsOrigins.length > 0) await allowOrigins(app, settings.corsOrigins);
  app.decorateRequest('keyOwner', null as unknown as KeyOwner);
  app.decorateRequest('keyAsked', false);
  app.addHook('onRequest', async (request) => {
    request.keyOwner = keys.anonymous;
    request.keyAsked = keys.active;
    if (!keys.active && isForeignSocket(request, settings.corsOrigins)) {
      throw errors.forbidden('Pages of this origin may not open a WebSocket here; see --cors-origins.');
    }
    if (!keys.active || isOpen(request)) return;
    const key = keyOf(request);
    const owner = key === null ? null : keys.identify(key);
    if (!owner) throw errors.unauthorized();
    request.keyOwner = owner;
  });
}

/**
 * Whether a request may change what the server does: its key says so, or no keys are asked for and it comes from this
 * very machine, not through a proxy that nobody said to trust.
 */
export function mayAdminister(request: FastifyRequest): boolean {
  if (request.keyAsked) return request.keyOwner.admin;
  const forwarded = Object.keys(request.headers).some(
    (name) => name === 'forwarded' || name.startsWith('x-forwarded-'),
  );
  // Only where proxies are trusted there is a list; anybody can have written its far end, so all of it counts.
  const { ips } = request;
  return ips ? ips.every(isLoopback) : isLoopback(request.ip) && !forwarded;
}

const isLoopback = (address: string) => /^(?:::1|(?:::ffff:)?127\.\d+\.\d+\.\d+)$/i.test(address);

/** Only routes that were declared open; an unknown URL is not one of them. */
function isOpen(request: FastifyRequest): boolean {
  return request.routeOptions.config.open === true;
}

/**
 * Whether a page of another origin asks for a WebSocket. Browsers do not hold those back as they do requests: without a key
 * any page that somebody looks at could use the server. What is no browser sends no Origin.
 */
function isForeignSocket({ headers, host }: FastifyRequest, allowed: readonly string[]): boolean {
  const { origin } = headers;
  if (headers.upgrade === undefined || origin === undefined) return false;
  if (allowed.includes('*') || allowed.includes(origin)) return false;
  return !URL.canParse(origin) || new URL(origin).host !== host;
}

/** OpenAI's clients send a bearer token, Anthropic's an x-api-key. */
function keyOf(request: FastifyRequest): string | null {
  const bearer = /^Bearer +(\S+)$/i.exec(request.headers.authorization ?? '')?.[1];
  const header = request.headers['x-api-key'];
  return bearer ?? (typeof header === 'string' ? header : null);
}

function hostAllowList(extra: readonly string[]): Set<string> {
  const own = hostname().toLowerCase();
  return new Set(['localhost', own, `${own}.local`, ...extra.map((name) => name.toLowerCase())]);
}

/** The name in a Host header, without port and brackets; null when there is no header. */
function hostNameOf(header: string | undefined): string | null {
  if (header === undefined) return null;
  const match = /^(\[[^\]]*\]|[^:]*)(?::\d*)?$/.exec(header.trim());
  return match
    ? match[1]!
        .replace(/^\[|\]$/g, '')
        .replace(/\.$/, '')
        .toLowerCase()
    : '';
}

function isHostAllowed(host: string, allowed: ReadonlySet<string>): boolean {
  if (allowed.has('*') || allowed.has(host) || isIP(host) !== 0) return true;
  return host.endsWith('.localhost');
}

async function allowOrigins(app: FastifyInstance, origins: readonly string[]): Promise<void> {
  await app.register(cors, {
    origin: origins.includes('*') ? '*' : [...origins],
    methods: ['GET', 'HEAD', 'POST', 'DELETE', 'OPTIONS'],
    // Headers: whatever the page asks for, since SDKs send a dozen of their own (X-Stainless-*), and more every year.
    exposedHeaders: ['x-request-id', 'retry-after', 'retry-after-ms', ...rateHeaderNames],
    maxAge: 3600,
  });
}
