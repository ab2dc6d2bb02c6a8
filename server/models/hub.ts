// Pulling a model from the hub: only the files that serve it, resumed where a download broke off, checked against the
// hub's checksums, and never visible half-done: everything lands in `<target>.partial` and is renamed when complete.
import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join, normalize, sep } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { HUB_URL, type ListFileEntry, listFiles } from '@huggingface/hub';
import { HubError } from './hub-error.ts';

export interface PullOptions {
  /** "owner/name" on the hub. */
  repo: string;
  revision?: string;
  /** Folder the model becomes; must not exist yet. */
  target: string;
  /** Mirror (HF_ENDPOINT); the hub itself when absent. */
  endpoint?: string;
  token?: string;
  signal?: AbortSignal;
  onProgress?: (progress: PullProgress) => void;
}

export interface PullProgress {
  file: string;
  doneBytes: number;
  totalBytes: number;
}

export interface HubFile {
  path: string;
  size: number;
  /** sha256 of large files; the hub gives none for small ones. */
  sha256: string | null;
  /** Changes with the contents: the hub's own name for them. */
  version: string;
}

/** Files worth having: weights as safetensors (else llm-awq's .pt), configuration, tokenizer, templates, licences. */
export function selectFiles(files: HubFile[]): HubFile[] {
  const top = files.filter(({ path }) => !/(^|\/)(original|onnx|openvino|coreml|gguf|\.(?!\.))[^/]*\//.test(path));
  const side = /\.(json|jinja|txt|md)$|(^|\/)(tokenizer\.model|LICENSE[^/]*|NOTICE[^/]*|USE_POLICY[^/]*)$/i;
  const safetensors = top.some(({ path }) => path.endsWith('.safetensors'));
  const weights = safetensors ? /\.safetensors$/ : /-v2\.pt$/;
  return top.filter(({ path }) => side.test(path) || weights.test(path));
}

/** A path from the hub as a path below the target; refuses one that would leave it. */
function below(folder: string, path: string): string {
  const inner = normalize(path);
  if (inner.startsWith('..') || inner.startsWith(sep) || path.includes('\0')) {
    throw new HubError(
      `the hub names a file outside the model's folder (${JSON.stringify(path)}); refusing to write it`,
    );
  }
  return join(folder, inner);
}

const toHubFile = ({ path, size, oid, lfs }: ListFileEntry): HubFile => {
  const sha256 = lfs?.oid ?? null;
  return { path, size, sha256, version: sha256 ?? oid ?? '' };
};

async function list(options: PullOptions): Promise<HubFile[]> {
  const files: HubFile[] = [];
  try {
    const entries = listFiles({
      repo: options.repo,
      recursive: true,
      revision: options.revision ?? 'main',
      hubUrl: options.endpoint ?? HUB_URL,
      ...(options.token ? { accessToken: options.token } : {}),
    });
    for await (const entry of entries) {
      if (entry.type === 'file') files.push(toHubFile(entry));
    }
  } catch (error) {
    throw explain(error, options);
  }
  const selected = selectFiles(files);
  if (!selected.some(({ path }) => /\.(safetensors|pt)$/.test(path))) {
    throw new HubError(`${options.repo} holds no safetensors (and no llm-awq .pt): nothing here that Hearth can load`);
  }
  return selected;
}

function explain(error: unknown, options: PullOptions): HubError {
  const status = (error as { statusCode?: number }).statusCode;
  if (status === 401 || status === 403) {
    const how = options.token
      ? 'this token may not read it: accept its licence on the hub first'
      : 'set HF_TOKEN to a token that may read it';
    return new HubError(`${options.repo} is private or gated: ${how}`);
  }
  if (/must start with 'hf_'/.test((error as Error).message))
    return new HubError("HF_TOKEN is not a hub token: those start with 'hf_'");
  if (status === 404) return new HubError(`${options.repo} (${options.revision ?? 'main'}) is not on the hub`);
  return new HubError(
    `the hub did not answer (${(error as Error).message}); run the command again, it goes on where it stopped`,
  );
}

const sizeOf = (path: string): Promise<number> =>
  stat(path)
    .then((found) => found.size)
    .catch(() => -1);

async function sha256Of(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

/** Brings one file to `path`, continuing `path.part`; returns when its size and checksum are right. */
async function download(
  file: HubFile,
  path: string,
  options: PullOptions,
  advance: (bytes: number) => void,
): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const part = `${path}.part`;
  let have = Math.max(0, await sizeOf(part));
  if (have > file.size) {
    await rm(part);
    have = 0;
  }
  if (have < file.size || file.size === 0) have = await fetchInto(file, part, have, options, advance);
  else advance(have);
  if (have !== file.size)
    throw new HubError(`${file.path}: ${have} of ${file.size} bytes arrived; run the command again to go on`);
  if (file.sha256 && (await sha256Of(part)) !== file.sha256) {
    await rm(part);
    throw new HubError(`${file.path}: the checksum is wrong, so it was thrown away; run the command again`);
  }
  await rename(part, path);
}

async function fetchInto(
  file: HubFile,
  part: string,
  have: number,
  options: PullOptions,
  advance: (bytes: number) => void,
): Promise<number> {
  const base = options.endpoint ?? HUB_URL;
  const url = `${base}/${options.repo}/resolve/${encodeURIComponent(options.revision ?? 'main')}/${file.path.split('/').map(encodeURIComponent).join('/')}`;
  const headers: Record<string, string> = {};
  if (options.token) headers.authorization = `Bearer ${options.token}`;
  if (have > 0) headers.range = `bytes=${have}-`;
  const response = await fetch(url, { headers, signal: options.signal ?? null }).catch((error: unknown) => {
    throw explain(error, options);
  });
  if (!response.ok || !response.body)
    throw explain({ statusCode: response.status, message: `HTTP ${response.status}` }, options);
  const resumed = response.status === 206;
  let total = resumed ? have : 0;
  advance(total);
  const count = async function* (source: AsyncIterable<Uint8Array>) {
    for await (const chunk of source) {
      total += chunk.length;
      if (total > file.size)
        throw new HubError(`${file.path}: the hub sends more than the ${file.size} bytes it announced`);
      advance(chunk.length);
      yield chunk;
    }
  };
  try {
    await pipeline(
      Readable.fromWeb(response.body as never),
      count,
      createWriteStream(part, { flags: resumed ? 'a' : 'w' }),
    );
  } catch (error) {
    if (error instanceof HubError || options.signal?.aborted) throw error;
    if ((error as NodeJS.ErrnoException).code === 'ENOSPC')
      throw new HubError(`the disk is full at ${part}; free some room and run the command again`);
    throw explain(error, options);
  }
  return total;
}

/** In the partial folder: which contents its files are of. */
const versionsFile = '.hearth-versions.json';

/**
 * Removes what an earlier try brought of other contents: the repository may have changed since, or another revision be
 * asked for, and files of one size would be taken for the same.
 */
async function dropOutdated(partial: string, files: readonly HubFile[]): Promise<void> {
  const record = join(partial, versionsFile);
  const known = await readFile(record, 'utf8').then(
    (text) => new Map(Object.entries(JSON.parse(text) as Record<string, string>)),
    () => new Map<string, string>(),
  );
  for (const { path, version } of files) {
    if (known.get(path) === version) continue;
    for (const old of [below(partial, path), `${below(partial, path)}.part`]) await rm(old, { force: true });
  }
  await mkdir(partial, { recursive: true });
  await writeFile(record, JSON.stringify(Object.fromEntries(files.map(({ path, version }) => [path, version]))));
}

/** Pulls a model into `options.target`. Rejects with a HubError; what was downloaded stays for the next try. */
export async function pull(options: PullOptions): Promise<HubFile[]> {
  if ((await sizeOf(options.target)) >= 0)
    throw new HubError(`${options.target} exists already; remove it first to pull again`);
  const files = await list(options);
  const partial = `${options.target}.partial`;
  const totalBytes = files.reduce((total, file) => total + file.size, 0);
  let doneBytes = 0;
  await dropOutdated(partial, files);
  for (const file of files) {
    const path = below(partial, file.path);
    const advance = (bytes: number) => {
      doneBytes += bytes;
      options.onProgress?.({ file: file.path, doneBytes, totalBytes });
    };
    if ((await sizeOf(path)) === file.size) advance(file.size);
    else await download(file, path, options, advance);
  }
  await rm(join(partial, versionsFile));
  await rename(partial, options.target);
  return files;
}
