// Writes test/fixtures/tokenizers/golden.json: ids that @huggingface/tokenizers (JavaScript) gives for random text, over
// the vocabularies beside it and over variants of them (a JSON merge patch on the file). The C++ tests read it.
//
//   npm install --no-save @huggingface/tokenizers@0.2.0 && node scripts/golden/tokenizers.mjs
//
// Seeds are fixed; the same versions of Node and of the library write the same file. Characters come from blocks whose
// properties have been the same since Unicode 13, because PCRE2, utf8proc and Node's ICU each have a version of their own.
// Left out, because the JavaScript library departs from the Rust one there (read in both sources): Split with other
// behaviours than Isolated, Digits beyond ASCII, Punctuation, single_word, Metaspace's split and its decoder.
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Tokenizer } from '@huggingface/tokenizers';

const folder = join(dirname(fileURLToPath(import.meta.url)), '../../test/fixtures/tokenizers');

// mulberry32: small, and the same everywhere.
function generator(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
const random = generator(20261121);
const below = (n) => Math.floor(random() * n);
const pick = (list) => list[below(list.length)];

const blocks = [
  [0x20, 0x7e],
  [0x20, 0x7e],
  [0x61, 0x7a],
  [0x61, 0x7a],
  [0xa0, 0xff],
  [0x100, 0x24f],
  [0x300, 0x36f],
  [0x391, 0x3c9],
  [0x400, 0x45f],
  [0x5d0, 0x5ea],
  [0x5b0, 0x5bd],
  [0x620, 0x669],
  [0x904, 0x939],
  [0x93c, 0x94d],
  [0xe01, 0xe3a],
  [0x1100, 0x1112],
  [0x1161, 0x1175],
  [0x11a8, 0x11c2],
  [0x1e00, 0x1eff],
  [0x2000, 0x206f],
  [0x2070, 0x2079],
  [0x2100, 0x213f],
  [0x2150, 0x2189],
  [0x2190, 0x22ff],
  [0x2460, 0x24ff],
  [0x2581, 0x2581],
  [0x3000, 0x303f],
  [0x3041, 0x30ff],
  [0x4e00, 0x9fa5],
  [0xac00, 0xd7a3],
  [0xe000, 0xe0ff],
  [0xf900, 0xfa2d],
  [0xfb00, 0xfb06],
  [0xfe30, 0xfe4f],
  [0xff01, 0xffbe],
  [0xfffd, 0xfffd],
  [0xffff, 0xffff],
  [0x10330, 0x1034a],
  [0x10400, 0x1044f],
  [0x12000, 0x12399],
  [0x1d400, 0x1d7ff],
  [0x1f300, 0x1f5ff],
  [0x1f600, 0x1f64f],
  [0x1f1e6, 0x1f1ff],
  [0x20000, 0x2a6d6],
  [0x2f800, 0x2fa1d],
  [0xe0020, 0xe007f],
  [0xe0100, 0xe01ef],
  [0xf0000, 0xf00ff],
  [0x10fff0, 0x10fffd],
];
// No U+FEFF: JavaScript's TextDecoder takes it for a byte order mark. U+0085 only under patterns that tokenizer.json spells
// out: in the one inside its ByteLevel the library lets JavaScript's \s miss it.
const spaces = [
  ' ',
  ' ',
  ' ',
  '  ',
  '   ',
  '\n',
  '\n\n',
  '\r\n',
  '\r',
  '\t',
  '\v',
  '\f',
  '\u00a0',
  '\u1680',
  '\u180e',
  '\u2003',
  '\u2028',
  '\u2029',
  '\u202f',
  '\u205f',
  '\u200b',
  '\u200d',
  '\u3000',
  '               ',
  ' \n \n ',
  '\t\t  ',
];
const words = [
  'the',
  'The',
  ' hello',
  ' World',
  "don't",
  "I'LL",
  "we've",
  "'s",
  "'S",
  "'\u017f",
  "''",
  '123',
  ' 4567',
  '3.14',
  '１２３',
  '²',
  'Ⅷ',
  '½',
  '०१२',
  '…',
  '!!!',
  '?!\n',
  ' ---',
  '/*',
  '//\r\n',
  '://',
  'naïve',
  'e\u0301',
  'Å',
  'ﬁ',
  'ǅ',
  'İ',
  'ß',
  '日本語',
  '한국어',
  '\u1112\u1161\u11ab',
  '👩‍👩‍👧',
  '🇩🇪',
  '🏳️‍🌈',
  '\u0000',
  '\u0001\u0002',
  '\u007f',
  '_x_',
  'camelCase',
  'สวัสดี',
  'مرحبا',
  'שלום',
  '▁',
  '▁▁',
  '<0x41>',
  '{"a":1}',
  'ﾊﾞ',
  'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',
];

const char = () => {
  const [low, high] = pick(blocks);
  return String.fromCodePoint(low + below(high - low + 1));
};
const atom = () => (random() < 0.35 ? pick(spaces) : random() < 0.5 ? pick(words) : char());

function texts() {
  const list = [];
  for (let i = 0; i < 130; ++i) {
    let text = '';
    for (let n = 1 + below(i < 60 ? 8 : 30); n > 0; --n) text += atom();
    list.push(text);
  }
  for (const space of new Set(spaces)) list.push(space, `${space}a${space}`, `a${space}${space}b1${space}.`);
  return list;
}

// Text with special tokens of a vocabulary strewn in.
function withTokens(tokens) {
  const list = [];
  for (let i = 0; i < 30; ++i) {
    let text = '';
    for (let n = 1 + below(8); n > 0; --n) text += random() < 0.5 ? pick(tokens) : atom();
    list.push(text);
  }
  return list;
}

const split = (regex) => ({ type: 'Split', pattern: { Regex: regex }, behavior: 'Isolated', invert: false });
const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false };
const llama3 =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const qwen2 = llama3.replace('{1,3}', '');
const o200k =
  "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const sequence = (...pretokenizers) => ({ pre_tokenizer: { type: 'Sequence', pretokenizers } });
const normalizers = (...list) => ({ normalizer: { type: 'Sequence', normalizers: list } });
const added = (id, content, extra = {}) => ({
  id,
  content,
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
  special: true,
  ...extra,
});
const template = (single, special_tokens) => ({
  post_processor: { type: 'TemplateProcessing', single, pair: single, special_tokens },
});

const sets = [
  { name: 'minimind', base: 'minimind.json', patch: {} },
  {
    name: 'llama 3 pattern, ignore_merges',
    base: 'minimind.json',
    patch: { ...sequence(split(llama3), byteLevel), model: { ignore_merges: true } },
  },
  {
    name: 'qwen 2: NFC and pattern',
    base: 'minimind.json',
    patch: { normalizer: { type: 'NFC' }, ...sequence(split(qwen2), byteLevel) },
  },
  { name: 'o200k pattern', base: 'minimind.json', patch: sequence(split(o200k), byteLevel) },
  {
    name: 'word and space classes',
    base: 'minimind.json',
    patch: sequence(split('\\w+|[^\\w\\s]+|[\\S]|\\s+'), byteLevel),
  },
  {
    name: 'prefix space, NFKC',
    base: 'minimind.json',
    patch: { normalizer: { type: 'NFKC' }, pre_tokenizer: { ...byteLevel, add_prefix_space: true, use_regex: true } },
  },
  {
    name: 'NFD, strip accents, lowercase',
    base: 'minimind.json',
    patch: normalizers({ type: 'NFD' }, { type: 'StripAccents' }, { type: 'Lowercase' }),
  },
  {
    name: 'NFKD, replace',
    base: 'minimind.json',
    patch: normalizers(
      { type: 'NFKD' },
      { type: 'Replace', pattern: { Regex: '[0-9]+' }, content: '#' },
      { type: 'Replace', pattern: { String: 'e' }, content: 'oe' },
    ),
  },
  { name: 'phi-3', base: 'phi-3.json', patch: {} },
  {
    name: 'phi-3, metaspace always',
    base: 'phi-3.json',
    patch: {
      normalizer: null,
      pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always', split: false },
    },
  },
  {
    name: 'phi-3, metaspace first',
    base: 'phi-3.json',
    patch: {
      normalizer: null,
      pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'first', split: false },
    },
  },
  {
    name: 'phi-3, no byte fallback, no fusing',
    base: 'phi-3.json',
    patch: { model: { byte_fallback: false, fuse_unk: false } },
  },
  {
    name: 'phi-3, no byte fallback, fusing',
    base: 'phi-3.json',
    patch: { model: { byte_fallback: false, fuse_unk: true } },
  },
  {
    name: 'phi-3, BOS and EOS template',
    base: 'phi-3.json',
    special: true,
    patch: template(
      [
        { SpecialToken: { id: '<s>', type_id: 0 } },
        { Sequence: { id: 'A', type_id: 0 } },
        { SpecialToken: { id: '</s>', type_id: 0 } },
      ],
      { '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] }, '</s>': { id: '</s>', ids: [2], tokens: ['</s>'] } },
    ),
  },
  { name: 'tinystories', base: 'tinystories.json', patch: {} },
  { name: 'tinystories, template', base: 'tinystories.json', patch: {}, special: true },
  {
    name: 'minimind, stripping tokens',
    base: 'minimind.json',
    tokens: ['<|a|>', '<|b|>', '<|ab|>', '<|a', '   ', ' <|a|>', '<|b|> '],
    patch: {
      added_tokens: [
        added(6400, '<|a|>', { lstrip: true }),
        added(6401, '<|b|>', { rstrip: true }),
        added(6402, '<|ab|>'),
        added(6403, '<|a', { special: false }),
      ],
    },
  },
  {
    name: 'minimind, runs of blanks',
    base: 'minimind.json',
    tokens: ['  ', '   ', '     ', 'a', '<|a|>'],
    patch: {
      added_tokens: [
        added(6400, '<|a|>'),
        added(6401, '  ', { special: false }),
        added(6402, '    ', { special: false }),
        added(6403, '   ', { special: false }),
      ],
    },
  },
];

const shared = texts();
const out = { texts: shared, sets: [] };
const files = new Map();
for (const { name, base, patch, special, tokens } of sets) {
  if (!files.has(base)) files.set(base, readFileSync(join(folder, base), 'utf8'));
  const json = JSON.parse(files.get(base));
  for (const [key, value] of Object.entries(patch)) json[key] = key === 'model' ? { ...json.model, ...value } : value;
  const tokenizer = new Tokenizer(json, {});
  const spelled = JSON.stringify(patch).includes('"Split"');
  const own = withTokens(
    tokens ??
      json.added_tokens
        .filter((t) => !t.normalized)
        .map((t) => t.content)
        .concat(['<|', '<s', '>', ...(spelled ? ['\u0085', ' \u0085', '\u0085 '] : [])]),
  );
  const list = [...shared, ...own];
  const ids = list.map((text) => tokenizer.encode(text, { add_special_tokens: special ?? false }).ids);
  const options = { skip_special_tokens: false, clean_up_tokenization_spaces: false };
  const decoded = ids.map((i) => (i.length ? tokenizer.decode(i, options) : ''));
  const sequences = Array.from({ length: 20 }, () =>
    Array.from({ length: 1 + below(20) }, () => below(json.model.vocab ? Object.keys(json.model.vocab).length : 1)),
  );
  out.sets.push({
    name,
    base,
    patch,
    special: special ?? false,
    texts: own,
    ids,
    decoded: decoded.map((d, i) => (d === list[i] ? 0 : d)),
    sequences: sequences.map((s) => [s, tokenizer.decode(s, options)]),
  });
}
writeFileSync(join(folder, 'golden.json'), JSON.stringify(out).replaceAll('},{"name"', '},\n{"name"') + '\n');
console.log(`${out.sets.length} sets of ${shared.length}+ texts, Unicode ${process.versions.unicode}`);
