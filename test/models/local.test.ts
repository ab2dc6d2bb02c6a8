// The models folder as people leave it: half of it links into a download cache, some of them broken.

import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { localModels } from '../../server/models/local.ts';

const folder = mkdtempSync(join(tmpdir(), 'hearth-local-'));
afterAll(() => rmSync(folder, { recursive: true }));

it('lists models whose weights are links, broken ones and circles too', () => {
  const model = join(folder, 'linked');
  mkdirSync(model);
  writeFileSync(join(model, 'config.json'), '{}');
  writeFileSync(join(folder, 'blob.bin'), 'x'.repeat(1000));
  symlinkSync(join(folder, 'blob.bin'), join(model, 'model.safetensors'));
  symlinkSync(join(folder, 'gone.bin'), join(model, 'tokenizer.json'));
  symlinkSync(join(model, 'circle'), join(model, 'circle'));
  symlinkSync(join(folder, 'nowhere'), join(folder, 'nowhere.gguf'));
  expect(localModels(folder).filter(({ shipped }) => !shipped)).toEqual([
    { name: 'linked', path: model, bytes: 1002, shipped: false },
  ]);
});
