// Fetches a picture from a host the operator allows, and from nowhere else: names are resolved once, every address is
// checked, the connection is pinned to it, redirects begin again from the start, bytes and time are bounded.

import { lookup } from 'node:dns/promises';
import { request as httpRequest, type IncomingMessage, type RequestOptions } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { BlockList, isIP } from 'node:net';

export interface FetchLimits {
  /** Host names, or `*` for any host with a public address. */
  hosts: readonly string[];
  bytesMax: number;
  timeoutMs?: number;
}

const redirectsMax = 3;
const timeoutMsDefault = 10_000;

const special = new BlockList();
for (const [network, prefix] of [
  ['0.0.0.0', 8],
  ['10.0.0.0', 8],
  ['100.64.0.0', 10],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['172.16.0.0', 12],
  ['192.0.0.0', 24],
  ['192.0.2.0', 24],
  ['192.88.99.0', 24],
  ['192.168.0.0', 16],
  ['198.18.0.0', 15],
  ['198.51.100.0', 24],
  ['203.0.113.0', 24],
  ['224.0.0.0', 4],
  ['240.0.0.0', 4],
] as const) {
  special.addSubnet(network, prefix, 'ipv4');
}
for (const [network, prefix] of [
  ['2001::', 23],
  ['2001:db8::', 32],
  ['2002::', 16],
  ['3fff::', 20],
] as const) {
  special.addSubnet(network, prefix, 'ipv6');
}
const global6 = new BlockList();
global6.addSubnet('2000::', 3, 'ipv6');

/** Whether an address belongs to the public internet. Mapped and translated forms of IPv4 do not count as public. */
export function isPublicAddress(address: string): boolean {
  const family = isIP(address);
  if (family === 4) return !special.check(address, 'ipv4');
  if (family === 6) return global6.check(address, 'ipv6') && !special.check(address, 'ipv6');
  return false;
}

/** The bytes behind a URL. Throws an Error whose message may be shown to the client. */
export async function fetchImage(url: string, limits: FetchLimits): Promise<Uint8Array> {
  const signal = AbortSignal.timeout(limits.timeoutMs ?? timeoutMsDefault);
  let next = url;
  for (let hop = 0; hop <= redirectsMax; hop++) {
    const response = await open(next, limits, signal);
    const { statusCode = 0, headers } = response;
    if ([301, 302, 303, 307, 308].includes(statusCode) && headers.location) {
      response.destroy();
      next = new URL(headers.location, next).href;
      continue;
    }
    if (statusCode !== 200) {
      response.destroy();
      throw new Error(`the image URL answered with status ${statusCode}`);
    }
    return read(response, limits.bytesMax, signal);
  }
  throw new Error(`the image URL redirects more than ${redirectsMax} times`);
}

async function open(text: string, limits: FetchLimits, signal: AbortSignal): Promise<IncomingMessage> {
  const url = parse(text);
  const address = await resolve(url, limits, signal);
  const options: RequestOptions = {
    signal,
    headers: { accept: 'image/*', 'user-agent': 'hearth' },
    agent: false,
    // The connection goes to the address that was checked, whatever the name means by now.
    lookup: (_name, lookupOptions, done) => {
      const family = isIP(address);
      if (typeof lookupOptions === 'object' && lookupOptions.all) done(null, [{ address, family }]);
      else done(null, address, family);
    },
  };
  return new Promise((fulfil, reject) => {
    const request = url.protocol === 'https:' ? httpsRequest : httpRequest;
    request(url, options, fulfil)
      .on('error', () =>
        reject(new Error(signal.aborted ? 'the image URL took too long' : 'the image URL cannot be fetched')),
      )
      .end();
  });
}

function parse(text: string): URL {
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    throw new Error('the image URL is not a URL');
  }
  if (url.protocol !== 'http:' && url.protocol !== 'https:')
    throw new Error('the image URL must be http, https or data');
  if (url.username || url.password) throw new Error('the image URL may not hold a password');
  return url;
}

/** One address of the host. A host the operator named may be private; any other must be public in all its addresses. */
async function resolve(url: URL, limits: FetchLimits, signal: AbortSignal): Promise<string> {
  const host = url.hostname.replace(/^\[|\]$/g, '').toLowerCase();
  const named = limits.hosts.some((allowed) => allowed.toLowerCase() === host);
  const refused = new Error('the host of the image URL is not allowed here');
  if (!named && !limits.hosts.includes('*')) throw refused;
  const found = isIP(host) ? [host] : await addressesOf(host, signal);
  if (!named && !found.every(isPublicAddress)) throw refused;
  return found[0]!;
}

async function addressesOf(host: string, signal: AbortSignal): Promise<string[]> {
  const late = new Promise<never>((_, reject) => {
    signal.addEventListener('abort', () => reject(new Error('the image URL took too long')), { once: true });
  });
  const found = await Promise.race([lookup(host, { all: true }).catch(() => []), late]);
  if (found.length === 0) throw new Error('the host of the image URL cannot be found');
  return found.map(({ address }) => address);
}

async function read(response: IncomingMessage, bytesMax: number, signal: AbortSignal): Promise<Uint8Array> {
  const parts: Buffer[] = [];
  let size = 0;
  try {
    for await (const part of response as AsyncIterable<Buffer>) {
      size += part.length;
      if (size > bytesMax) break;
      parts.push(part);
    }
  } catch {
    throw new Error(signal.aborted ? 'the image URL took too long' : 'the image URL cannot be fetched');
  }
  response.destroy();
  if (size > bytesMax) throw new Error(`the image is larger than ${bytesMax} bytes`);
  return Buffer.concat(parts);
}
