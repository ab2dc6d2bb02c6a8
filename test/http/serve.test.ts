// The process around the app: settings from three places, problems in one line, start, drain.

import { execFile, spawn, spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { readSettings, settingsHelp, settingsSchema, UsageError } from '../../server/config.ts';
import { EngineError } from '../../server/engine/port.ts';
import { serve } from '../../server/main.ts';
import { gate } from '../support/gate.ts';
import { ScriptedEngine, type ScriptedOptions } from '../support/scripted-engine.ts';

const folder = mkdtempSync(join(tmpdir(), 'hearth-serve-'));
afterAll(() => rmSync(folder, { recursive: true }));
const fileOf = (name: string, text: string) => {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
};

describe('settings', () => {
  it('a flag wins over the environment, the environment over the file, the file over the default', () => {
    const config = fileOf('config.yaml', 'port: 1\nhost: from-file\ndrain-seconds: 5\nlenient: true\n');
    const { settings, sources } = readSettings(['--port', '3', '--config', config], {
      HEARTH_PORT: '2',
      HEARTH_HOST: 'from-env',
    });
    expect(settings).toMatchObject({ port: 3, host: 'from-env', drainSeconds: 5, lenient: true, maxChoices: 16 });
    expect(sources).toMatchObject({ port: 'flag', host: 'environment', drainSeconds: 'file' });
  });

  it('switches and lists are read in every spelling', () => {
    expect(readSettings(['--no-auth', '--cors-origins=https://a,http://b:1', '--lenient'], {}).settings).toMatchObject({
      auth: false,
      corsOrigins: ['https://a', 'http://b:1'],
      lenient: true,
    });
    expect(readSettings([], { HEARTH_AUTH: 'off', HEARTH_LENIENT: '1' }).settings).toMatchObject({
      auth: false,
      lenient: true,
    });
  });

  it('what is wrong is one line that names the setting where it was given', () => {
    const unknown = fileOf('unknown.yaml', 'prot: 1\n');
    for (const [argv, env, words] of [
      [['--prot', '1'], {}, /^unknown option --prot/],
      [['serve'], {}, /^unexpected argument 'serve'/],
      [['--port'], {}, /^option --port needs a value/],
      [['--model', ''], {}, /^option --model has an empty value/],
      [['--model='], {}, /^option --model has an empty value/],
      [['--port', '70000'], {}, /^--port: must be at most 65535$/],
      [['--port', '1.5'], {}, /^--port: must be a whole number, not '1\.5'$/],
      [['--device', 'tpu'], {}, /^--device: must be 'auto', 'cpu' or 'cuda'$/],
      [[], { HEARTH_PORT: 'x' }, /^HEARTH_PORT: /],
      [['--config', unknown], {}, /unknown setting 'prot'/],
      [['--config', join(folder, 'none')], {}, /^config file .*ENOENT/],
      [['--tls-cert', 'x'], {}, /belong together/],
      [['--base-path', 'x/'], {}, /^--base-path/],
      [['--cors-origins', 'https://app.example/'], {}, /^--cors-origins: 'https:\/\/app\.example\/' is no origin/],
      [['--allowed-hosts', 'app.example:443'], {}, /^--allowed-hosts: 'app\.example:443' must be a name/],
      [['--no-port'], {}, /^unknown option/],
    ] as const) {
      const run = () => readSettings(argv, env);
      expect(run).toThrow(UsageError);
      expect(run).toThrow(words);
      expect(run).not.toThrow(/\n/);
    }
  });

  it('the help names every setting', () => {
    const help = settingsHelp();
    for (const name of Object.keys(settingsSchema.shape)) {
      expect(help).toContain(`-${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`);
    }
  });
});

/** A server on a free port over a scripted engine; `stop` sends the signal. */
function start(argv: string[] = [], options: ScriptedOptions & { open?: () => Promise<ScriptedEngine> } = {}) {
  let text = '';
  const out = new Writable({
    write(chunk, _encoding, done) {
      text += chunk;
      done();
    },
  });
  let stop = (_signal: string) => {};
  const stopped = new Promise<string>((resolve) => {
    stop = resolve;
  });
  const done = serve({
    argv: ['--port', '0', '--log-format', 'json', ...argv],
    env: {},
    out,
    stop: stopped,
    openEngine: options.open ?? (async () => new ScriptedEngine(options)),
  });
  done.catch(() => {});
  const lines = () =>
    text
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line));
  const url = async () => {
    for (;;) {
      const line = lines().find(({ stage }) => stage === 'listening');
      if (line) return line.detail as string;
      await Promise.race([done, new Promise((resolve) => setTimeout(resolve, 10))]);
    }
  };
  return { done, stop: () => stop('SIGTERM'), url, lines };
}

const ask = (url: string, model = 'default') =>
  fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model, messages: [{ role: 'user', content: 'a secret' }], stream: true }),
  });

describe('hearth serve', () => {
  it('answers while it loads, serves, drains on a signal, and logs no prompt', async () => {
    const [loading, answering] = [gate(), gate()];
    const engine = new ScriptedEngine({ reply: () => ({ tokens: ['a', 'b', 'c'], after: answering.opened }) });
    const server = start([], {
      open: async () => {
        await loading.opened;
        return engine;
      },
    });
    const url = await server.url();
    expect((await fetch(`${url}/health`)).status).toBe(503);
    loading.open();
    while ((await fetch(`${url}/health`)).status !== 200) await new Promise((resolve) => setTimeout(resolve, 10));
    const streaming = ask(url).then((response) => response.text());
    while (engine.live.size === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    server.stop();
    while ((await fetch(`${url}/health/ready`)).status === 200) await new Promise((resolve) => setTimeout(resolve, 5));
    answering.open();
    expect(await streaming).toMatch(/\[DONE\]\n\n$/);
    await server.done;
    await expect(fetch(`${url}/health`)).rejects.toThrow();
    const log = JSON.stringify(server.lines());
    expect(log).not.toContain('secret');
    expect(server.lines()).toContainEqual(expect.objectContaining({ msg: 'request', method: 'POST', status: 200 }));
  });

  it('tells what its owner should know of a model, of those loaded later too: notes, a template that serves no chat', async () => {
    const info = { notes: ['x.safetensors: not read'], chatTemplate: '{% for m in messages %}{{ m.content }' };
    const server = start(['--shape', 'llama-1.1b', '--more-models', `later=${fileOf('later.gguf', 'GGUF')}`], {
      models: [],
      loadable: { 'llama-1.1b': { info }, later: { info: { ...info, chatTemplate: '{{ messages | nonsense }}' } } },
    });
    const url = await server.url();
    const told = (name: string) => {
      const of = server.lines().filter(({ model, msg }) => model === name || String(msg).startsWith(`${name}: `));
      return of.map(({ level, msg }) => `${level} ${msg}`);
    };
    while (!server.lines().some(({ msg }) => String(msg).startsWith('Hearth serves'))) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    expect(told('llama-1.1b').join('\n')).toMatch(
      /^30 model loaded\n30 llama-1.1b: x.safetensors: not read\n40 the model's chat template cannot be read.*--chat-template FILE/,
    );
    const refused = await ask(url);
    expect([refused.status, await refused.text()]).toEqual([
      500,
      expect.stringContaining('its chat template cannot be read: '),
    ]);
    expect((await ask(url, 'later')).status).toBe(400);
    while (told('later').length < 3) await new Promise((resolve) => setTimeout(resolve, 5));
    expect(told('later')[2]).toMatch(/^40 the model's chat template fails on a plain message/);
    server.stop();
    await server.done;
  });

  it('a port in use, an engine that refuses, keys that are missing: a UsageError', async () => {
    const taken = createServer();
    await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve));
    const { port } = taken.address() as { port: number };
    await expect(start(['--port', String(port)]).done).rejects.toThrow(/the port is in use/);
    taken.close();
    const refuse = new EngineError('corrupt', 'model.safetensors: tensor a.b is truncated');
    await expect(start([], { open: () => Promise.reject(refuse) }).done).rejects.toThrow(UsageError);
    await expect(start(['--api-key-file', fileOf('bad-keys', 'k rpm=x')]).done).rejects.toThrow(/line 1: rpm=/);
    await expect(start(['--api-key-file', join(folder, 'none')]).done).rejects.toThrow(/--api-key-file/);
    await expect(start(['--model', join(folder, 'none')]).done).rejects.toThrow(UsageError);
  });

  it('beyond loopback without a key makes one, shows it once, and asks for it', async () => {
    const server = start(['--host', '0.0.0.0', '--log-level', 'error']);
    const shown = () => server.lines().find(({ msg }) => /No API key/.test(msg))?.msg as string | undefined;
    while (!shown()) await Promise.race([server.done, new Promise((resolve) => setTimeout(resolve, 10))]);
    const [, key] = / for this run: (hearth-[\w-]{32})\n/.exec(shown()!)!;
    const [, url] = /curl (http:\/\/\S+)\/v1\/chat\/completions /.exec(shown()!)!;
    expect(url).not.toContain('0.0.0.0');
    const local = url!.replace(/\/\/[^:]+:/, '//127.0.0.1:');
    const status = async (headers: Record<string, string>) => (await fetch(`${local}/v1/models`, { headers })).status;
    expect(await status({})).toBe(401);
    while ((await status({ authorization: `Bearer ${key}` })) === 503)
      await new Promise((resolve) => setTimeout(resolve, 10));
    expect(await status({ authorization: `Bearer ${key}` })).toBe(200);
    server.stop();
    await server.done;
    expect(server.lines().filter((line) => JSON.stringify(line).includes(key!))).toHaveLength(1);
  });

  it('beyond loopback with --no-auth asks for none', async () => {
    const server = start(['--host', '0.0.0.0', '--no-auth']);
    const url = (await server.url()).replace('0.0.0.0', '127.0.0.1');
    expect((await fetch(`${url}/v1/models`)).status).not.toBe(401);
    server.stop();
    await server.done;
    expect(JSON.stringify(server.lines())).not.toContain('No API key');
  });

  it('reads keys again when their file changes', async () => {
    const keys = fileOf('keys', '# team\nold\n');
    const server = start(['--api-key-file', keys]);
    const url = await server.url();
    const status = async (key: string) => (await fetch(`${url}/v1/models`, { headers: { 'x-api-key': key } })).status;
    while ((await status('old')) === 503) await new Promise((resolve) => setTimeout(resolve, 10));
    expect([await status('old'), await status('new')]).toEqual([200, 401]);
    await new Promise((resolve) => setTimeout(resolve, 1100));
    writeFileSync(keys, 'new\n');
    expect([await status('new'), await status('old')]).toEqual([200, 401]);
    server.stop();
    await server.done;
  });
});

describe('the command line', () => {
  const main = fileURLToPath(new URL('../../server/cli/main.ts', import.meta.url));
  const run = (...argv: string[]) =>
    new Promise<{ code: number; out: string; err: string }>((resolve) => {
      const child = execFile(process.execPath, ['--import', 'tsx', main, ...argv], (_error, out, err) => {
        resolve({ code: child.exitCode ?? -1, out, err });
      });
    });

  it('says what is wrong in one line, with exit code 2', async () => {
    const results = await Promise.all([
      run('nope'),
      run('serve', '--nope'),
      run('doctor', '--nope'),
      run('chat', '--url', 'x'),
      run('list', '--memory', 'x'),
      run('pull', '../x'),
    ]);
    for (const { code, err } of results) {
      expect(code).toBe(2);
      expect(err).toMatch(/^hearth: [^\n]+\n$/);
    }
  }, 60_000);

  it('says in one line that the folder of models is none', () => {
    const { status, stderr } = spawnSync(process.execPath, ['--import', 'tsx', main, 'list'], {
      env: { ...process.env, HEARTH_MODELS: fileOf('models.txt', '') },
      encoding: 'utf8',
    });
    expect([status, stderr]).toEqual([2, expect.stringMatching(/^hearth: ENOTDIR: [^\n]+models\.txt'\n$/)]);
  }, 60_000);

  it('ends when certificates cannot be read or are none', async () => {
    const text = fileOf('no.pem', 'no certificate');
    for (const [path, words] of [
      ['/nowhere', /cannot read/],
      [text, /PEM/i],
    ] as const) {
      const { code, err } = await run('serve', '--port', '0', '--tls-cert', path, '--tls-key', path);
      expect([code, err]).toEqual([2, expect.stringMatching(words)]);
    }
  }, 60_000);

  it('chat goes to the server that was named, under its base path too, and to no other', async () => {
    const engine = () => Promise.resolve(new ScriptedEngine({ reply: () => ({ tokens: ['Good', ' day'] }) }));
    const server = start(['--base-path', '/llm'], { open: engine });
    const url = await server.url();
    while ((await fetch(`${url}/health`)).status !== 200) await new Promise((resolve) => setTimeout(resolve, 10));
    for (const spelling of [url, `${url}/`, `${url}/v1`]) {
      expect(await run('chat', '--url', spelling, '--once', 'Hi')).toMatchObject({ code: 0, out: 'Good day\n' });
    }
    server.stop();
    await server.done;
    for (const [given, words] of [
      [url, /^hearth: no server answers at /],
      ['nowhere', /^hearth: --url: 'nowhere'/],
    ] as const) {
      const { code, err } = await run('chat', '--url', given, '--once', 'Hi');
      expect([code, err]).toEqual([2, expect.stringMatching(words)]);
    }
  }, 60_000);

  it('says its version', async () => {
    expect((await run('--version')).out).toMatch(/^hearth \d+\.\d+\.\d+\n$/);
  }, 60_000);

  it('does not mind a reader that has read enough', async () => {
    const child = spawn(process.execPath, ['--import', 'tsx', main, 'list']);
    child.stdout.destroy();
    let err = '';
    child.stderr.on('data', (data) => {
      err += data;
    });
    expect(await new Promise((resolve) => child.once('close', resolve))).toBe(0);
    expect(err).toBe('');
  }, 60_000);

  it('says that what it prints has no room, and serves without its log', async () => {
    const full = openSync('/dev/full', 'w');
    const onFullDisk = (...argv: string[]) => {
      const { status, stderr } = spawnSync(process.execPath, ['--import', 'tsx', main, ...argv], {
        stdio: ['ignore', full, 'pipe'],
        encoding: 'utf8',
      });
      return [status, stderr];
    };
    expect(onFullDisk('list')).toEqual([1, 'hearth: cannot write: ENOSPC\n']);
    // It listened, which it logs, and went on to the engine.
    const missing = onFullDisk('serve', '--port', '0', '--engine-library', '/nowhere');
    expect(missing).toEqual([2, 'hearth: /nowhere is not built: run npm start once\n']);
    closeSync(full);
  }, 60_000);

  it('has help for everything', async () => {
    const [all, serving] = await Promise.all([run('--help'), run('serve', '--help')]);
    expect([all.code, serving.code]).toEqual([0, 0]);
    expect(all.out).toContain('doctor');
    expect(serving.out).toContain('--drain-seconds');
  }, 60_000);
});
