// @ts-check
// BMP, which sharp has no reader for: uncompressed pictures of 1, 4, 8, 16, 24 and 32 bits, to RGB8 from the top down.
// Every number of the header is checked against the file's size before anything is read or made.

const headerBytes = 14;
const bitfields = 3;
const bitfieldsAlpha = 6;

/**
 * @typedef {{ width: number, height: number, pixels: Uint8Array }} Picture
 * @typedef {{ width: number, height: number, topDown: boolean, bits: number, rowBytes: number, pixelsAt: number,
 *   palette: Uint8Array | null, masks: number[] }} Layout
 */

/**
 * Throws an Error whose message is for people.
 * @param {Uint8Array} bytes @param {number} pixelsMax
 * @returns {Picture}
 */
export function decodeBmp(bytes, pixelsMax) {
  const layout = readLayout(bytes, pixelsMax);
  const { width, height, bits, rowBytes, pixelsAt, topDown } = layout;
  const pixels = new Uint8Array(width * height * 3);
  const put = bits <= 8 ? putIndexed : bits === 24 ? putBgr : putMasked;
  for (let y = 0; y < height; y++) {
    const row = bytes.subarray(pixelsAt + (topDown ? y : height - 1 - y) * rowBytes);
    put(layout, row, pixels.subarray(y * width * 3, (y + 1) * width * 3));
  }
  return { width, height, pixels };
}

/** @param {Uint8Array} bytes @param {number} pixelsMax @returns {Layout} */
function readLayout(bytes, pixelsMax) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const need = (/** @type {number} */ end) => {
    if (end > bytes.length) throw new Error('the BMP file is cut short');
  };
  need(headerBytes + 12);
  const pixelsAt = view.getUint32(10, true);
  const infoBytes = view.getUint32(14, true);
  const old = infoBytes === 12;
  if (!old && ![40, 52, 56, 64, 108, 124].includes(infoBytes)) throw new Error('the BMP header is of an unknown kind');
  need(headerBytes + infoBytes);
  const width = old ? view.getUint16(18, true) : view.getInt32(18, true);
  const signedHeight = old ? view.getUint16(20, true) : view.getInt32(22, true);
  const bits = view.getUint16(old ? 24 : 28, true);
  const compression = old ? 0 : view.getUint32(30, true);
  const height = Math.abs(signedHeight);
  if (width < 1 || height < 1) throw new Error('the image has no pixels');
  if (width * height > pixelsMax) throw new Error('pixel limit');
  if (![1, 4, 8, 16, 24, 32].includes(bits)) throw new Error('the BMP file has an unknown number of bits');
  const masked = compression === bitfields || compression === bitfieldsAlpha;
  if (compression !== 0 && !(masked && bits >= 16 && bits !== 24)) throw new Error('compressed BMP is not decoded');
  const rowBytes = Math.ceil((width * bits) / 32) * 4;
  if (pixelsAt < headerBytes + infoBytes) throw new Error('the BMP header is damaged');
  need(pixelsAt + rowBytes * height);
  const masks = readMasks(view, { bits, masked, infoBytes, alpha: compression === bitfieldsAlpha }, need);
  const palette = bits <= 8 ? readPalette(bytes, view, old, infoBytes, bits) : null;
  return { width, height, topDown: signedHeight < 0, bits, rowBytes, pixelsAt, palette, masks };
}

/**
 * Red, green, blue and alpha; without masks of its own a file has 5 bits each, or 8.
 * @param {DataView} view
 * @param {{ bits: number, masked: boolean, infoBytes: number, alpha: boolean }} form
 * @param {(end: number) => void} need
 */
function readMasks(view, { bits, masked, infoBytes, alpha }, need) {
  if (!masked) return bits === 16 ? [0x7c00, 0x3e0, 0x1f, 0] : [0xff0000, 0xff00, 0xff, 0];
  const at = headerBytes + 40;
  const count = alpha || infoBytes >= 56 ? 4 : 3;
  need(at + count * 4);
  const masks = Array.from({ length: 4 }, (_, index) => (index < count ? view.getUint32(at + index * 4, true) : 0));
  if (masks.slice(0, 3).some((mask) => !isRun(mask))) throw new Error('the BMP masks are damaged');
  if (masks[3] !== 0 && !isRun(/** @type {number} */ (masks[3]))) throw new Error('the BMP masks are damaged');
  return masks;
}

/** Whether a mask is one run of bits. @param {number} mask */
const isRun = (mask) => mask !== 0 && /^0*1+0*$/.test((mask >>> 0).toString(2));

/** @param {Uint8Array} bytes @param {DataView} view @param {boolean} old @param {number} infoBytes @param {number} bits */
function readPalette(bytes, view, old, infoBytes, bits) {
  const entry = old ? 3 : 4;
  const begin = headerBytes + infoBytes;
  const declared = old ? 0 : view.getUint32(46, true);
  const count = declared === 0 ? 2 ** bits : Math.min(declared, 2 ** bits);
  const palette = new Uint8Array(2 ** bits * 3);
  for (let index = 0; index < count && begin + (index + 1) * entry <= bytes.length; index++) {
    for (let channel = 0; channel < 3; channel++) {
      palette[index * 3 + channel] = /** @type {number} */ (bytes[begin + index * entry + 2 - channel]);
    }
  }
  return palette;
}

/** @param {Layout} layout @param {Uint8Array} row @param {Uint8Array} to */
function putIndexed({ width, bits, palette }, row, to) {
  const mask = 2 ** bits - 1;
  for (let x = 0; x < width; x++) {
    const bit = x * bits;
    const index = (/** @type {number} */ (row[bit >> 3]) >> (8 - bits - (bit & 7))) & mask;
    to.set(/** @type {Uint8Array} */ (palette).subarray(index * 3, index * 3 + 3), x * 3);
  }
}

/** @param {Layout} layout @param {Uint8Array} row @param {Uint8Array} to */
function putBgr({ width }, row, to) {
  for (let at = 0; at < width * 3; at += 3) {
    to[at] = /** @type {number} */ (row[at + 2]);
    to[at + 1] = /** @type {number} */ (row[at + 1]);
    to[at + 2] = /** @type {number} */ (row[at]);
  }
}

/** Alpha is composited on white. @param {Layout} layout @param {Uint8Array} row @param {Uint8Array} to */
function putMasked({ width, bits, masks }, row, to) {
  const view = new DataView(row.buffer, row.byteOffset, row.byteLength);
  const fields = masks.map((mask) => {
    const shift = mask === 0 ? 0 : 31 - Math.clz32(mask & -mask);
    return { mask, shift, most: mask === 0 ? 1 : mask >>> shift };
  });
  for (let x = 0; x < width; x++) {
    const word = bits === 16 ? view.getUint16(x * 2, true) : view.getUint32(x * 4, true);
    const [red, green, blue, alpha] = fields.map(({ mask, shift, most }) => ((word & mask) >>> shift) / most);
    const opacity = masks[3] === 0 ? 1 : /** @type {number} */ (alpha);
    [red, green, blue].forEach((value, channel) => {
      to[x * 3 + channel] = Math.round(255 * (/** @type {number} */ (value) * opacity + 1 - opacity));
    });
  }
}
