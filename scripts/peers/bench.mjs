// Hearth's CPU engine beside llama.cpp on the same shape and bytes: interleaved pairs (A B A B ...), medians, ratios.
//   npm run bench:peers -- [--json] [--pairs 5] [--threads 2] [--isa avx2] [--phases decode,prefill,batch] [--group 32|128]
// ours: hearth-bench --shape llama-1.1b, W4A8, group 32 symmetric as Q4_0 has it, head at the same precision; --group 128 is
// the usual AWQ form, with zero points. peer: llama.cpp on a random Q4_0 GGUF, driven as its batched-bench does.
// --isa avx2 caps both: ours with HEARTH_CPU_MAX, llama.cpp with the one library of that set. Both are pinned by taskset.
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, renameSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { llama1b, writeRandomGguf } from './gguf.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));
const root = join(here, '../..');
const libraries = join(here, 'node_modules/@node-llama-cpp/linux-x64/bins/linux-x64');
const { values: options } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    pairs: { type: 'string', default: '5' },
    threads: { type: 'string', default: '2' },
    isa: { type: 'string', default: '' },
    phases: { type: 'string', default: 'decode,prefill,batch' },
    group: { type: 'string', default: '32' },
    bench: { type: 'string', default: join(root, 'engine-native/build/hearth-bench') },
  },
});

// What targets.md asks of each comparison; `avx2` where only that is allowed.
const cases = [
  { phase: 'decode', batch: 1, prompt: 128, fresh: 48, goal: 1.25, goalAvx2: 1.25 },
  { phase: 'prefill', batch: 1, prompt: 128, fresh: 4, goal: 4, goalAvx2: 1.5 },
  { phase: 'prefill', batch: 1, prompt: 512, fresh: 4, goal: 4, goalAvx2: 1.5 },
  { phase: 'batch', batch: 8, prompt: 32, fresh: 24, goal: 2, goalAvx2: 2 },
].filter((c) => options.phases.split(',').includes(c.phase));

function fail(message) {
  console.error(`bench:peers: ${message}`);
  process.exit(1);
}

function run(command, args, env = {}) {
  const result = spawnSync(command, args, {
    cwd: here,
    encoding: 'utf8',
    env: { ...process.env, ...env },
    maxBuffer: 1 << 26,
  });
  if (result.status !== 0) fail(`${command} ${args.join(' ')}\n${result.stderr}${result.stdout.slice(-2000)}`);
  return result.stdout;
}

// On the first cores, the same for both.
function pinned(command, args, env = {}) {
  return run('taskset', ['-c', `0-${Number(options.threads) - 1}`, command, ...args], env);
}

// llama.cpp takes the best library of a folder; one library alone caps it.
function isaFolder() {
  if (!options.isa) return libraries;
  const name = { avx2: 'haswell', avx512: 'icelake', amx: 'sapphirerapids' }[options.isa];
  if (!name) fail(`--isa ${options.isa}: the peer has libraries for avx2, avx512 and amx`);
  const folder = join(root, '.hearth/peers', options.isa);
  mkdirSync(folder, { recursive: true });
  copyFileSync(join(libraries, `libggml-cpu-${name}.so`), join(folder, `libggml-cpu-${name}.so`));
  return folder;
}

// The driver links with the prebuilt libraries; built again when its source is newer.
function buildDriver() {
  const source = join(here, 'llama-cpp.cpp');
  const program = join(root, '.hearth/peers/llama-cpp');
  if (existsSync(program) && statSync(program).mtimeMs > statSync(source).mtimeMs) return program;
  const linked = ['libllama.v0.5.0.so', 'libggml.v0.5.0.so', 'libggml-base.so'].map((name) => join(libraries, name));
  mkdirSync(join(root, '.hearth/peers'), { recursive: true });
  run('g++', ['-O2', '-std=c++20', '-o', program, source, ...linked, `-Wl,-rpath,${libraries}`]);
  return program;
}

function prepare() {
  if (!existsSync(options.bench))
    fail(
      `${options.bench} is not built: npm start builds it, or cmake --build engine-native/build --target hearth-bench`,
    );
  // Their install scripts would download GPU libraries and build from source; the packages hold what is needed here.
  if (!existsSync(join(here, 'node_modules/node-llama-cpp')))
    run('npm', ['install', '--no-audit', '--no-fund', '--no-package-lock', '--ignore-scripts']);
  const folder = join(root, '.hearth/peers');
  const path = join(folder, `${llama1b.name}-q4_0.gguf`);
  if (existsSync(path)) return path;
  mkdirSync(folder, { recursive: true });
  writeRandomGguf(`${path}.part`, llama1b);
  renameSync(`${path}.part`, path);
  return path;
}

// hearth-bench's line of the wanted phase.
function ours(c) {
  const args = [
    '--json',
    '--shape',
    llama1b.name,
    '--device',
    'cpu',
    '--precision',
    'w4a8',
    '--group',
    options.group,
    '--head-bits',
    '4',
    '--batch',
    c.batch,
    '--prompt',
    c.prompt,
    '--new',
    c.fresh,
    '--threads',
    options.threads,
  ];
  if (options.group === '32') args.push('--symmetric');
  const text = pinned(options.bench, args.map(String), options.isa ? { HEARTH_CPU_MAX: options.isa } : {});
  const lines = text
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line));
  const line = lines.find((l) => l.phase === (c.phase === 'prefill' ? 'prefill' : 'decode'));
  if (!line) fail(`hearth-bench printed no ${c.phase} line:\n${text}`);
  return line;
}

function peer(c, gguf, driver) {
  const text = pinned(driver, [isaFolder(), gguf, options.threads, c.prompt, c.fresh, c.batch].map(String));
  const line = JSON.parse(text.trim().split('\n').at(-1));
  return c.phase === 'prefill' ? line.prefill : line.decode;
}

const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];
const round = (x) => Math.round(x * 100) / 100;

const gguf = prepare();
const driver = buildDriver();
const table = [];
for (const c of cases) {
  const mine = [];
  const theirs = [];
  for (let i = 0; i < Number(options.pairs); ++i) {
    mine.push(ours(c));
    theirs.push(peer(c, gguf, driver));
  }
  const [ourMedian, peerMedian] = [median(mine.map((l) => l.tokens_per_second)), median(theirs)];
  const row = {
    phase: c.phase === 'batch' ? 'decode' : c.phase,
    batch: c.batch,
    prompt: c.prompt,
    threads: Number(options.threads),
    isa: options.isa || 'best',
    ours: round(ourMedian),
    peer: round(peerMedian),
    ratio: round(ourMedian / peerMedian),
  };
  if (options.json) console.log(JSON.stringify(row));
  const goal = options.isa === 'avx2' ? c.goalAvx2 : c.goal;
  const fraction = round(median(mine.map((l) => l.fraction_of_limit)));
  table.push({ ...row, goal, fraction_of_limit: fraction, bytes_per_token: mine[0].bytes_per_token });
}
if (!options.json) console.table(table);
