// A Llama-family folder, float or quantized here (AutoAWQ gemm), as an F32 GGUF file that llama.cpp's own tools read:
//   node to-gguf.mjs FOLDER OUT.gguf
// Quantized linears are written as the numbers they stand for, so llama.cpp judges exactly what was quantized.
// Of a LLaVA folder the language model is taken.
import { closeSync, openSync, readdirSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const alignment = 32;
const kind = { uint32: 4, int32: 5, float32: 6, string: 8, array: 9 };
const ggmlF32 = 0;
const awqColumns = [0, 2, 4, 6, 1, 3, 5, 7]; // column of each nibble of a word, lowest first

class Bytes {
  parts = [];
  push = (buffer) => this.parts.push(buffer);
  u32(n) {
    const b = Buffer.alloc(4);
    b.writeUInt32LE(n >>> 0);
    this.push(b);
  }
  u64(n) {
    const b = Buffer.alloc(8);
    b.writeBigUInt64LE(BigInt(n));
    this.push(b);
  }
  text(s) {
    const b = Buffer.from(s);
    this.u64(b.length);
    this.push(b);
  }
  value(type, value) {
    if (type === kind.string) this.text(value);
    else if (type === kind.array) {
      const [element, values] = value;
      this.u32(element);
      this.u64(values.length);
      for (const v of values) this.value(element, v);
    } else if (type === kind.float32) {
      const b = Buffer.alloc(4);
      b.writeFloatLE(value);
      this.push(b);
    } else this.u32(value);
  }
  buffer = () => Buffer.concat(this.parts);
}

function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15));
}

/** Tensors of a folder's safetensors files: name → { dtype, shape, data }. */
function readTensors(folder) {
  const tensors = new Map();
  for (const file of readdirSync(folder).filter((name) => name.endsWith('.safetensors'))) {
    const bytes = readFileSync(join(folder, file));
    const length = Number(bytes.readBigUInt64LE(0));
    const header = JSON.parse(bytes.toString('utf8', 8, 8 + length));
    for (const [name, { dtype, shape, data_offsets: [begin, end] = [0, 0] }] of Object.entries(header)) {
      if (name === '__metadata__') continue;
      tensors.set(plainName(name), { dtype, shape, data: bytes.subarray(8 + length + begin, 8 + length + end) });
    }
  }
  return tensors;
}

/** "model.language_model.layers…" and "language_model.model.layers…" are "model.layers…". */
const plainName = (name) =>
  name.replace(/^language_model\.(model|lm_head)\./, '$1.').replace(/^model\.language_model\./, 'model.');

function floats({ dtype, data }) {
  if (dtype === 'F32') return new Float32Array(data.buffer.slice(data.byteOffset, data.byteOffset + data.length));
  const words = new Uint16Array(data.buffer.slice(data.byteOffset, data.byteOffset + data.length));
  if (dtype === 'F16') return Float32Array.from(words, fromHalf);
  if (dtype !== 'BF16') throw new Error(`tensors of ${dtype} are not read here`);
  return new Float32Array(Uint32Array.from(words, (word) => word << 16).buffer);
}

/** The numbers [out, in] that an AutoAWQ gemm linear stands for. */
function dequantize(tensors, module) {
  const [packed, zeros, scales] = ['qweight', 'qzeros', 'scales'].map((part) => tensors.get(`${module}.${part}`));
  const [inputs, words] = packed.shape;
  const out = words * 8;
  const group = inputs / zeros.shape[0];
  const scale = floats(scales);
  const w = new Float32Array(out * inputs);
  for (let k = 0; k < inputs; k++) {
    const g = Math.floor(k / group);
    for (let word = 0; word < words; word++) {
      const q = packed.data.readUInt32LE((k * words + word) * 4);
      const z = zeros.data.readUInt32LE((g * words + word) * 4);
      for (let nibble = 0; nibble < 8; nibble++) {
        const n = word * 8 + awqColumns[nibble];
        const steps = ((q >>> (4 * nibble)) & 15) - ((z >>> (4 * nibble)) & 15);
        w[n * inputs + k] = steps * scale[g * out + n];
      }
    }
  }
  return { shape: [out, inputs], values: w };
}

function linear(tensors, module) {
  const dense = tensors.get(`${module}.weight`);
  return dense ? { shape: dense.shape, values: floats(dense) } : dequantize(tensors, module);
}

/** Llama GGUF files hold q and k with the two halves of every head interleaved, for their form of rope. */
function interleave({ shape, values }, heads) {
  const [rows, columns] = shape;
  const size = rows / heads;
  const to = new Float32Array(values.length);
  for (let row = 0; row < rows; row++) {
    const [head, at] = [Math.floor(row / size), row % size];
    const source = head * size + (at % 2) * (size / 2) + Math.floor(at / 2);
    to.set(values.subarray(source * columns, (source + 1) * columns), row * columns);
  }
  return { shape, values: to };
}

function modelTensors(tensors, config) {
  const list = [
    ['token_embd.weight', linear(tensors, tensors.has('model.embed_tokens.weight') ? 'model.embed_tokens' : 'lm_head')],
    ['output_norm.weight', linear(tensors, 'model.norm')],
  ];
  if (!config.tie_word_embeddings) list.push(['output.weight', linear(tensors, 'lm_head')]);
  const parts = {
    attn_norm: 'input_layernorm',
    attn_q: 'self_attn.q_proj',
    attn_k: 'self_attn.k_proj',
    attn_v: 'self_attn.v_proj',
    attn_output: 'self_attn.o_proj',
    ffn_norm: 'post_attention_layernorm',
    ffn_gate: 'mlp.gate_proj',
    ffn_up: 'mlp.up_proj',
    ffn_down: 'mlp.down_proj',
  };
  for (let i = 0; i < config.num_hidden_layers; i++) {
    for (const [to, from] of Object.entries(parts)) {
      let tensor = linear(tensors, `model.layers.${i}.${from}`);
      if (to === 'attn_q') tensor = interleave(tensor, config.num_attention_heads);
      if (to === 'attn_k') tensor = interleave(tensor, config.num_key_value_heads);
      list.push([`blk.${i}.${to}.weight`, tensor]);
    }
  }
  return list;
}

// GGUF's token types: 1 normal, 2 unknown, 3 control, 6 byte.
function tokenizerOf(folder, config) {
  const { model, added_tokens: added } = JSON.parse(readFileSync(join(folder, 'tokenizer.json'), 'utf8'));
  const tokens = Array.from({ length: config.vocab_size }, (_, id) => `<unused${id}>`);
  for (const [token, id] of Object.entries(model.vocab)) tokens[id] = token;
  for (const { content, id } of added) tokens[id] = content;
  const special = new Set(added.map(({ id }) => id));
  const types = tokens.map((token, id) => {
    if (token === model.unk_token) return 2;
    if (special.has(id)) return 3;
    return /^<0x[0-9A-F]{2}>$/.test(token) ? 6 : 1;
  });
  const merges = model.merges.map((merge) => (Array.isArray(merge) ? merge.join(' ') : merge));
  const common = [
    ['tokenizer.ggml.tokens', kind.array, [kind.string, tokens]],
    ['tokenizer.ggml.token_type', kind.array, [kind.int32, types]],
    ['tokenizer.ggml.bos_token_id', kind.uint32, config.bos_token_id ?? config.eos_token_id],
    ['tokenizer.ggml.eos_token_id', kind.uint32, config.eos_token_id],
  ];
  if (!model.byte_fallback) {
    return [
      ['tokenizer.ggml.model', kind.string, 'gpt2'],
      ['tokenizer.ggml.pre', kind.string, 'gpt-2'],
      ['tokenizer.ggml.merges', kind.array, [kind.string, merges]],
      ...common,
    ];
  }
  // The score of a piece is minus the rank of the merge that makes it: the order in which BPE would take them.
  const rank = new Map(merges.map((merge, i) => [merge.replace(' ', ''), i]));
  const scores = tokens.map((token) => (rank.has(token) ? -rank.get(token) : -merges.length));
  return [
    ['tokenizer.ggml.model', kind.string, 'llama'],
    ['tokenizer.ggml.scores', kind.array, [kind.float32, scores]],
    ...common,
  ];
}

function metadata(folder, config) {
  const key = (name) => `llama.${name}`;
  return [
    ['general.architecture', kind.string, 'llama'],
    ['general.name', kind.string, folder],
    [key('block_count'), kind.uint32, config.num_hidden_layers],
    [key('context_length'), kind.uint32, config.max_position_embeddings],
    [key('embedding_length'), kind.uint32, config.hidden_size],
    [key('feed_forward_length'), kind.uint32, config.intermediate_size],
    [key('attention.head_count'), kind.uint32, config.num_attention_heads],
    [key('attention.head_count_kv'), kind.uint32, config.num_key_value_heads],
    [key('attention.layer_norm_rms_epsilon'), kind.float32, config.rms_norm_eps],
    [key('rope.dimension_count'), kind.uint32, config.head_dim ?? config.hidden_size / config.num_attention_heads],
    [key('rope.freq_base'), kind.float32, config.rope_theta ?? 10000],
    [key('vocab_size'), kind.uint32, config.vocab_size],
    ['general.file_type', kind.uint32, 0],
    ...tokenizerOf(folder, config),
  ];
}

export function writeGguf(folder, out) {
  const whole = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'));
  const config = whole.text_config ?? whole;
  const tensors = modelTensors(readTensors(folder), config);
  const header = new Bytes();
  const pairs = metadata(folder, config);
  header.push(Buffer.from('GGUF'));
  header.u32(3);
  header.u64(tensors.length);
  header.u64(pairs.length);
  for (const [key, type, value] of pairs) {
    header.text(key);
    header.u32(type);
    header.value(type, value);
  }
  let offset = 0;
  const padded = (size) => Math.ceil(size / alignment) * alignment;
  for (const [name, { shape, values }] of tensors) {
    header.text(name);
    header.u32(shape.length);
    for (const size of [...shape].reverse()) header.u64(size);
    header.u32(ggmlF32);
    header.u64(offset);
    offset += padded(values.byteLength);
  }
  const head = header.buffer();
  const file = openSync(out, 'w');
  writeSync(file, Buffer.concat([head, Buffer.alloc(padded(head.length) - head.length)]));
  for (const [, { values }] of tensors) {
    const bytes = Buffer.alloc(padded(values.byteLength));
    Buffer.from(values.buffer, values.byteOffset, values.byteLength).copy(bytes);
    writeSync(file, bytes);
  }
  closeSync(file);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [folder, out] = process.argv.slice(2);
  if (!folder || !out) {
    process.stderr.write('node to-gguf.mjs FOLDER OUT.gguf\n');
    process.exit(2);
  }
  writeGguf(folder, out);
}
