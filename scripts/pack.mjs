// npm run pack -- [--out DIR] [--cuda=auto|off|all|87;89] [--arch x64|arm64]
//
// Two installable packages: hearth (the server, the page, the shipped models, the engine's sources; any platform), and
// hearth-engine-linux-ARCH with the engine's binaries, an optional dependency of the first. A user of that platform needs
// no compiler and no CUDA toolkit; anybody else's first start builds the sources.
// --arch arm64 on an x86-64 machine cross-compiles (Debian's toolchain, the sysroot that npm run test:arm makes); with
// --cuda=87 for Jetson Orin.
import { execFileSync } from 'node:child_process';
import { chmodSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { crossSettings } from './lib/aarch64.mjs';
import { buildFolder, buildNative, native, root } from './lib/build.mjs';
import { fail, stageDone } from './lib/terminal.mjs';

const bytesMax = { hearth: 40e6, engine: 40e6 };
const binaries = ['libhearth.so', 'hearth-bench'];
/** The oldest C library that the binaries may need (Ubuntu 22.04, JetPack 6). */
const glibcMax = '2.35';

const npm = (args, cwd) => execFileSync('npm', args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
const engineName = (arch) => `hearth-engine-linux-${arch}`;
const write = (file, value) => writeFileSync(file, `${JSON.stringify(value, null, 2)}\n`);

/** Packs what `fill` puts into an empty folder; says where it is and how large. */
function pack(out, max, fill) {
  const folder = mkdtempSync(join(tmpdir(), 'hearth-pack-'));
  try {
    fill(folder);
    const [{ filename }] = JSON.parse(npm(['pack', '--json', '--ignore-scripts', '--pack-destination', out], folder));
    const { size } = statSync(join(out, filename));
    if (size > max) fail(`${filename} has ${size} bytes, more than ${max}`, 1);
    console.log(`${join(out, filename)}  ${(size / 1e6).toFixed(1)} MB`);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** The server without what only a clone needs; what goes in is what package.json's `files` says. */
function fillServer(folder) {
  const [{ files }] = JSON.parse(npm(['pack', '--dry-run', '--json', '--ignore-scripts'], root));
  if (!files.some(({ path }) => path === 'server/web/dist/index.html'))
    fail('the page is not built: run npm run hearth -- doctor once, it builds it.');
  for (const { path } of files) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    cpSync(join(root, path), join(folder, path));
  }
  const { devDependencies, scripts, private: unpublished, ...kept } = manifest;
  const engines = Object.fromEntries(['x64', 'arm64'].map((arch) => [engineName(arch), manifest.version]));
  write(join(folder, 'package.json'), { ...kept, optionalDependencies: engines });
}

function fillEngine(folder, build, arch, cuda) {
  const strip = arch === process.arch ? 'strip' : 'aarch64-linux-gnu-strip';
  for (const name of binaries) {
    execFileSync(strip, ['--strip-unneeded', '-o', join(folder, name), join(build, name)]);
    chmodSync(join(folder, name), 0o755);
    checkGlibc(join(folder, name));
  }
  const { version, license } = manifest;
  write(join(folder, 'package.json'), {
    name: engineName(arch),
    version,
    license,
    description: `Hearth's engine for linux-${arch} (glibc ${glibcMax} or newer; CUDA: ${cuda})`,
    os: ['linux'],
    cpu: [arch],
    libc: ['glibc'],
    files: binaries,
  });
}

/** A binary that needs a newer C library than promised would fail on the user's machine, not here. */
function checkGlibc(file) {
  const symbols = execFileSync('objdump', ['-T', file], { encoding: 'utf8', maxBuffer: 64e6 });
  const wanted = [...symbols.matchAll(/GLIBC_(\d+)\.(\d+)/g)].map(([, major, minor]) => Number(major) * 1000 + +minor);
  const [major, minor] = glibcMax.split('.').map(Number);
  const newest = Math.max(...wanted);
  if (newest > major * 1000 + minor)
    fail(`${file} needs glibc 2.${newest % 1000}: build on a system with ${glibcMax} or older`, 1);
}

/** Builds the engine for `arch` and returns its folder. */
async function build(arch, cuda) {
  const cross = arch !== process.arch;
  // The clone's own build serves as it is; a package with other GPUs in it gets a folder of its own.
  const folder = cross || cuda !== 'auto' ? join(native, `build-package-${arch}`) : buildFolder;
  const startedAt = performance.now();
  const extra = cross ? crossSettings() : [];
  const { built, error } = await buildNative({ cuda, folder, targets: ['hearth', 'hearth-bench'], extra });
  if (error) fail(`the engine did not build:\n${error}`, 1);
  if (built) stageDone(`engine for linux-${arch} built (CUDA: ${cuda})`, startedAt);
  return folder;
}

const { values } = parseArgs({
  options: {
    out: { type: 'string', default: root },
    cuda: { type: 'string', default: 'auto' },
    arch: { type: 'string', default: process.arch },
  },
});
if (!['x64', 'arm64'].includes(values.arch)) fail(`--arch takes x64 or arm64, not ${values.arch}`);
if (values.arch === 'x64' && process.arch !== 'x64') fail('--arch x64 needs an x86-64 machine');
const out = resolve(values.out);
mkdirSync(out, { recursive: true });
// `auto` is the GPU of this machine, which is not that of a package for another.
if (values.arch !== process.arch && values.cuda === 'auto') values.cuda = 'off';
const folder = await build(values.arch, values.cuda);
pack(out, bytesMax.hearth, fillServer);
pack(out, bytesMax.engine, (staged) => fillEngine(staged, folder, values.arch, values.cuda));
