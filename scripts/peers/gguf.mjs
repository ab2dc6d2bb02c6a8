// Writes a GGUF file of a Llama shape with random Q4_0 weights: the peer's model, made here so that nothing is downloaded.
import { closeSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';

const alignment = 32;
const types = { uint32: 4, int32: 5, float32: 6, string: 8, array: 9 };
const ggmlType = { f32: 0, q4_0: 2 };
const blockWeights = 32;
const blockBytes = 18; // f16 scale, 32 nibbles

export const llama1b = {
  name: 'llama-1.1b',
  width: 2048,
  layers: 16,
  heads: 32,
  kvHeads: 8,
  ffn: 8192,
  vocabulary: 32000,
  context: 4096,
};

class Bytes {
  parts = [];
  size = 0;
  push(buffer) {
    this.parts.push(buffer);
    this.size += buffer.length;
  }
  u32(n) {
    const b = Buffer.alloc(4);
    b.writeUInt32LE(n);
    this.push(b);
  }
  u64(n) {
    const b = Buffer.alloc(8);
    b.writeBigUInt64LE(BigInt(n));
    this.push(b);
  }
  f32(n) {
    const b = Buffer.alloc(4);
    b.writeFloatLE(n);
    this.push(b);
  }
  text(s) {
    const b = Buffer.from(s);
    this.u64(b.length);
    this.push(b);
  }
  buffer() {
    return Buffer.concat(this.parts);
  }
}

function tensorsOf(s) {
  const kv = (s.width / s.heads) * s.kvHeads;
  const list = [
    ['token_embd.weight', [s.width, s.vocabulary]],
    ['output_norm.weight', [s.width]],
    ['output.weight', [s.width, s.vocabulary]],
  ];
  for (let i = 0; i < s.layers; ++i) {
    const name = (t) => `blk.${i}.${t}.weight`;
    list.push([name('attn_norm'), [s.width]], [name('attn_q'), [s.width, s.width]], [name('attn_k'), [s.width, kv]]);
    list.push(
      [name('attn_v'), [s.width, kv]],
      [name('attn_output'), [s.width, s.width]],
      [name('ffn_norm'), [s.width]],
    );
    list.push(
      [name('ffn_gate'), [s.width, s.ffn]],
      [name('ffn_up'), [s.width, s.ffn]],
      [name('ffn_down'), [s.ffn, s.width]],
    );
  }
  return list.map(([name, shape]) => {
    const elements = shape.reduce((a, b) => a * b);
    const quantised = shape.length > 1;
    return {
      name,
      shape,
      type: quantised ? ggmlType.q4_0 : ggmlType.f32,
      bytes: quantised ? (elements / blockWeights) * blockBytes : elements * 4,
    };
  });
}

function metadataOf(s) {
  const tokens = Array.from({ length: s.vocabulary }, (_, i) =>
    i < 3
      ? ['<unk>', '<s>', '</s>'][i]
      : i < 259
        ? `<0x${(i - 3).toString(16).toUpperCase().padStart(2, '0')}>`
        : `t${i}`,
  );
  const kinds = tokens.map((_, i) => (i === 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1));
  return [
    ['general.architecture', types.string, 'llama'],
    ['general.name', types.string, s.name],
    ['llama.block_count', types.uint32, s.layers],
    ['llama.context_length', types.uint32, s.context],
    ['llama.embedding_length', types.uint32, s.width],
    ['llama.feed_forward_length', types.uint32, s.ffn],
    ['llama.attention.head_count', types.uint32, s.heads],
    ['llama.attention.head_count_kv', types.uint32, s.kvHeads],
    ['llama.attention.layer_norm_rms_epsilon', types.float32, 1e-5],
    ['llama.rope.dimension_count', types.uint32, s.width / s.heads],
    ['llama.vocab_size', types.uint32, s.vocabulary],
    ['general.file_type', types.uint32, 2],
    ['tokenizer.ggml.model', types.string, 'llama'],
    ['tokenizer.ggml.tokens', types.array, [types.string, tokens]],
    ['tokenizer.ggml.scores', types.array, [types.float32, tokens.map((_, i) => -i)]],
    ['tokenizer.ggml.token_type', types.array, [types.int32, kinds]],
    ['tokenizer.ggml.bos_token_id', types.uint32, 1],
    ['tokenizer.ggml.eos_token_id', types.uint32, 2],
  ];
}

function writeValue(out, type, value) {
  if (type === types.string) out.text(value);
  else if (type === types.float32) out.f32(value);
  else if (type === types.uint32 || type === types.int32) out.u32(value);
  else {
    const [element, values] = value;
    out.u32(element);
    out.u64(values.length);
    for (const v of values) writeValue(out, element, v);
  }
}

function header(s, tensors) {
  const out = new Bytes();
  out.push(Buffer.from('GGUF'));
  out.u32(3);
  const metadata = metadataOf(s);
  out.u64(tensors.length);
  out.u64(metadata.length);
  for (const [key, type, value] of metadata) {
    out.text(key);
    out.u32(type);
    writeValue(out, type, value);
  }
  let offset = 0;
  for (const t of tensors) {
    out.text(t.name);
    out.u32(t.shape.length);
    for (const n of t.shape) out.u64(n);
    out.u32(t.type);
    out.u64(offset);
    offset += Math.ceil(t.bytes / alignment) * alignment;
  }
  const buffer = out.buffer();
  return Buffer.concat([buffer, Buffer.alloc((alignment - (buffer.length % alignment)) % alignment)]);
}

// For a machine without Node: the header and, a line a tensor, its kind and bytes; gguf-body.py writes the rest there.
export function writePlan(folder, shape) {
  const tensors = tensorsOf(shape);
  writeFileSync(join(folder, 'header.bin'), header(shape, tensors));
  const lines = tensors.map((t) => `${t.type === ggmlType.f32 ? 'ones' : 'q4_0'} ${t.bytes}`);
  writeFileSync(join(folder, 'plan.txt'), `${lines.join('\n')}\n`);
}

// Random nibbles under one small scale (0.0010 as f16), so that activations stay finite.
function randomBlocks(count) {
  const bytes = Buffer.alloc(count * blockBytes);
  let state = 12345;
  for (let i = 0; i < bytes.length; ++i) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[i] = state >>> 24;
  }
  for (let i = 0; i < count; ++i) bytes.writeUInt16LE(0x1419, i * blockBytes);
  return bytes;
}

export function writeRandomGguf(path, shape) {
  const tensors = tensorsOf(shape);
  const file = openSync(path, 'w');
  writeSync(file, header(shape, tensors));
  const piece = randomBlocks(1 << 16);
  for (const t of tensors) {
    const padded = Math.ceil(t.bytes / alignment) * alignment;
    if (t.type === ggmlType.f32) {
      const ones = Buffer.alloc(padded);
      new Float32Array(ones.buffer, ones.byteOffset, t.bytes / 4).fill(1);
      writeSync(file, ones);
    } else {
      let left = t.bytes;
      for (; left > 0; left -= piece.length) writeSync(file, piece, 0, Math.min(left, piece.length));
      writeSync(file, Buffer.alloc(padded - t.bytes));
    }
  }
  closeSync(file);
}
