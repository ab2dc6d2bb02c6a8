// Converts a llama2.c checkpoint (legacy version 0, float32) to a Hugging Face folder:
//   node scripts/convert-llama2c.mjs MODEL.bin TOKENIZER.bin OUT_FOLDER
// llama2.c turns neighbouring pairs of a head in rope; Hugging Face turns the two halves, so rows of q and k move.
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';

const [model, tokenizer, folder] = process.argv.slice(2);
if (!folder) {
  console.error('usage: node scripts/convert-llama2c.mjs MODEL.bin TOKENIZER.bin OUT_FOLDER');
  process.exit(2);
}

const file = readFileSync(model);
const [dim, ffn, layers, heads, kvHeads, signedVocabulary, context] = Array.from({ length: 7 }, (_, i) =>
  file.readInt32LE(4 * i),
);
const vocabulary = Math.abs(signedVocabulary); // negative: the head has a table of its own
const headDim = dim / heads;
let offset = 28;
const take = (count) => {
  const bytes = file.subarray(offset, offset + 4 * count);
  if (bytes.length !== 4 * count) throw new Error(`${model}: too short`);
  offset += 4 * count;
  return bytes;
};

/** Rows of one matrix from neighbouring pairs to halves, head by head. */
function toHalves(bytes, rows) {
  const out = Buffer.alloc(bytes.length);
  for (let row = 0; row < rows; row++) {
    const head = Math.floor(row / headDim);
    const at = row % headDim;
    const from = head * headDim + (at % (headDim / 2)) * 2 + Math.floor(at / (headDim / 2));
    bytes.copy(out, row * dim * 4, from * dim * 4, (from + 1) * dim * 4);
  }
  return out;
}

const tensors = new Map();
const each = (name, rows, columns, change = (bytes) => bytes) => {
  for (let i = 0; i < layers; i++) {
    tensors.set(`model.layers.${i}.${name}.weight`, {
      shape: columns ? [rows, columns] : [rows],
      bytes: change(take(rows * (columns ?? 1))),
    });
  }
};
const kv = kvHeads * headDim;
tensors.set('model.embed_tokens.weight', { shape: [vocabulary, dim], bytes: take(vocabulary * dim) });
each('input_layernorm', dim);
each('self_attn.q_proj', dim, dim, (bytes) => toHalves(bytes, dim));
each('self_attn.k_proj', kv, dim, (bytes) => toHalves(bytes, kv));
each('self_attn.v_proj', kv, dim);
each('self_attn.o_proj', dim, dim);
each('post_attention_layernorm', dim);
each('mlp.gate_proj', ffn, dim);
each('mlp.down_proj', dim, ffn);
each('mlp.up_proj', ffn, dim);
tensors.set('model.norm.weight', { shape: [dim], bytes: take(dim) });
take(context * headDim); // the rope tables, which follow from the sizes
if (signedVocabulary < 0) tensors.set('lm_head.weight', { shape: [vocabulary, dim], bytes: take(vocabulary * dim) });

const header = {};
let at = 0;
for (const [name, { shape, bytes }] of tensors) {
  header[name] = { dtype: 'F32', shape, data_offsets: [at, at + bytes.length] };
  at += bytes.length;
}
let json = JSON.stringify({ __metadata__: { format: 'pt', source: basename(model) }, ...header });
json += ' '.repeat((8 - (json.length % 8)) % 8);
const size = Buffer.alloc(8);
size.writeBigUInt64LE(BigInt(json.length));

mkdirSync(folder, { recursive: true });
writeFileSync(
  join(folder, 'model.safetensors'),
  Buffer.concat([size, Buffer.from(json), ...[...tensors.values()].map((t) => t.bytes)]),
);
const config = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: dim,
  intermediate_size: ffn,
  num_hidden_layers: layers,
  num_attention_heads: heads,
  num_key_value_heads: kvHeads,
  vocab_size: vocabulary,
  max_position_embeddings: context,
  hidden_act: 'silu',
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: signedVocabulary > 0,
  torch_dtype: 'float32',
  bos_token_id: 1,
  eos_token_id: 2,
};
writeFileSync(join(folder, 'config.json'), `${JSON.stringify(config, null, 2)}\n`);
copyFileSync(tokenizer, join(folder, 'tok512.bin'));
