// Runs a server and everything a client may ask of it, and prints what the kernel and the hook counted meanwhile. With
// `control` it reaches out on purpose instead: what looks for attempts must find those.

import { lookup } from 'node:dns/promises';
import { readFileSync } from 'node:fs';
import { Agent, request } from 'node:http';
import { connect } from 'node:net';
import { Writable } from 'node:stream';
import { serve } from '../../../server/main.ts';

export interface Counted {
  /** Attempts that the hook saw. */
  attempts: string[];
  /** IP packets without a route, and UDP datagrams: what this network namespace counted. */
  withoutRoute: number;
  datagrams: number;
  /** What was answered otherwise than expected. */
  statuses: string[];
}

const seen = (globalThis as unknown as { outgoingAttempts: string[] }).outgoingAttempts;

/** A counter of /proc/net, by the names in the line before. */
function counter(file: string, name: string): number {
  const lines = readFileSync(`/proc/self/net/${file}`, 'utf8').split('\n');
  if (file === 'snmp6') return Number(new RegExp(`^${name}\\s+(\\d+)`, 'm').exec(lines.join('\n'))?.[1] ?? 0);
  const [protocol, field] = name.split('.') as [string, string];
  const [head, values] = lines.filter((line) => line.startsWith(`${protocol}:`)) as [string, string];
  return Number(values.split(' ')[head.split(' ').indexOf(field)]);
}

const counts = () => ({
  withoutRoute: counter('snmp', 'Ip.OutNoRoutes') + counter('snmp6', 'Ip6OutNoRoutes'),
  datagrams: counter('snmp', 'Udp.OutDatagrams') + counter('snmp6', 'Udp6OutDatagrams'),
});

async function reachOut(): Promise<void> {
  await new Promise((resolve) => {
    const socket = connect(9, '192.0.2.1');
    socket.on('error', resolve);
    socket.setTimeout(500, () => socket.destroy(new Error('timeout')));
  });
  await lookup('hearth.invalid').catch(() => {});
}

const agent = new Agent({ keepAlive: true });

function send(url: string, method: string, body?: unknown): Promise<number> {
  return new Promise((resolve, reject) => {
    const text = body === undefined ? undefined : JSON.stringify(body);
    const headers = text === undefined ? {} : { 'content-type': 'application/json' };
    const sent = request(url, { method, agent, headers }, (response) => {
      response.resume();
      response.on('end', () => resolve(response.statusCode!));
    });
    sent.on('error', reject);
    sent.end(text);
  });
}

async function useEverything(url: string): Promise<string[]> {
  const messages = [{ role: 'user', content: 'Tell me a story.' }];
  const png = readFileSync(new URL('../../../docs/screenshots/status-dark.png', import.meta.url)).toString('base64');
  const picture = (link: string) => [
    {
      role: 'user',
      content: [
        { type: 'image_url', image_url: { url: link } },
        { type: 'text', text: 'What?' },
      ],
    },
  ];
  const calls: Array<[status: number, path: string, body?: unknown]> = [
    [200, '/docs'],
    [200, '/openapi.json'],
    [200, '/metrics'],
    [200, '/v1/models'],
    [200, '/v1/chat/completions', { messages, max_tokens: 8 }],
    [200, '/v1/chat/completions', { messages, max_tokens: 8, stream: true }],
    [200, '/v1/chat/completions', { messages: picture(`data:image/png;base64,${png}`), max_tokens: 4 }],
    // Off by default: refused, and nobody is asked for the address.
    [400, '/v1/chat/completions', { messages: picture('http://192.0.2.1/x.png') }],
    [400, '/v1/chat/completions', { messages: picture('https://hearth.invalid/x.png') }],
    [200, '/v1/completions', { prompt: 'Once', max_tokens: 4, model: 'tinystories-656k' }],
    [404, '/v1/completions', { prompt: 'x', model: 'someone/some-model' }],
    [200, '/v1/responses', { input: 'Hi', max_output_tokens: 4 }],
    [200, '/v1/messages', { messages, max_tokens: 4 }],
    [200, '/v1/embeddings', { input: 'x' }],
    [200, '/tokenize', { prompt: 'x' }],
    [200, '/admin/models/unload', { model: 'tinystories-656k' }],
    [404, '/admin/models/load', { model: 'someone/some-model' }],
  ];
  const wrong: string[] = [];
  for (const [expected, path, body] of calls) {
    const status = await send(url + path, body === undefined ? 'GET' : 'POST', body);
    if (status !== expected) wrong.push(`${path} ${JSON.stringify(body)?.slice(0, 60)}: ${status}`);
  }
  return wrong;
}

async function serveAndUse(library: string): Promise<string[]> {
  let log = '';
  const out = new Writable({
    write(chunk, _encoding, written) {
      log += chunk;
      written();
    },
  });
  let stop = (_signal: string) => {};
  const stopped = new Promise<string>((resolve) => {
    stop = resolve;
  });
  const argv = ['--port', '0', '--log-format', 'json', '--device', 'cpu', '--engine-library', library];
  const done = serve({ argv: [...argv, '--more-models', 'tinystories-656k'], env: {}, out, stop: stopped });
  while (!log.includes('Hearth serves')) await Promise.race([done, new Promise((resolve) => setTimeout(resolve, 10))]);
  const url = /http:\/\/127\.0\.0\.1:\d+/.exec(log)![0];
  try {
    return await useEverything(url);
  } finally {
    agent.destroy();
    stop('SIGTERM');
    await done;
  }
}

const before = counts();
const [library, mode] = process.argv.slice(2);
const statuses = mode === 'control' ? [] : await serveAndUse(library!);
if (mode === 'control') await reachOut();
const after = counts();
const counted: Counted = {
  attempts: seen,
  withoutRoute: after.withoutRoute - before.withoutRoute,
  datagrams: after.datagrams - before.datagrams,
  statuses,
};
console.log(JSON.stringify(counted));
