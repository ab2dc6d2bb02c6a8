// Writes the pictures of the default model's reference cases as RGB8, for native tests, which decode no files:
//   node scripts/golden/decode-images.mjs
import { readFileSync, writeFileSync } from 'node:fs';
import sharp from 'sharp';

const fixtures = new URL('../../test/fixtures/', import.meta.url);
const { cases } = JSON.parse(readFileSync(new URL('default-model/reference.json', fixtures)));
const files = cases
  .flatMap((entry) => entry.messages.flatMap((message) => (Array.isArray(message.content) ? message.content : [])))
  .filter((part) => part.type === 'image')
  .map((part) => part.image);

const header = {};
const bytes = [];
let at = 0;
for (const file of [...new Set(files)].sort()) {
  const { data, info } = await sharp(readFileSync(new URL(`default-model/${file}`, fixtures)))
    .flatten({ background: '#fff' })
    .removeAlpha()
    .toColourspace('srgb')
    .raw()
    .toBuffer({ resolveWithObject: true });
  header[file] = { dtype: 'U8', shape: [info.height, info.width, info.channels], data_offsets: [at, at + data.length] };
  at += data.length;
  bytes.push(data);
}
let json = JSON.stringify(header);
json += ' '.repeat((8 - (json.length % 8)) % 8);
const size = Buffer.alloc(8);
size.writeBigUInt64LE(BigInt(json.length));
writeFileSync(
  new URL('goldens/default-model.safetensors', fixtures),
  Buffer.concat([size, Buffer.from(json), ...bytes]),
);
console.log(`${Object.keys(header).length} pictures, ${at} bytes`);
