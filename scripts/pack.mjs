// npm run pack -- [--out DIR]: an installable package of the command line, with the engine of this platform in it.
// What goes in is what package.json's `files` says; here it is staged with stripped binaries and without the parts of
// package.json that only a clone needs, and then packed by npm.
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { root } from './lib/build.mjs';
import { fail } from './lib/terminal.mjs';

const bytesMax = 40e6;
const binaries = ['engine-native/build/libhearth.so', 'engine-native/build/hearth-bench'];

const npm = (args, cwd) => execFileSync('npm', args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });

/** The files that npm would put into the package, from the root of the clone. */
function listFiles() {
  const [{ files }] = JSON.parse(npm(['pack', '--dry-run', '--json', '--ignore-scripts'], root));
  return files.map(({ path }) => path);
}

/** package.json as an installed package needs it. Binaries make the package one platform's. */
function packageJson() {
  const {
    devDependencies,
    scripts,
    private: unpublished,
    ...kept
  } = JSON.parse(readFileSync(join(root, 'package.json')));
  return { ...kept, os: [process.platform], cpu: [process.arch] };
}

function stage(folder) {
  for (const path of listFiles()) {
    const target = join(folder, path);
    mkdirSync(dirname(target), { recursive: true });
    if (binaries.includes(path)) {
      execFileSync('strip', ['--strip-unneeded', '-o', target, join(root, path)]);
      chmodSync(target, 0o755);
    } else cpSync(join(root, path), target);
  }
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(packageJson(), null, 2)}\n`);
}

const { values } = parseArgs({ options: { out: { type: 'string', default: root } } });
const out = resolve(values.out);
const needed = [...binaries, 'server/web/dist/index.html'];
const missing = needed.filter((path) => !existsSync(join(root, path)));
if (missing.length) fail(`not built: ${missing.join(', ')}. Run npm run hearth -- doctor once, it builds them.`);
mkdirSync(out, { recursive: true });
const folder = mkdtempSync(join(tmpdir(), 'hearth-pack-'));
try {
  stage(folder);
  const [{ filename }] = JSON.parse(npm(['pack', '--json', '--pack-destination', out], folder));
  const { size } = statSync(join(out, filename));
  if (size > bytesMax) fail(`${filename} has ${size} bytes, more than ${bytesMax}`, 1);
  console.log(`${join(out, filename)}  ${(size / 1e6).toFixed(1)} MB, ${process.platform}-${process.arch}`);
} finally {
  rmSync(folder, { recursive: true });
}
