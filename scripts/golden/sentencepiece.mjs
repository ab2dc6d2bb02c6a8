// Writes test/fixtures/tokenizers/sentencepiece.json and the small models beside it: what Debian's spm_encode (package
// sentencepiece, 0.1.97) makes of the texts of golden.json, over models trained here and over two real ones.
//
//   node scripts/golden/sentencepiece.mjs TEXT-FILE     (English text to train on, one story or paragraph a line)
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const folder = join(dirname(fileURLToPath(import.meta.url)), '../../test/fixtures/tokenizers');
const scratch = mkdtempSync(join(tmpdir(), 'spm-'));

// name: options of spm_train. The texts are Latin with some Chinese, so that characters outside the vocabulary occur.
const trained = {
  'spm-unigram': ['--model_type=unigram', '--vocab_size=600', '--byte_fallback=true'],
  'spm-unigram-unk': [
    '--model_type=unigram',
    '--vocab_size=400',
    '--user_defined_symbols=<sep>,[X]',
    '--remove_extra_whitespaces=false',
  ],
  'spm-bpe': [
    '--model_type=bpe',
    '--vocab_size=500',
    '--user_defined_symbols=<sep>',
    '--normalization_rule_name=nfkc_cf',
  ],
};
const training = join(scratch, 'train.txt');
writeFileSync(training, `${readFileSync(process.argv[2], 'utf8').slice(0, 200_000)}\n日本語と中国語の文。\n`);
for (const [name, options] of Object.entries(trained)) {
  execFileSync(
    'spm_train',
    [`--input=${training}`, `--model_prefix=${join(scratch, name)}`, '--num_threads=1', '--minloglevel=2', ...options],
    { stdio: ['ignore', 'ignore', 'inherit'] },
  );
  writeFileSync(join(folder, `${name}.model`), readFileSync(join(scratch, `${name}.model`)));
}

// spm_encode reads lines, so texts become lines; its C strings end at NUL.
const lines = [
  ...new Set(JSON.parse(readFileSync(join(folder, 'golden.json'), 'utf8')).texts.map((t) => t.replace(/[\n\0]/g, ' '))),
];
const symbols = ['a<sep>b', '<sep> x <sep>', '[X][X]', 'w [X] <sep>  z', '<sep>'];
const encode = (model, texts) =>
  execFileSync('spm_encode', [`--model=${join(folder, model)}`, '--output_format=id'], {
    input: `${texts.join('\n')}\n`,
    maxBuffer: 1 << 26,
  })
    .toString()
    .split('\n')
    .slice(0, texts.length)
    .map((line) => line.split(' ').filter(Boolean).map(Number));
const models = [
  'spm-unigram.model',
  'spm-unigram-unk.model',
  'spm-bpe.model',
  'mistral-v1.model',
  'openllama.model',
].map((model) => ({
  model,
  ids: encode(model, lines),
  symbolIds: encode(model, symbols),
}));
writeFileSync(
  join(folder, 'sentencepiece.json.new'),
  JSON.stringify({ lines, symbols, models }).replaceAll('{"model"', '\n{"model"') + '\n',
);
renameSync(join(folder, 'sentencepiece.json.new'), join(folder, 'sentencepiece.json'));
console.log(`${models.length} models, ${lines.length} lines`);
