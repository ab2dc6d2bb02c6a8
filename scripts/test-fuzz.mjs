// npm run test:fuzz [-- --seconds N] [--target NAME]: libFuzzer under ASan and UBSan on the readers of model files, ten
// minutes each unless told. A finding stops the run with its file; put that file into the corpus once it is fixed.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = fileURLToPath(new URL('..', import.meta.url));
const native = join(root, 'engine-native');
const targets = { safetensors: 1, torch: 2, gguf: 3 };

const { values } = parseArgs({
  options: { seconds: { type: 'string', default: '600' }, target: { type: 'string' } },
});
const seconds = Number(values.seconds);
if (!Number.isInteger(seconds) || seconds < 1) fail(`--seconds takes a whole number, not ${values.seconds}`);
if (values.target && !(values.target in targets)) fail(`--target takes ${Object.keys(targets).join(', ')}`);

function fail(message) {
  process.stderr.write(`${message}\n`);
  process.exit(2);
}

const compiler = ['clang++', 'clang++-18', 'clang++-17', 'clang++-16', 'clang++-15', 'clang++-14'].find(
  (name) => spawnSync(name, ['--version']).status === 0,
);
if (!compiler) fail('test:fuzz needs clang with its sanitizers: apt-get install clang');

const build = join(native, 'build-fuzz');
mkdirSync(build, { recursive: true });
const readers = [
  'gguf',
  'gguf_blocks',
  'json_text',
  'mapped_file',
  'pickle',
  'safetensors',
  'tensor_store',
  'torch_file',
  'zip',
];
for (const [name, number] of Object.entries(targets)) {
  if (values.target && values.target !== name) continue;
  const program = join(build, `fuzz-${name}`);
  const sources = [
    join(native, 'tests/fuzz/formats_fuzz.cpp'),
    join(native, 'src/core/huge_pages.cpp'),
    ...readers.map((file) => join(native, `src/formats/${file}.cpp`)),
  ];
  const flags = ['-std=c++20', '-O1', '-g', '-fsanitize=fuzzer,address,undefined', '-fno-sanitize-recover=undefined'];
  run(compiler, [...flags, `-DHEARTH_FUZZ_TARGET=${number}`, `-I${join(native, 'src')}`, ...sources, '-o', program]);
  const corpus = join(native, 'tests/fuzz/corpus', name);
  const work = join(build, `work-${name}`);
  for (const folder of [corpus, work]) mkdirSync(folder, { recursive: true });
  if (!existsSync(corpus) || readdirSync(corpus).length === 0) fail(`${corpus} is empty`);
  // What is found goes to the work folder first: the committed corpus stays small.
  run(program, [
    `-max_total_time=${seconds}`,
    '-max_len=16384',
    '-rss_limit_mb=1024',
    '-timeout=10',
    `-artifact_prefix=${build}/finding-${name}-`,
    work,
    corpus,
  ]);
  process.stdout.write(`${name}: nothing found in ${seconds} s\n`);
}

function run(command, args) {
  const { status } = spawnSync(command, args, { stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
}
