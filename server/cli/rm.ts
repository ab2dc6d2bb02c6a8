// hearth rm NAME: deletes a pulled model.

import { parseArgs } from 'node:util';
import { UsageError } from '../config.ts';
import { localModels, modelsFolder, removeModel } from '../models/local.ts';
import { green } from './terminal.ts';

export const help = `hearth rm NAME... [--json]

Deletes pulled models, and what is left of broken downloads. Models that ship with Hearth stay.

Example:
  hearth rm qwen3-0.6b`;

export async function run(args: string[]): Promise<number> {
  const { values, positionals } = parseArgs({ args, allowPositionals: true, options: { json: { type: 'boolean' } } });
  if (positionals.length === 0) throw new UsageError('hearth rm takes one name or more; see hearth list');
  for (const name of positionals) {
    if (await removeModel(name)) {
      if (!values.json) console.log(`${green('✓')} ${name} is gone`);
      continue;
    }
    const shipped = localModels().some((model) => model.shipped && model.name === name);
    throw new UsageError(shipped ? `${name} ships with Hearth and stays` : `there is no ${name} in ${modelsFolder()}`);
  }
  if (values.json) console.log(JSON.stringify({ removed: positionals }));
  return 0;
}
