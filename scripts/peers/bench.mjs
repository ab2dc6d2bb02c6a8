// Hearth's CPU engine beside llama.cpp on the same shape and bytes: interleaved pairs (A B A B ...), medians, ratios.
//   npm run bench:peers -- [--json] [--pairs 5] [--threads 2] [--isa avx2] [--phases decode,prefill,batch] [--group 32]
// ours: hearth-bench --shape llama-1.1b, W4A8, group 32 as Q4_0 has it (or --group 128, asymmetric). peer: random Q4_0 GGUF.
// --isa caps ours with HEARTH_CPU_MAX; llama.cpp always takes the best the machine has.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { llama1b, writeRandomGguf } from './gguf.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));
const root = join(here, '../..');
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

function prepare() {
  if (!existsSync(options.bench))
    fail(
      `${options.bench} is not built: npm start builds it, or cmake --build engine-native/build --target hearth-bench`,
    );
  if (!existsSync(join(here, 'node_modules/node-llama-cpp'))) run('npm', ['install', '--no-audit', '--no-fund']);
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
  const text = run(options.bench, args.map(String), options.isa ? { HEARTH_CPU_MAX: options.isa } : {});
  const lines = text
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line));
  const line = lines.find((l) => l.phase === (c.phase === 'prefill' ? 'prefill' : 'decode'));
  if (!line) fail(`hearth-bench printed no ${c.phase} line:\n${text}`);
  return line;
}

function peer(c, gguf) {
  const line = JSON.parse(
    run('node', ['llama-cpp.mjs', gguf, options.threads, c.prompt, c.fresh, c.batch].map(String))
      .trim()
      .split('\n')
      .at(-1),
  );
  return c.phase === 'prefill' ? line.prefill : line.decode;
}

const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];
const round = (x) => Math.round(x * 100) / 100;

const gguf = prepare();
const rows = [];
for (const c of cases) {
  const mine = [];
  const theirs = [];
  for (let i = 0; i < Number(options.pairs); ++i) {
    mine.push(ours(c));
    theirs.push(peer(c, gguf));
  }
  const speed = median(mine.map((l) => l.tokens_per_second));
  const row = {
    phase: c.phase === 'batch' ? 'decode' : c.phase,
    batch: c.batch,
    prompt: c.prompt,
    threads: Number(options.threads),
    isa: options.isa || 'best',
    group: Number(options.group),
    ours: round(speed),
    peer: round(median(theirs)),
    ratio: round(speed / median(theirs)),
    goal: options.isa === 'avx2' ? c.goalAvx2 : c.goal,
    fraction_of_limit: round(median(mine.map((l) => l.fraction_of_limit ?? 0))),
    bytes_per_token: mine[0].bytes_per_token,
  };
  rows.push(row);
  if (options.json) console.log(JSON.stringify(row));
}
if (!options.json) console.table(rows);
