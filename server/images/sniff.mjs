// @ts-check
// What a file is by its first bytes. Names and declared types are not believed.

/** @typedef {'jpeg' | 'png' | 'webp' | 'gif' | 'avif' | 'tiff' | 'bmp'} ImageFormat */

/** @param {Uint8Array} bytes @param {readonly number[]} magic */
const startsWith = (bytes, magic, at = 0) => magic.every((byte, index) => bytes[at + index] === byte);
const ascii = (/** @type {string} */ text) => [...text].map((letter) => letter.charCodeAt(0));

/** The format, or null when it is none that is decoded here. @param {Uint8Array} bytes @returns {ImageFormat | null} */
export function sniff(bytes) {
  if (startsWith(bytes, [0xff, 0xd8, 0xff])) return 'jpeg';
  if (startsWith(bytes, [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])) return 'png';
  if (startsWith(bytes, ascii('RIFF')) && startsWith(bytes, ascii('WEBP'), 8)) return 'webp';
  if (startsWith(bytes, ascii('GIF87a')) || startsWith(bytes, ascii('GIF89a'))) return 'gif';
  if (startsWith(bytes, ascii('ftyp'), 4) && ['avif', 'avis'].some((brand) => startsWith(bytes, ascii(brand), 8))) {
    return 'avif';
  }
  if (startsWith(bytes, [0x49, 0x49, 0x2a, 0x00]) || startsWith(bytes, [0x4d, 0x4d, 0x00, 0x2a])) return 'tiff';
  // Two letters are little; the reserved zeros of the header make it sure.
  if (startsWith(bytes, ascii('BM')) && startsWith(bytes, [0, 0, 0, 0], 6)) return 'bmp';
  return null;
}
