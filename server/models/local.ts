// A name becomes files: a path, a model in the models folder, one that ships with Hearth, or one to pull first.

import { existsSync, readdirSync, statSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { CatalogueEntry } from './catalogue.ts';

/** Models that ship with Hearth. */
export const shippedFolder = fileURLToPath(new URL('../../models', import.meta.url));

/** Where pulled models live: HEARTH_MODELS, else the user's cache. */
export const modelsFolder = (given = process.env.HEARTH_MODELS): string =>
  given ? resolve(given) : join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'hearth', 'models');

export interface LocalModel {
  name: string;
  path: string;
  bytes: number;
  shipped: boolean;
}

export type Resolved = { path: string; name: string } | { pull: CatalogueEntry };

/** True for a folder with a config.json (VILA's too) and for a .gguf file. */
export function isModel(path: string): boolean {
  if (!existsSync(path)) return false;
  return statSync(path).isDirectory() ? existsSync(join(path, 'config.json')) : path.endsWith('.gguf');
}

/** Bytes of a file or of everything in a folder; what a broken link names and what may not be read counts nothing. */
function bytesBelow(path: string): number {
  try {
    const found = statSync(path);
    if (!found.isDirectory()) return found.size;
    return readdirSync(path).reduce((total, entry) => total + bytesBelow(join(path, entry)), 0);
  } catch {
    return 0;
  }
}

function modelsIn(folder: string, shipped: boolean): LocalModel[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((entry) => !entry.endsWith('.partial') && isModel(join(folder, entry)))
    .map((entry) => ({
      name: entry.replace(/\.gguf$/, ''),
      path: join(folder, entry),
      bytes: bytesBelow(join(folder, entry)),
      shipped,
    }));
}

/** All models on this machine, shipped ones last. */
export const localModels = (folder = modelsFolder()): LocalModel[] => [
  ...modelsIn(folder, false),
  ...modelsIn(shippedFolder, true),
];

/**
 * What `--model X` means: a path, a local name, or a catalogue name (or hub repository of the catalogue) to pull.
 * Returns null when it is none of these.
 */
export function resolveModel(
  given: string,
  catalogue: readonly CatalogueEntry[],
  folder = modelsFolder(),
): Resolved | null {
  if (isModel(given)) return { path: resolve(given), name: basename(resolve(given)).replace(/\.gguf$/, '') };
  const local = localModels(folder).find(({ name }) => name === given);
  if (local) return { path: local.path, name: local.name };
  const entry = catalogue.find(({ name, repo }) => name === given || repo === given);
  return entry ? { pull: entry } : null;
}

/** A model that cannot be served as named; the message says why and what to do. */
export class ModelPathError extends Error {}

/** Served when nothing else is asked for: the first of these that ships. */
const defaultNames = ['hearth-tiny-vl-awq', 'hearth-tiny-vl', 'tinystories-656k'];
/** Clients see the default model under its own name, not that of its 4-bit folder. */
const publicNames: Record<string, string> = { 'hearth-tiny-vl-awq': 'hearth-tiny-vl' };

/**
 * The model to serve: `given` is a path or a local name, empty for the default; `name` overrides what clients call it.
 * Throws ModelPathError.
 */
export function localModel(given: string, name = '', folder = modelsFolder()): { path: string; name: string } {
  const wanted = given || defaultNames.find((entry) => isModel(join(shippedFolder, entry)));
  if (!wanted) throw new ModelPathError('no model ships with this copy of Hearth: name one with --model');
  const found = resolveModel(wanted, [], folder);
  if (!found || 'pull' in found) throw new ModelPathError(whyNot(wanted));
  return { path: found.path, name: name || publicNames[found.name] || found.name };
}

function whyNot(given: string): string {
  if (!existsSync(given))
    return `there is no folder, .gguf file or pulled model '${given}' (hearth list shows what there is)`;
  try {
    if (!statSync(given).isDirectory()) return `${given} is a file, but not a .gguf file; give the model's folder`;
    readdirSync(given);
  } catch (error) {
    return `cannot read ${given}: ${(error as NodeJS.ErrnoException).code}`;
  }
  return `${given} holds no config.json, so it is not a model's folder`;
}

/** Deletes a pulled model, and what is left of a broken pull. Shipped models stay. False when there is nothing. */
export async function removeModel(name: string, folder = modelsFolder()): Promise<boolean> {
  if (name !== basename(name) || name.startsWith('.')) return false;
  const paths = [name, `${name}.gguf`, `${name}.partial`]
    .map((entry) => join(folder, entry))
    .filter((path) => existsSync(path));
  for (const path of paths) await rm(path, { recursive: true });
  return paths.length > 0;
}
