// A random vision tower as an ONNX file, and ONNX Runtime against hearth-bench on it, in turns:
//   node scripts/peers/vit-onnx.mjs [--tower clip-l-336|siglip-so400m-384] [--threads 2] [--pairs 5] [--vision-precision f32]
//                                   [--onnx-precision f32|int8]
// The graph is the best for ONNX Runtime: its own fused attention, its Gelu, weights as initialisers that it packs; int8 is
// its dynamic quantisation, every linear one DynamicQuantizeMatMul. All blocks share one block's weights (time is
// arithmetic: 577 or 729 rows a weight), so that the file stays small.
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

const towers = {
  'clip-l-336': { width: 1024, ffn: 4096, heads: 16, layers: 23, rows: 577, columns: 588, quick: true },
  'siglip-so400m-384': { width: 1152, ffn: 4304, heads: 16, layers: 26, rows: 729, columns: 588, quick: false },
};

// ---- The file: as much of protobuf as ONNX needs ------------------------------------------------------------------

const varint = (value) => {
  const bytes = [];
  for (let left = BigInt(value); ; left >>= 7n) {
    if (left < 128n) return Buffer.from([...bytes, Number(left)]);
    bytes.push(Number(left & 127n) | 128);
  }
};
const integer = (field, value) => Buffer.concat([varint(field << 3), varint(value)]);
const bytes = (field, value) => Buffer.concat([varint((field << 3) | 2), varint(value.length), value]);
const string = (field, value) => bytes(field, Buffer.from(value));
const float = (field, value) => {
  const out = Buffer.alloc(4);
  out.writeFloatLE(value);
  return Buffer.concat([varint((field << 3) | 5), out]);
};
const attribute = {
  int: (name, value) => bytes(5, Buffer.concat([string(1, name), integer(3, value), integer(20, 2)])),
  float: (name, value) => bytes(5, Buffer.concat([string(1, name), float(2, value), integer(20, 1)])),
  string: (name, value) => bytes(5, Buffer.concat([string(1, name), string(4, value), integer(20, 3)])),
};
const node = (type, inputs, outputs, attributes = [], domain = '') =>
  bytes(
    1,
    Buffer.concat([
      ...inputs.map((name) => string(1, name)),
      ...outputs.map((name) => string(2, name)),
      string(3, outputs[0]),
      string(4, type),
      ...attributes,
      ...(domain ? [string(7, domain)] : []),
    ]),
  );
const tensor = (name, shape, values) =>
  bytes(
    5,
    Buffer.concat([
      ...shape.map((size) => integer(1, size)),
      integer(2, values instanceof Int8Array ? 3 : 1),
      string(8, name),
      bytes(9, Buffer.from(values.buffer)),
    ]),
  );
const port = (field, name, shape) => {
  const dims = Buffer.concat(shape.map((size) => bytes(1, integer(1, size))));
  return bytes(
    field,
    Buffer.concat([string(1, name), bytes(2, bytes(1, Buffer.concat([integer(1, 1), bytes(2, dims)])))]),
  );
};

let state = 12_345;
function random(count, spread) {
  const values = new Float32Array(count);
  for (let at = 0; at < count; at++) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff;
    values[at] = (state / 0x3fffffff - 1) * spread;
  }
  return values;
}

function block(layer, from, to, { heads, quick }, int8) {
  const name = (part) => `${part}.${layer}`;
  const linear = (weight, x, y) =>
    int8
      ? [
          node(
            'DynamicQuantizeMatMul',
            [x, `${weight}.weight`, `${weight}.scale`, '', `${weight}.bias`],
            [y],
            [],
            'com.microsoft',
          ),
        ]
      : [
          node('MatMul', [x, `${weight}.weight`], [`${y}.product`]),
          node('Add', [`${y}.product`, `${weight}.bias`], [y]),
        ];
  const norm = (weight, x, y) =>
    node(
      'LayerNormalization',
      [x, `${weight}.weight`, `${weight}.bias`],
      [y],
      [attribute.int('axis', 2), attribute.float('epsilon', 1e-5)],
    );
  const gelu = quick
    ? [
        node('Mul', [name('up'), 'quick'], [name('scaled')]),
        node('Sigmoid', [name('scaled')], [name('gate')]),
        node('Mul', [name('up'), name('gate')], [name('active')]),
      ]
    : [node('Gelu', [name('up')], [name('active')], [attribute.string('approximate', 'tanh')])];
  return [
    norm('norm1', from, name('normed')),
    ...['q', 'k', 'v'].flatMap((part) => linear(part, name('normed'), name(part))),
    node(
      'MultiHeadAttention',
      [name('q'), name('k'), name('v')],
      [name('attended')],
      [attribute.int('num_heads', heads)],
      'com.microsoft',
    ),
    ...linear('out', name('attended'), name('projected')),
    node('Add', [from, name('projected')], [name('middle')]),
    norm('norm2', name('middle'), name('normed2')),
    ...linear('up', name('normed2'), name('up')),
    ...gelu,
    ...linear('down', name('active'), name('mlp')),
    node('Add', [name('middle'), name('mlp')], [to]),
  ];
}

function model(tower, int8) {
  const { width, ffn, layers, rows, columns } = tower;
  const weights = [];
  const add = (name, shape, spread) =>
    weights.push(
      tensor(
        name,
        shape,
        random(
          shape.reduce((product, size) => product * size, 1),
          spread,
        ),
      ),
    );
  add('patch.weight', [columns, width], 0.02);
  add('positions', [1, rows, width], 0.02);
  const addLinear = (name, from, to) => {
    if (int8) {
      weights.push(tensor(`${name}.weight`, [from, to], Int8Array.from(random(from * to, 127))));
      weights.push(tensor(`${name}.scale`, [to], new Float32Array(to).fill(0.03 / 127)));
    } else add(`${name}.weight`, [from, to], 0.03);
    add(`${name}.bias`, [to], 0.02);
  };
  for (const part of ['q', 'k', 'v', 'out']) addLinear(part, width, width);
  addLinear('up', width, ffn);
  addLinear('down', ffn, width);
  for (const part of ['norm1', 'norm2']) {
    add(`${part}.weight`, [width], 1);
    add(`${part}.bias`, [width], 0.1);
  }
  weights.push(tensor('quick', [1], Float32Array.of(1.702)));
  const nodes = [
    node('MatMul', ['patches', 'patch.weight'], ['embedded']),
    node('Add', ['embedded', 'positions'], ['x0']),
  ];
  for (let layer = 0; layer < layers; layer++)
    nodes.push(...block(layer, `x${layer}`, layer === layers - 1 ? 'features' : `x${layer + 1}`, tower, int8));
  const graph = Buffer.concat([
    ...nodes,
    string(2, 'tower'),
    ...weights,
    port(11, 'patches', [1, rows, columns]),
    port(12, 'features', [1, rows, width]),
  ]);
  const opset = (domain, version) => bytes(8, Buffer.concat([string(1, domain), integer(2, version)]));
  return Buffer.concat([integer(1, 9), string(2, 'hearth'), opset('', 20), opset('com.microsoft', 1), bytes(7, graph)]);
}

// ---- The comparison -----------------------------------------------------------------------------------------------

const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];

async function main() {
  const { values } = parseArgs({
    options: {
      tower: { type: 'string', default: 'clip-l-336' },
      threads: { type: 'string', default: '2' },
      pairs: { type: 'string', default: '5' },
      'vision-precision': { type: 'string', default: 'f32' },
      'onnx-precision': { type: 'string', default: 'f32' },
      bench: { type: 'string', default: 'engine-native/build/hearth-bench' },
    },
  });
  const tower = towers[values.tower];
  if (!tower) throw new Error(`--tower is one of ${Object.keys(towers).join(', ')}`);
  if (!['f32', 'int8'].includes(values['onnx-precision'])) throw new Error('--onnx-precision is f32 or int8');
  const folder = join(tmpdir(), 'hearth-peers');
  mkdirSync(folder, { recursive: true });
  const file = join(folder, `${values.tower}-${values['onnx-precision']}.onnx`);
  writeFileSync(file, model(tower, values['onnx-precision'] === 'int8'));
  const { InferenceSession, Tensor } = await import('onnxruntime-node').catch((error) => {
    console.error(
      `vit-onnx: ${error.message}\nrun npm install --no-package-lock --ignore-scripts in scripts/peers first`,
    );
    process.exit(1);
  });
  const session = await InferenceSession.create(file, {
    intraOpNumThreads: Number(values.threads),
    interOpNumThreads: 1,
    graphOptimizationLevel: 'all',
  });
  const patches = new Tensor('float32', random(tower.rows * tower.columns, 1), [1, tower.rows, tower.columns]);
  const onnx = async () => {
    const begin = performance.now();
    await session.run({ patches });
    return performance.now() - begin;
  };
  const hearth = () => {
    const args = [
      '--shape',
      values.tower,
      '--device',
      'cpu',
      '--precision',
      'f32',
      '--vision-precision',
      values['vision-precision'],
      '--threads',
      values.threads,
      '--images',
      '1',
      '--repeat',
      '1',
      '--new',
      '2',
      '--prompt',
      '2',
    ];
    const lines = execFileSync(values.bench, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
      .trim()
      .split('\n');
    return JSON.parse(lines.find((line) => line.includes('"vision"'))).ms;
  };
  await onnx();
  const times = { onnx: [], hearth: [] };
  for (let pair = 0; pair < Number(values.pairs); pair++) {
    times.onnx.push(await onnx());
    times.hearth.push(hearth());
  }
  const [theirs, ours] = [median(times.onnx), median(times.hearth)];
  console.log(
    JSON.stringify({
      tower: values.tower,
      threads: Number(values.threads),
      onnxPrecision: values['onnx-precision'],
      visionPrecision: values['vision-precision'],
      onnxMs: Math.round(theirs),
      hearthMs: Math.round(ours),
      ratio: Number((theirs / ours).toFixed(2)),
    }),
  );
}

await main();
