// Checks what the eye forgets: the import arrows of docs/architecture.md, who may name koffi and kernels, and the width
// of the wall. Runs in npm test; prints each breach with its line and exits 1.
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { root } from './lib/build.mjs';

// Folder → folders whose files it may include. Its own is always allowed.
const nativeArrows = {
  core: [],
  tokenizer: ['core'],
  kv: ['core'],
  scheduler: ['core', 'kv'],
  grammar: ['core'],
  device: ['core'],
  kernels: ['core', 'device', 'ops'],
  ops: ['core', 'device'],
  formats: ['core', 'ops', 'tokenizer'],
  sampling: ['core', 'device', 'ops'],
  vision: ['core', 'device', 'formats', 'kv', 'model', 'ops'],
  model: ['core', 'device', 'formats', 'kv', 'ops', 'vision'],
  quantize: ['core', 'device', 'formats', 'model', 'ops', 'tokenizer'],
  verify: ['core', 'device', 'model', 'ops'],
  runtime: [
    'core',
    'device',
    'formats',
    'grammar',
    'kv',
    'model',
    'ops',
    'quantize',
    'sampling',
    'scheduler',
    'tokenizer',
    'verify',
    'vision',
  ],
  capi: ['core', 'runtime'],
};
// The exceptions, each with its reason.
const nativeExceptions = new Set([
  'ops/registry.cpp → kernels', // the one file that names implementations
]);

const serverArrows = {
  openai: ['engine/port', 'words'],
  chat: [],
  images: ['errors', 'engine/port'],
  models: ['errors'],
  engine: ['errors'],
  http: [
    'openai',
    'chat',
    'images',
    'models',
    'engine/port',
    'engine/event-stream',
    'engine/model-set',
    'errors',
    'config',
  ],
};

const breaches = [];
const breach = (file, line, message) => breaches.push(`${file}:${line}: ${message}`);

function* files(folder, pattern) {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) {
      if (!/^(build.*|node_modules|dist)$/.test(entry.name)) yield* files(path, pattern);
    } else if (pattern.test(entry.name)) yield path;
  }
}

function checkNative() {
  const source = join(root, 'engine-native', 'src');
  for (const path of files(source, /\.(h|hpp|cpp|cu|cuh|inc)$/)) {
    const name = relative(source, path);
    const folder = name.split('/')[0];
    const allowed = nativeArrows[folder];
    if (!allowed) {
      breach(name, 1, `folder src/${folder} is not in scripts/tidy.mjs's arrows`);
      continue;
    }
    readFileSync(path, 'utf8')
      .split('\n')
      .forEach((text, index) => {
        const target = text.match(/^\s*#\s*include\s+"([a-z_]+)\//)?.[1];
        if (!target || target === folder || !(target in nativeArrows) || allowed.includes(target)) return;
        if (nativeExceptions.has(`${name} → ${target}`)) return;
        breach(`engine-native/src/${name}`, index + 1, `src/${folder} may not include src/${target}`);
      });
  }
}

function importsOf(text) {
  return [...text.matchAll(/(?:from|import)\s*\(?\s*'([^']+)'/g)].map((match) => ({
    target: match[1],
    line: text.slice(0, match.index).split('\n').length,
  }));
}

function checkServer() {
  const source = join(root, 'server');
  for (const path of files(source, /\.ts$/)) {
    const name = relative(source, path);
    if (name.startsWith('web/')) continue;
    for (const { target, line } of importsOf(readFileSync(path, 'utf8'))) {
      if (target === 'koffi' && name !== 'engine/native/abi.ts')
        breach(`server/${name}`, line, 'only engine/native/abi.ts imports koffi');
      const allowed = serverArrows[name.split('/')[0]];
      if (!allowed || !target.startsWith('.')) continue;
      const to = relative(source, resolve(dirname(path), target)).replace(/\.(ts|js)$/, '');
      const folder = name.split('/')[0];
      if (to.startsWith(`${folder}/`) || allowed.some((entry) => to === entry || to.startsWith(`${entry}/`))) continue;
      breach(`server/${name}`, line, `server/${folder} may not import server/${to}`);
    }
  }
}

checkNative();
checkServer();
for (const line of breaches) console.error(line);
console.log(breaches.length === 0 ? 'tidy: every import follows the arrows' : `tidy: ${breaches.length} breach(es)`);
process.exit(breaches.length === 0 ? 0 : 1);
