// Real reverse proxies (Debian's nginx and Caddy) in front of a real server with a scripted engine, on loopback.

import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const recipe = (name: string) =>
  readFileSync(fileURLToPath(new URL(`../../docker/proxy/${name}`, import.meta.url)), 'utf8');

function need(program: string): string {
  const path = ['/usr/sbin', '/usr/bin', '/usr/local/bin'].map((folder) => join(folder, program)).find(existsSync);
  if (!path) throw new Error(`${program} is not installed. Install it with: apt-get install -y ${program}`);
  return path;
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return typeof address === 'object' && address ? address.port : 0;
}

export interface RunningProxy {
  url: string;
  close(): Promise<void>;
}

async function run(program: string, args: string[], folder: string, port: number): Promise<RunningProxy> {
  const child: ChildProcess = spawn(program, args, {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, HOME: folder, XDG_DATA_HOME: folder, XDG_CONFIG_HOME: folder },
  });
  let errors = '';
  child.stderr?.on('data', (chunk) => {
    errors = (errors + chunk).slice(-4000);
  });
  const url = `http://127.0.0.1:${port}`;
  for (let tries = 0; ; tries++) {
    const up = await fetch(`${url}/health/live`).then(
      () => true,
      () => false,
    );
    if (up) break;
    if (tries > 100 || child.exitCode !== null) throw new Error(`${program} did not start: ${errors}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const close = async () => {
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGTERM');
    await ended;
    rmSync(folder, { recursive: true, force: true });
  };
  return { url, close };
}

/** nginx with the recipe of docker/proxy, its ports replaced; `prefix` proxies only that path. */
export async function nginx(upstreamPort: number, prefix = '/'): Promise<RunningProxy> {
  const folder = mkdtempSync(join(tmpdir(), 'hearth-nginx-'));
  const port = await freePort();
  const site = recipe('nginx.conf')
    .replace('127.0.0.1:8080', `127.0.0.1:${upstreamPort}`)
    .replace('listen 80;', `listen 127.0.0.1:${port};`)
    .replace('location / {', `location ${prefix} {`);
  const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (name) => `${name}_temp_path ${folder}/${name};`,
  );
  writeFileSync(
    join(folder, 'nginx.conf'),
    `daemon off; worker_processes 1; pid ${folder}/pid; error_log stderr; user root;
events { worker_connections 256; }
http { access_log off; ${paths.join(' ')}
${site}
}`,
  );
  return run(need('nginx'), ['-c', join(folder, 'nginx.conf'), '-p', folder, '-e', 'stderr'], folder, port);
}

/** Caddy with the recipe of docker/proxy on plain HTTP; `prefix` proxies only that path. */
export async function caddy(upstreamPort: number, prefix = '/'): Promise<RunningProxy> {
  const folder = mkdtempSync(join(tmpdir(), 'hearth-caddy-'));
  const port = await freePort();
  const site = recipe('Caddyfile')
    .replace('{$HEARTH_DOMAIN:localhost}', `http://127.0.0.1:${port}`)
    .replace('reverse_proxy {$HEARTH_UPSTREAM', `reverse_proxy ${prefix === '/' ? '' : `${prefix}* `}{$HEARTH_UPSTREAM`)
    .replace('{$HEARTH_UPSTREAM:127.0.0.1:8080}', `127.0.0.1:${upstreamPort}`);
  writeFileSync(join(folder, 'Caddyfile'), `{\n\tadmin off\n\tauto_https off\n}\n${site}`);
  return run(need('caddy'), ['run', '--config', join(folder, 'Caddyfile'), '--adapter', 'caddyfile'], folder, port);
}
