// Which models a server offers: the one it was started with, and those that requests may name besides.

import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { isModel, localModels, ModelPathError, modelsFolder, resolveModel } from './local.ts';

export interface OfferedFiles<Options> {
  name: string;
  path: string;
  options: Options;
  /** Read off its configuration; null where that does not say. */
  context: number | null;
  vision: boolean | null;
}

/** An entry of --more-models: `all`, `NAME`, `NAME=PATH`, or a mapping with a name, a path and options. */
export type OfferedEntry<Options> = string | ({ name: string; path: string } & Options);

/**
 * The models besides `first`, in order. Without a list: every pulled one when no model was asked for by name, else none.
 * Throws ModelPathError.
 */
export function offeredModels<Options extends object>(
  first: { name: string; path: string },
  entries: ReadonlyArray<OfferedEntry<Options>> | undefined,
  named: boolean,
  folder = modelsFolder(),
): Array<OfferedFiles<Options | Record<never, never>>> {
  const found: Array<OfferedFiles<Options | Record<never, never>>> = [];
  const add = (name: string, path: string, options: Options | Record<never, never>, must: boolean) => {
    const known = [first, ...found].find((one) => one.name === name);
    if (known && must && known.path !== path) throw new ModelPathError(`two models are called '${name}'`);
    if (!known) found.push({ name, path, options, ...peek(path) });
  };
  for (const entry of entries ?? (named ? [] : ['all'])) {
    if (entry === 'all') {
      for (const { name, path, shipped } of localModels(folder)) if (!shipped) add(name, path, {}, false);
    } else if (typeof entry === 'string') {
      const { name, path } = readEntry(entry, folder);
      add(name, path, {}, true);
    } else {
      const { name, path, ...options } = entry;
      add(name, existing(path, folder), options as unknown as Options, true);
    }
  }
  return found;
}

function readEntry(entry: string, folder: string): { name: string; path: string } {
  const equals = entry.indexOf('=');
  const given = equals < 0 ? entry : entry.slice(equals + 1);
  const path = existing(given, folder);
  return { name: equals < 0 ? basename(path).replace(/\.gguf$/, '') : entry.slice(0, equals), path };
}

function existing(given: string, folder: string): string {
  const found = resolveModel(given, [], folder);
  if (!found || 'pull' in found) {
    throw new ModelPathError(`'${given}' is no folder, .gguf file or model on this machine (hearth list shows those)`);
  }
  return found.path;
}

type Json = Record<string, unknown>;

/** What a model's configuration says of it, before anything is loaded. */
export function peek(path: string): { context: number | null; vision: boolean | null } {
  if (!isModel(path) || path.endsWith('.gguf')) return { context: null, vision: null };
  try {
    const config = JSON.parse(readFileSync(join(path, 'config.json'), 'utf8')) as Json;
    const text = (config['text_config'] ?? config['llm_cfg'] ?? config) as Json;
    const context = text['max_position_embeddings'] ?? config['max_position_embeddings'];
    const vision = ['vision_config', 'vision_tower_cfg', 'mm_vision_tower'].some((key) => config[key] != null);
    return { context: typeof context === 'number' ? context : null, vision };
  } catch {
    return { context: null, vision: null };
  }
}
