// wire-contract.md, 44: X-Forwarded-* count only with trustProxy. And TLS by option, with the SDK as its client.

import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { request as httpsRequest } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { serve } from '../../server/main.ts';
import { testApp } from '../support/app.ts';
import { ScriptedEngine } from '../support/scripted-engine.ts';
import { ask } from './support.ts';

const forwarded = {
  'x-forwarded-for': '203.0.113.9',
  'x-forwarded-proto': 'https',
  'x-forwarded-host': 'chat.example',
  'x-forwarded-prefix': '/llm',
};

/** Where the server says it is, to a request with these headers. */
async function placeOf(settings: { trustProxy?: boolean; basePath?: string }, headers: Record<string, string>) {
  const current = await testApp({ settings });
  const url = `${settings.basePath ?? ''}/openapi.json`;
  const answer = await current.app.inject({ url, headers: { host: 'localhost:8080', ...headers } });
  await current.close();
  return answer.json().servers[0].url;
}

describe('44. X-Forwarded-Proto, -Host and -Prefix', () => {
  it('are not looked at without trustProxy', async () => {
    expect(await placeOf({}, forwarded)).toBe('http://localhost:8080');
    expect(await placeOf({ basePath: '/own' }, forwarded)).toBe('http://localhost:8080/own');
  });

  it('are believed with it, and a prefix that is none is left out', async () => {
    expect(await placeOf({ trustProxy: true }, forwarded)).toBe('https://chat.example/llm');
    expect(await placeOf({ trustProxy: true, basePath: '/own' }, forwarded)).toBe('https://chat.example/llm/own');
    expect(await placeOf({ trustProxy: true }, {})).toBe('http://localhost:8080');
    for (const prefix of ['llm', '/a b', '//evil.example', '/a/"', '/<script>']) {
      expect(await placeOf({ trustProxy: true }, { ...forwarded, 'x-forwarded-prefix': prefix })).toBe(
        'https://chat.example',
      );
    }
  });

  it('never open the Host allow-list, with or without it', async () => {
    for (const trustProxy of [true, false]) {
      const current = await testApp({ settings: { trustProxy } });
      const headers = { host: 'evil.example', 'x-forwarded-host': 'localhost' };
      expect((await current.app.inject({ url: '/v1/models', headers })).statusCode).toBe(403);
      await current.close();
    }
  });
});

describe('TLS', () => {
  const folder = mkdtempSync(join(tmpdir(), 'hearth-tls-'));
  const [cert, key] = [join(folder, 'cert.pem'), join(folder, 'key.pem')];
  let text = '';
  let stop = (_signal: string) => {};
  let done: Promise<void>;
  let url = '';

  beforeAll(async () => {
    // Self-signed, for this run only.
    const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1', '-days', '2'];
    const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
    execFileSync('openssl', ['req', '-x509', ...curve, '-keyout', key, '-out', cert, ...subject], { stdio: 'pipe' });
    const out = new Writable({
      write(chunk, _encoding, written) {
        text += chunk;
        written();
      },
    });
    done = serve({
      argv: ['--port', '0', '--log-format', 'json', '--tls-cert', cert, '--tls-key', key],
      env: {},
      out,
      stop: new Promise((resolve) => {
        stop = resolve;
      }),
      openEngine: async () => new ScriptedEngine(),
    });
    while (!text.includes('Hearth serves'))
      await Promise.race([done, new Promise((resolve) => setTimeout(resolve, 10))]);
    url = /https:\/\/[\d.:]+/.exec(text)![0];
  });

  afterAll(async () => {
    stop('SIGTERM');
    await done;
    rmSync(folder, { recursive: true });
  });

  const send = (options: object) =>
    new Promise<{ status: number; text: string }>((resolve, reject) => {
      const body = JSON.stringify(ask({ stream: true, model: 'default' }));
      const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) };
      httpsRequest(`${url}/v1/chat/completions`, { method: 'POST', headers, ...options }, async (answer) => {
        let received = '';
        for await (const piece of answer) received += piece;
        resolve({ status: answer.statusCode!, text: received });
      })
        .on('error', reject)
        .end(body);
    });

  it('serves streams to a client that trusts the certificate', async () => {
    const answer = await send({ ca: readFileSync(cert) });
    expect(answer.status).toBe(200);
    expect(answer.text).toMatch(/data: \[DONE\]\n\n$/);
  });

  it('is not served to one that does not trust it, nor in the clear', async () => {
    await expect(send({})).rejects.toThrow(/self-signed/);
    await expect(fetch(url.replace('https', 'http'))).rejects.toThrow();
  });

  it('without its files is a UsageError that names the option', async () => {
    const argv = ['--tls-cert', join(folder, 'none.pem'), '--tls-key', key];
    await expect(serve({ argv, env: {}, out: new Writable() })).rejects.toThrow(/^--tls-cert: cannot read .*ENOENT/);
  });
});
