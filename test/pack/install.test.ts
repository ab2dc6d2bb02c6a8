// The package in an empty folder: npm install, then hearth as a user runs it, far from the clone.

import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const work = mkdtempSync(join(tmpdir(), 'hearth-install-'));
const app = join(work, 'app');
const hearth = (...args: string[]) => execFileSync('npx', ['hearth', ...args], { cwd: app, encoding: 'utf8' });

beforeAll(() => {
  execFileSync(process.execPath, ['scripts/pack.mjs', '--out', work], { cwd: root });
  const archives = readdirSync(work).filter((name) => name.endsWith('.tgz'));
  expect(archives.map((name) => name.replace(/-[\d.]+\.tgz$/, '')).sort()).toEqual([
    'hearth',
    `hearth-engine-linux-${process.arch}`,
  ]);
  for (const archive of archives) expect(statSync(join(work, archive)).size).toBeLessThan(40e6);
  mkdirSync(app);
  execFileSync('npm', ['install', '--no-audit', '--no-fund', ...archives.map((name) => `../${name}`)], { cwd: app });
});
afterAll(() => rmSync(work, { recursive: true, force: true }));

/** `npx hearth serve` on any free port, once it says that it is ready. */
async function serve() {
  // The bin itself: npx would stand between the signal and the server.
  const bin = join(app, 'node_modules', '.bin', 'hearth');
  const child = spawn(bin, ['serve', '--port', '0', '--log-format', 'text'], { cwd: app });
  const ended = new Promise<number | null>((resolve) => child.once('exit', resolve));
  let output = '';
  const url = await new Promise<string>((resolve, reject) => {
    const read = (chunk: Buffer) => {
      output += chunk;
      const ready = /serves \S+ on (http:\/\/\S+) \(ready/.exec(output)?.[1];
      if (ready) resolve(ready);
    };
    child.stdout.on('data', read);
    child.stderr.on('data', read);
    void ended.then((code) => reject(new Error(`ended with ${code}: ${output}`)));
  });
  return { url, child, ended };
}

describe('the installed package', () => {
  it('takes its engine from the package of this platform and has nothing built', () => {
    const report = JSON.parse(hearth('doctor', '--json')) as { devices: unknown[] };
    expect(report.devices).toHaveLength(1);
    expect(existsSync(join(app, 'node_modules/hearth/engine-native/build'))).toBe(false);
    expect(existsSync(join(app, `node_modules/hearth-engine-linux-${process.arch}/libhearth.so`))).toBe(true);
  });

  it('prints its help and what it found on this machine', () => {
    expect(hearth('--help')).toContain('hearth <command> [options]');
    expect(JSON.parse(hearth('doctor', '--json'))).toHaveProperty('devices');
  });

  it('lists the models that it brings along', () => {
    const { local } = JSON.parse(hearth('list', '--json')) as { local: Array<{ name: string; path: string }> };
    const shipped = local.filter(({ path }) => path.startsWith(app)).map(({ name }) => name);
    expect(shipped).toEqual(expect.arrayContaining(['hearth-tiny-vl', 'hearth-tiny-vl-awq']));
  });

  it('serves the page and an answer, and ends with 0 on SIGTERM', async () => {
    const { url, child, ended } = await serve();
    const page = await fetch(url);
    expect(page.headers.get('content-type')).toContain('text/html');
    const answer = await fetch(`${url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ temperature: 0, max_tokens: 16, messages: [{ role: 'user', content: 'Hello' }] }),
    });
    expect(answer.status).toBe(200);
    const { choices } = (await answer.json()) as { choices: [{ message: { content: string } }] };
    expect(choices[0].message.content).not.toBe('');
    child.kill('SIGTERM');
    expect(await ended).toBe(0);
  });

  it('talks in the terminal from another folder', () => {
    const bin = join(app, 'node_modules', '.bin', 'hearth');
    const said = execFileSync(bin, ['chat', 'hearth-tiny-vl-awq', '--once', 'Hello', '--max-tokens', '8'], {
      cwd: work,
      encoding: 'utf8',
    });
    expect(said.trim()).not.toBe('');
  });
});

describe('without an engine for the platform', () => {
  it('builds the sources that the package brings', () => {
    const elsewhere = join(work, 'elsewhere');
    mkdirSync(elsewhere);
    const archive = readdirSync(work).find((name) => /^hearth-\d/.test(name))!;
    execFileSync('npm', ['install', '--no-audit', '--no-fund', `../${archive}`], { cwd: elsewhere });
    rmSync(join(elsewhere, `node_modules/hearth-engine-linux-${process.arch}`), { recursive: true, force: true });
    const report = execFileSync('npx', ['hearth', 'doctor', '--json'], { cwd: elsewhere, encoding: 'utf8' });
    expect(JSON.parse(report.slice(report.indexOf('{')))).toHaveProperty('devices');
    expect(existsSync(join(elsewhere, 'node_modules/hearth/engine-native/build/libhearth.so'))).toBe(true);
  }, 1_200_000);
});
