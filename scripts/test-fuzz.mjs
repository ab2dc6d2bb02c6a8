// npm run test:fuzz [-- --seconds N] [--target NAME]: libFuzzer under ASan and UBSan on what reads untrusted bytes (model files,
// vocabularies, configurations, grammars, requests), ten minutes a target unless told. A finding stops the run with its
// file; put that file into the corpus once it is fixed.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = fileURLToPath(new URL('..', import.meta.url));
const native = join(root, 'engine-native');
const tests = join(native, 'tests/fuzz');
const targets = [
  'safetensors',
  'torch',
  'gguf',
  'tokenizer',
  'sentencepiece',
  'vocabulary',
  'grammar',
  'request',
  'checkpoint',
];

const { values } = parseArgs({
  options: { seconds: { type: 'string', default: '600' }, target: { type: 'string' } },
});
const seconds = Number(values.seconds);
if (!Number.isInteger(seconds) || seconds < 1) fail(`--seconds takes a whole number, not ${values.seconds}`);
if (values.target && !targets.includes(values.target)) fail(`--target takes ${targets.join(', ')}`);

function fail(message) {
  process.stderr.write(`${message}\n`);
  process.exit(2);
}

const compiler = ['clang++', 'clang++-18', 'clang++-17', 'clang++-16', 'clang++-15', 'clang++-14'].find(
  (name) => spawnSync(name, ['--version']).status === 0,
);
if (!compiler) fail('test:fuzz needs clang with its sanitizers: apt-get install clang');

const build = join(native, 'build-fuzz');
const chosen = values.target ? [values.target] : targets;
run('cmake', ['-S', tests, '-B', build, '-G', 'Ninja', `-DCMAKE_CXX_COMPILER=${compiler}`]);
run('cmake', ['--build', build, '--target', ...chosen.map((name) => `fuzz-${name}`)]);
for (const name of chosen) {
  const corpus = join(tests, 'corpus', name);
  const work = join(build, `work-${name}`);
  const dictionary = join(tests, `${name}.dict`);
  for (const folder of [corpus, work]) mkdirSync(folder, { recursive: true });
  if (readdirSync(corpus).length === 0) fail(`${corpus} is empty`);
  // What is found goes to the work folder first: the committed corpus stays small.
  run(join(build, `fuzz-${name}`), [
    `-max_total_time=${seconds}`,
    '-max_len=16384',
    '-rss_limit_mb=1024',
    '-timeout=10',
    `-artifact_prefix=${build}/finding-${name}-`,
    ...(existsSync(dictionary) ? [`-dict=${dictionary}`] : []),
    work,
    corpus,
  ]);
  process.stdout.write(`${name}: nothing found in ${seconds} s\n`);
}

function run(command, args) {
  const { status } = spawnSync(command, args, { stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
}
