// @ts-check
// Decodes pictures to RGB8 on a thread of its own: the event loop never waits for pixels. Plain JavaScript, so that the
// worker starts without the TypeScript loader.
import { parentPort } from 'node:worker_threads';
import sharp from 'sharp';

sharp.cache(false);

/** @param {Uint8Array} bytes @param {number} pixelsMax */
async function decode(bytes, pixelsMax) {
  // Only the first picture of an animation. Damaged data is an error, not a grey area.
  const image = sharp(bytes, { limitInputPixels: pixelsMax, failOn: 'error', pages: 1 });
  const { data, info } = await image
    .autoOrient()
    .flatten({ background: '#ffffff' })
    .toColourspace('srgb')
    .raw({ depth: 'uchar' })
    .toBuffer({ resolveWithObject: true });
  const pixels = info.channels === 3 ? new Uint8Array(data) : widen(data, info.channels, info.width * info.height);
  return { width: info.width, height: info.height, pixels };
}

/** @param {Uint8Array} data @param {number} channels @param {number} count */
function widen(data, channels, count) {
  const rgb = new Uint8Array(count * 3);
  for (let at = 0; at < count; at++) {
    for (let channel = 0; channel < 3; channel++) {
      rgb[at * 3 + channel] = /** @type {number} */ (data[at * channels + (channels < 3 ? 0 : channel)]);
    }
  }
  return rgb;
}

parentPort?.on('message', async ({ id, bytes, pixelsMax }) => {
  try {
    const image = await decode(bytes, pixelsMax);
    parentPort?.postMessage({ id, ...image }, [image.pixels.buffer]);
  } catch (error) {
    parentPort?.postMessage({ id, error: error instanceof Error ? error.message : 'unknown error' });
  }
});
