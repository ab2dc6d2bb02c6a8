// hearth pull against a hub of our own on loopback: resume, checksums, gated repositories, hostile names.
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { pull, selectFiles } from '../../server/models/hub.ts';

const weights = Buffer.from(Array.from({ length: 300_000 }, (_, index) => (index * 131) & 255));
const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');

interface FakeFile {
  bytes: Buffer;
  lfs?: boolean;
  announcedSha?: string;
}

let files: Record<string, FakeFile>;
let cutAfter: number | null;
let requests: Array<{ url: string; range: string | undefined; authorization: string | undefined }>;
let gated: boolean;
let server: Server;
let endpoint: string;
let folder: string;

function answer(request: IncomingMessage, response: ServerResponse): void {
  const url = request.url ?? '';
  requests.push({ url, range: request.headers.range, authorization: request.headers.authorization });
  if (gated && request.headers.authorization !== 'Bearer hf_right') return void response.writeHead(401).end('{}');
  if (url.startsWith('/api/models/org/tiny/tree/main')) {
    const tree = Object.entries(files).map(([path, { bytes, lfs, announcedSha }]) => ({
      type: 'file',
      path,
      size: bytes.length,
      oid: createHash('sha1').update(bytes).digest('hex'),
      ...(lfs ? { lfs: { oid: announcedSha ?? sha256(bytes), size: bytes.length, pointerSize: 130 } } : {}),
    }));
    return void response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(tree));
  }
  const file = files[decodeURIComponent(url.replace('/org/tiny/resolve/main/', ''))];
  if (!file) return void response.writeHead(404).end('{}');
  const from = Number(request.headers.range?.match(/bytes=(\d+)-/)?.[1] ?? 0);
  response.writeHead(from > 0 ? 206 : 200, { 'content-length': file.bytes.length - from });
  if (cutAfter !== null && file.lfs) {
    const piece = file.bytes.subarray(from, from + cutAfter);
    response.write(piece);
    // Once it lies on the disk: a busy machine may need longer for that than any time chosen here.
    const part = join(`${target()}.partial`, 'model.safetensors.part');
    const watch = setInterval(() => {
      if ((statSync(part, { throwIfNoEntry: false })?.size ?? 0) < from + piece.length) return;
      clearInterval(watch);
      response.destroy();
    }, 5);
  } else response.end(file.bytes.subarray(from));
}

beforeAll(async () => {
  server = createServer(answer);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => new Promise((resolve) => server.close(resolve)));

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'hearth-hub-'));
  requests = [];
  cutAfter = null;
  gated = false;
  files = {
    'config.json': { bytes: Buffer.from('{"model_type":"llama"}') },
    'tokenizer.json': { bytes: Buffer.from('{}') },
    'model.safetensors': { bytes: weights, lfs: true },
    'pytorch_model.bin': { bytes: weights, lfs: true },
  };
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const target = () => join(folder, 'tiny');
const pullTiny = (more = {}) => pull({ repo: 'org/tiny', target: target(), endpoint, ...more });

describe('hearth pull', () => {
  it('brings the files that serve the model and no others', async () => {
    await pullTiny();
    expect(readFileSync(join(target(), 'model.safetensors')).equals(weights)).toBe(true);
    expect(readFileSync(join(target(), 'config.json'), 'utf8')).toContain('llama');
    expect(existsSync(join(target(), 'pytorch_model.bin'))).toBe(false);
  });

  it('goes on where a download broke off', async () => {
    cutAfter = 100_000;
    await expect(pullTiny()).rejects.toThrow(/again/);
    expect(existsSync(target())).toBe(false);
    cutAfter = null;
    await pullTiny();
    const resumed = requests.filter(({ url, range }) => url.includes('model.safetensors') && range);
    expect(Number(resumed[0]?.range?.match(/\d+/)?.[0])).toBeGreaterThan(0);
    expect(readFileSync(join(target(), 'model.safetensors')).equals(weights)).toBe(true);
  });

  it('begins again with what has changed on the hub since a download broke off', async () => {
    cutAfter = 100_000;
    await expect(pullTiny()).rejects.toThrow(/again/);
    cutAfter = null;
    const newer = Buffer.from(weights.map((byte) => byte ^ 1));
    files['config.json'] = { bytes: Buffer.from('{"model_type":"qwen2"}') };
    files['model.safetensors'] = { bytes: newer, lfs: true };
    requests = [];
    await pullTiny();
    expect(readFileSync(join(target(), 'config.json'), 'utf8')).toContain('qwen2');
    expect(readFileSync(join(target(), 'model.safetensors')).equals(newer)).toBe(true);
    expect(requests.some(({ url }) => url.includes('tokenizer.json'))).toBe(false);
    expect(readdirSync(target()).sort()).toEqual(['config.json', 'model.safetensors', 'tokenizer.json']);
  });

  it('throws away a file whose checksum is wrong', async () => {
    files['model.safetensors'] = { bytes: weights, lfs: true, announcedSha: '0'.repeat(64) };
    await expect(pullTiny()).rejects.toThrow(/model\.safetensors: the checksum is wrong/);
    expect(existsSync(join(`${target()}.partial`, 'model.safetensors.part'))).toBe(false);
    expect(existsSync(target())).toBe(false);
  });

  it('says what to do about a gated repository, and uses the token when there is one', async () => {
    gated = true;
    await expect(pullTiny()).rejects.toThrow(/HF_TOKEN/);
    await pullTiny({ token: 'hf_right' });
    expect(requests.at(-1)?.authorization).toBe('Bearer hf_right');
  });

  it('refuses names that leave the folder', async () => {
    files['../evil.json'] = { bytes: Buffer.from('{}') };
    await expect(pullTiny()).rejects.toThrow(/outside the model's folder/);
    expect(existsSync(join(folder, 'evil.json'))).toBe(false);
  });

  it('refuses a repository without weights it can load, and one that is not there', async () => {
    delete files['model.safetensors'];
    await expect(pullTiny()).rejects.toThrow(/holds no safetensors/);
    await expect(pull({ repo: 'org/none', target: target(), endpoint })).rejects.toThrow(/not on the hub/);
  });

  it('does not write over a model that is there', async () => {
    mkdirSync(target());
    writeFileSync(join(target(), 'mine'), 'x');
    await expect(pullTiny()).rejects.toThrow(/exists already/);
  });

  it('reports progress up to the total', async () => {
    let last = { doneBytes: 0, totalBytes: 0 };
    await pullTiny({ onProgress: (progress: typeof last) => (last = progress) });
    expect(last.doneBytes).toBe(last.totalBytes);
  });
});

describe('selectFiles', () => {
  it('takes .pt only where there are no safetensors, and keeps VILA folders', () => {
    const file = (path: string) => ({ path, size: 1, sha256: null, version: path });
    const vila = ['config.json', 'llm/config.json', 'llm/vila-1.5-3b-w4-g128-awq-v2.pt', 'original/x.pth'].map(file);
    expect(selectFiles(vila).map(({ path }) => path)).toEqual([
      'config.json',
      'llm/config.json',
      'llm/vila-1.5-3b-w4-g128-awq-v2.pt',
    ]);
  });
});
