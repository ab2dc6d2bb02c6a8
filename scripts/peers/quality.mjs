// Which quantized form keeps a model best, with llama.cpp's own quantizer and perplexity tool as the judge:
//   node quality.mjs FLOAT_FOLDER TEXT [QUANTIZED_FOLDER...] [--json] [--types Q4_0,Q4_K_M]
// Folders of ours are handed over as the F32 numbers they stand for (to-gguf.mjs). Embeddings stay F16 in every form, so
// that only the layers' linears differ. The tools are built once from the source that node-llama-cpp brings along, against
// its prebuilt libraries: two files, under a minute.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { writeGguf } from './to-gguf.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));
const work = join(here, '../../.hearth/peers');
const packaged = join(here, 'node_modules/node-llama-cpp/llama/gitRelease.bundle');
const libraries = join(here, 'node_modules/@node-llama-cpp/linux-x64/bins/linux-x64');
const windowTokens = 512;

function run(command, args, options = {}) {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    ...options,
  });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${error?.message ?? stderr.slice(-2000)}`);
  return stdout + stderr;
}

/** Paths of llama-quantize and llama-perplexity, built when they are not there yet. */
function tools() {
  const source = join(work, 'llama.cpp');
  if (!existsSync(packaged))
    throw new Error('run npm install --no-package-lock --ignore-scripts in scripts/peers first');
  if (!existsSync(source)) run('git', ['clone', '-q', packaged, source]);
  const shared = ['libllama-common.so', 'libllama.v0.5.0.so', 'libggml.v0.5.0.so', 'libggml-base.so'];
  return ['quantize', 'perplexity'].map((tool) => {
    const program = join(work, `llama-${tool}`);
    if (existsSync(program)) return program;
    const folders = ['include', 'common', 'ggml/include', 'vendor', 'src', `tools/${tool}`];
    const files = [`tools/${tool}/${tool}.cpp`, `tools/${tool}/main.cpp`];
    const inputs = [...files.map((file) => join(source, file)), ...shared.map((name) => join(libraries, name))];
    const flags = ['-std=c++17', '-O2', ...folders.map((folder) => `-I${join(source, folder)}`)];
    run('g++', [...flags, ...inputs, '-o', program, `-Wl,-rpath,${libraries}`, '-lpthread']);
    return program;
  });
}

const environment = { ...process.env, GGML_BACKEND_PATH: join(libraries, 'libggml-cpu-haswell.so') };

function perplexity(tool, file, text) {
  const out = run(tool, ['-m', file, '-f', text, '-c', String(windowTokens), '-b', '2048', '-t', '2'], {
    env: environment,
  });
  // The running estimate after each window, "[33]4.2859,"; the last line of its log is sometimes lost at exit.
  const found = [...out.matchAll(/\[\d+\]([\d.]+),/g)].at(-1);
  if (!found) throw new Error(`no perplexity in what llama-perplexity printed: ${out.slice(-500)}`);
  return { perplexity: Number(found[1]) };
}

const configOf = (folder) => JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'));

/** Numbers of weights: of the layers' linears, of the embeddings (and head), of the norms. */
function counts(folder) {
  const whole = configOf(folder);
  const c = whole.text_config ?? whole;
  const head = c.head_dim ?? c.hidden_size / c.num_attention_heads;
  const [q, kv] = [head * c.num_attention_heads, head * c.num_key_value_heads];
  const layer = c.hidden_size * (2 * q + 2 * kv + 3 * c.intermediate_size);
  return {
    linears: layer * c.num_hidden_layers,
    embeddings: c.vocab_size * c.hidden_size * (c.tie_word_embeddings ? 1 : 2),
    norms: (2 * c.num_hidden_layers + 1) * c.hidden_size,
  };
}

function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { json: { type: 'boolean' }, types: { type: 'string', default: 'Q4_0,Q4_K_M' } },
  });
  const [folder, text, ...quantized] = positionals;
  if (!folder || !text) throw new Error('node quality.mjs FLOAT_FOLDER TEXT [QUANTIZED_FOLDER...]');
  mkdirSync(work, { recursive: true });
  const [quantize, judge] = tools();
  const exact = join(work, `${basename(folder)}-f32.gguf`);
  writeGguf(folder, exact);
  const { linears, embeddings, norms } = counts(folder);
  const header = statSync(exact).size - 4 * (linears + embeddings + norms);
  const rows = [{ form: 'F32', bits: 32, ...perplexity(judge, exact, text) }];
  for (const type of values.types.split(',')) {
    const file = join(work, `${basename(folder)}-${type}.gguf`);
    const kept = ['--token-embedding-type', 'f16', '--output-tensor-type', 'f16'];
    run(quantize, [...kept, exact, file, type, '2'], { env: environment });
    const bits = (8 * (statSync(file).size - header - 2 * embeddings - 4 * norms)) / linears;
    rows.push({ form: type, bits, ...perplexity(judge, file, text) });
  }
  for (const path of quantized) {
    const file = join(work, `${basename(path)}.gguf`);
    writeGguf(path, file);
    const { group_size: group } = configOf(path).quantization_config;
    rows.push({ form: basename(path), bits: 4 + 20 / group, ...perplexity(judge, file, text) });
  }
  if (values.json) console.log(JSON.stringify(rows, null, 1));
  else
    for (const { form, bits, perplexity: value } of rows)
      console.log(`${form.padEnd(28)} ${bits.toFixed(2).padStart(6)} bits  ${value.toFixed(4)}`);
}

try {
  main();
} catch (error) {
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
}
