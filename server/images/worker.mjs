// @ts-check
// From what a client sent to RGB8, on a thread of its own: neither base64 nor pixels hold up the event loop. Plain
// JavaScript, so that the worker starts without the TypeScript loader.
import { parentPort } from 'node:worker_threads';
import sharp from 'sharp';
import { decodeBmp } from './bmp.mjs';
import { sniff } from './sniff.mjs';

sharp.cache(false);

/** Memory that large pictures were in, kept for the next: pages the system has just given cost as much as four copies. */
const spareBytesMin = 2 ** 20;
const sparesMax = 3;
const spareMilliseconds = 10_000;
/** @type {ArrayBuffer[]} */
let spares = [];
const forget = setTimeout(() => (spares = []), spareMilliseconds).unref();

/** @param {ArrayBuffer} buffer */
function keep(buffer) {
  spares.push(buffer);
  spares.sort((a, b) => a.byteLength - b.byteLength);
  if (spares.length > sparesMax) spares.shift();
  forget.refresh();
}

/** Some `size` bytes, which may hold anything. @param {number} size */
function memory(size) {
  if (size < spareBytesMin) return new Uint8Array(size);
  const at = spares.findIndex((spare) => spare.byteLength >= size);
  const [spare] = at < 0 ? [] : spares.splice(at, 1);
  // In steps, so that photographs of about one size can share.
  const step = 2 ** 22;
  return new Uint8Array(spare ?? new ArrayBuffer(Math.ceil(size / step) * step), 0, size);
}

/** What is said to the client; any other error is libvips', whose words hold file and function names. */
class Refusal extends Error {}

/**
 * @typedef {{ base64: boolean, source: Uint8Array | string, bytesMax: number, pixelsMax: number }} Task
 * @param {Task} task
 */
function bytesOf({ base64, source, bytesMax }) {
  const tooLarge = new Refusal(`the image is larger than ${bytesMax} bytes`);
  if (source.length > (base64 ? Math.ceil(bytesMax / 3) * 4 + 4 : bytesMax)) throw tooLarge;
  const bytes = base64 ? fromBase64(source) : /** @type {Uint8Array} */ (source);
  if (bytes.length > bytesMax) throw tooLarge;
  if (bytes.length === 0) throw new Refusal('the image is empty');
  return bytes;
}

/** @param {Uint8Array | string} source */
function fromBase64(source) {
  const text = typeof source === 'string' ? source : Buffer.from(source.buffer, source.byteOffset, source.length).latin1Slice();
  const bytes = Buffer.from(text, 'base64');
  // What is no base64 was passed over: then bytes are missing. Looking at every character first would cost as much again.
  const padding = text.endsWith('==') ? 2 : text.endsWith('=') ? 1 : 0;
  if (bytes.length !== Math.floor(((text.length - padding) * 3) / 4)) throw new Refusal('the base64 of the image is damaged');
  return bytes;
}

/** @param {Task} task */
async function decode(task) {
  const bytes = bytesOf(task);
  const format = sniff(bytes);
  if (!format) throw new Refusal('the image is not JPEG, PNG, WebP, GIF, AVIF, TIFF or BMP');
  const image = format === 'bmp' ? decodeBmp(bytes, task.pixelsMax) : await decodeWithSharp(bytes, task.pixelsMax);
  if (image.width < 1 || image.height < 1) throw new Refusal('the image has no pixels');
  return image;
}

/** @param {Uint8Array} bytes @param {number} pixelsMax */
async function decodeWithSharp(bytes, pixelsMax) {
  // Only the first picture of an animation. Damaged data is an error, not a grey area.
  const image = sharp(bytes, { limitInputPixels: pixelsMax, failOn: 'error', pages: 1 });
  const { data, info } = await image
    .autoOrient()
    .flatten({ background: '#ffffff' })
    .toColourspace('srgb')
    .raw({ depth: 'uchar' })
    .toBuffer({ resolveWithObject: true });
  // What sharp returns cannot be handed over.
  const pixels = memory(info.width * info.height * 3);
  if (info.channels === 3) pixels.set(data);
  else widen(data, info.channels, pixels);
  return { width: info.width, height: info.height, pixels };
}

/** @param {Uint8Array} data @param {number} channels @param {Uint8Array} rgb */
function widen(data, channels, rgb) {
  for (let at = 0; at * 3 < rgb.length; at++) {
    for (let channel = 0; channel < 3; channel++) {
      rgb[at * 3 + channel] = /** @type {number} */ (data[at * channels + (channels < 3 ? 0 : channel)]);
    }
  }
}

/** @param {unknown} error @param {number} pixelsMax */
function inWords(error, pixelsMax) {
  if (error instanceof Refusal) return error.message;
  if (error instanceof Error && /pixel limit/i.test(error.message)) return `the image has more than ${pixelsMax} pixels`;
  return 'the image is damaged or cannot be decoded';
}

parentPort?.on('message', async (/** @type {(Task & { id: number }) | { spare: ArrayBuffer }} */ task) => {
  if ('spare' in task) return keep(task.spare);
  try {
    const image = await decode(task);
    parentPort?.postMessage({ id: task.id, ...image }, [image.pixels.buffer]);
  } catch (error) {
    parentPort?.postMessage({ id: task.id, error: inWords(error, task.pixelsMax) });
  }
});
