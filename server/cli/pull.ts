// hearth pull NAME: brings a model from the hub into the models folder.

import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { UsageError } from '../config.ts';
import type { CatalogueEntry } from '../models/catalogue.ts';
import { readCatalogue } from '../models/catalogue.ts';
import { pull } from '../models/hub.ts';
import { modelsFolder, shippedFolder } from '../models/local.ts';
import { onStop } from '../signals.ts';
import { bytes, dim, green, ProgressLine } from './terminal.ts';

export const help = `hearth pull NAME|OWNER/REPO [options]

Downloads a model from the hub: a name of the catalogue (hearth list) or any repository.
A broken download goes on where it stopped. Nothing half-done is ever used.

  --revision REV   branch, tag or commit (default: main)
  --as NAME        name of the folder (default: the repository's name)
  --json           print the result as JSON

Environment: HF_TOKEN for gated repositories, HF_ENDPOINT for a mirror, HEARTH_MODELS for the folder.

Examples:
  hearth pull qwen3-0.6b
  hearth pull TinyLlama/TinyLlama-1.1B-Chat-v1.0`;

export const catalogue = (): CatalogueEntry[] => readCatalogue(join(shippedFolder, 'catalogue.json'));

/** Pulls with a progress line; returns the model's folder. */
export async function pullWithProgress(repo: string, name: string, revision?: string): Promise<string> {
  const folder = modelsFolder();
  mkdirSync(folder, { recursive: true });
  const target = join(folder, name);
  const line = new ProgressLine(`pulling ${name}`);
  const abort = new AbortController();
  const unlisten = onStop(['SIGINT'], () => abort.abort());
  const { HF_ENDPOINT: endpoint, HF_TOKEN: token } = process.env;
  try {
    await pull({
      repo,
      target,
      signal: abort.signal,
      ...(revision ? { revision } : {}),
      ...(endpoint ? { endpoint } : {}),
      ...(token ? { token } : {}),
      onProgress: ({ file, doneBytes, totalBytes }) =>
        line.update(doneBytes, totalBytes, `${bytes(doneBytes)} of ${bytes(totalBytes)}  ${file}`),
    });
  } finally {
    line.end();
    unlisten();
  }
  return target;
}

export async function run(args: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: { revision: { type: 'string' }, as: { type: 'string' }, json: { type: 'boolean' } },
  });
  const [given, ...rest] = positionals;
  if (!given || rest.length > 0) throw new UsageError('hearth pull takes one name; see hearth pull --help');
  const entry = catalogue().find(({ name, repo }) => name === given || repo === given);
  const repo = entry?.repo ?? given;
  if (!/^\w[\w.-]*\/\w[\w.-]*$/.test(repo)) {
    throw new UsageError(`${given} is neither a name of the catalogue (hearth list) nor OWNER/REPO`);
  }
  const name = values.as ?? entry?.name ?? repo.split('/')[1]!;
  if (entry?.gated && !process.env.HF_TOKEN && !values.json) {
    console.error(
      dim(`${entry.repo} asks for its licence (${entry.licence}) to be accepted on the hub: set HF_TOKEN.`),
    );
  }
  const startedAt = performance.now();
  const path = await pullWithProgress(repo, name, values.revision);
  const seconds = (performance.now() - startedAt) / 1000;
  if (values.json) console.log(JSON.stringify({ name, repo, path, seconds }));
  else console.log(`${green('✓')} ${name} is in ${path}\n  ${dim(`serve it: hearth serve --model ${name}`)}`);
  return 0;
}
