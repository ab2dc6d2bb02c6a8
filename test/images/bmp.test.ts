// BMP files of every kind that is decoded, made here byte by byte, and what is refused before it is read.

import { describe, expect, it } from 'vitest';
import { decodeBmp } from '../../server/images/bmp.mjs';

interface Form {
  width: number;
  height: number;
  bits: number;
  /** From the file's first row to its last, without the padding. */
  rows: number[][];
  palette?: number[];
  compression?: number;
  masks?: number[];
  infoBytes?: number;
}

function bmp({
  width,
  height,
  bits,
  rows,
  palette = [],
  compression = 0,
  masks = [],
  infoBytes = 40,
}: Form): Uint8Array {
  // Files that lie about their size stay small.
  const rowBytes = Math.min(Math.ceil((Math.abs(width) * bits) / 32) * 4, 64);
  const tables = masks.length * 4 + palette.length;
  const at = 14 + infoBytes + (infoBytes > 40 ? 0 : masks.length * 4) + palette.length;
  const file = Buffer.alloc(Math.max(at, 14 + infoBytes + tables) + rowBytes * rows.length);
  file.write('BM');
  file.writeUInt32LE(file.length, 2);
  file.writeUInt32LE(at, 10);
  file.writeUInt32LE(infoBytes, 14);
  if (infoBytes === 12) {
    file.writeUInt16LE(width, 18);
    file.writeUInt16LE(height, 20);
    file.writeUInt16LE(1, 22);
    file.writeUInt16LE(bits, 24);
  } else {
    file.writeInt32LE(width, 18);
    file.writeInt32LE(height, 22);
    file.writeUInt16LE(1, 26);
    file.writeUInt16LE(bits, 28);
    file.writeUInt32LE(compression, 30);
  }
  for (const [index, mask] of masks.entries()) file.writeUInt32LE(mask, 54 + index * 4);
  Buffer.from(palette).copy(file, 14 + infoBytes);
  for (const [index, row] of rows.entries()) Buffer.from(row).copy(file, at + index * rowBytes);
  return file;
}
const rgb = (file: Uint8Array) => [...decodeBmp(file, 1000).pixels];

describe('what decodes', () => {
  it('24 bits, bottom up and top down, with rows padded to four bytes', () => {
    const rows = [
      [3, 2, 1, 6, 5, 4],
      [9, 8, 7, 12, 11, 10],
    ];
    expect(rgb(bmp({ width: 2, height: -2, bits: 24, rows }))).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    expect(rgb(bmp({ width: 2, height: 2, bits: 24, rows }))).toEqual([7, 8, 9, 10, 11, 12, 1, 2, 3, 4, 5, 6]);
    expect(rgb(bmp({ width: 2, height: 2, bits: 24, rows, infoBytes: 12 }))).toEqual([
      7, 8, 9, 10, 11, 12, 1, 2, 3, 4, 5, 6,
    ]);
  });

  it('1, 4 and 8 bits with a palette', () => {
    const palette = [0, 0, 255, 0, 0, 255, 0, 0];
    const red = [255, 0, 0];
    const green = [0, 255, 0];
    expect(rgb(bmp({ width: 3, height: 1, bits: 1, rows: [[0b01000000]], palette }))).toEqual([
      ...red,
      ...green,
      ...red,
    ]);
    expect(rgb(bmp({ width: 3, height: 1, bits: 4, rows: [[0x01, 0x00]], palette }))).toEqual([
      ...red,
      ...green,
      ...red,
    ]);
    expect(rgb(bmp({ width: 2, height: 1, bits: 8, rows: [[1, 0]], palette }))).toEqual([...green, ...red]);
  });

  it('32 bits: the fourth byte is nothing, unless a mask says that it is alpha, on white', () => {
    const rows = [[0, 0, 255, 0]];
    expect(rgb(bmp({ width: 1, height: 1, bits: 32, rows }))).toEqual([255, 0, 0]);
    const masks = [0xff0000, 0xff00, 0xff, 0xff000000];
    const form = { width: 1, height: 1, bits: 32, compression: 3, masks, infoBytes: 108 };
    expect(rgb(bmp({ ...form, rows: [[0, 0, 255, 0]] }))).toEqual([255, 255, 255]);
    expect(rgb(bmp({ ...form, rows: [[0, 0, 255, 255]] }))).toEqual([255, 0, 0]);
  });

  it('16 bits, with 5 bits each or as masks say', () => {
    expect(rgb(bmp({ width: 1, height: 1, bits: 16, rows: [[0x1f, 0x7c]] }))).toEqual([255, 0, 255]);
    const masks = [0xf800, 0x7e0, 0x1f];
    expect(rgb(bmp({ width: 1, height: 1, bits: 16, rows: [[0xe0, 0x07]], compression: 3, masks }))).toEqual([
      0, 255, 0,
    ]);
  });
});

describe('what is refused', () => {
  const good = bmp({ width: 2, height: 2, bits: 24, rows: [Array(6).fill(1), Array(6).fill(1)] });

  it('files cut at any byte', () => {
    for (let end = 0; end < good.length; end++) expect(() => decodeBmp(good.subarray(0, end), 1000)).toThrow();
    expect(decodeBmp(good, 1000).pixels).toHaveLength(12);
  });

  it('sizes over the limit, of nothing, and over the file, before memory is taken', () => {
    const form = { bits: 24, rows: [[1, 2, 3]] };
    expect(() => decodeBmp(bmp({ ...form, width: 65_535, height: 65_535 }), 1_000_000)).toThrow(/pixel limit/);
    expect(() => decodeBmp(bmp({ ...form, width: 2 ** 31 - 1, height: -(2 ** 31) }), 1_000_000)).toThrow(/pixel limit/);
    expect(() => decodeBmp(bmp({ ...form, width: 0, height: 1 }), 1000)).toThrow(/no pixels/);
    expect(() => decodeBmp(bmp({ ...form, width: -1, height: 1 }), 1000)).toThrow(/no pixels/);
    expect(() => decodeBmp(bmp({ ...form, width: 20, height: 20 }), 1000)).toThrow(/cut short/);
  });

  it('compression, odd numbers of bits, unknown headers and broken masks', () => {
    const form = { width: 1, height: 1, rows: [[0, 0, 0, 0]] };
    expect(() => decodeBmp(bmp({ ...form, bits: 8, compression: 1 }), 1000)).toThrow(/compressed/);
    expect(() => decodeBmp(bmp({ ...form, bits: 13 }), 1000)).toThrow(/bits/);
    expect(() => decodeBmp(bmp({ ...form, bits: 24, infoBytes: 41 }), 1000)).toThrow(/unknown kind/);
    const masks = [0xf0f, 0xff00, 0xff];
    expect(() => decodeBmp(bmp({ ...form, bits: 32, compression: 3, masks }), 1000)).toThrow(/masks/);
  });

  it('random damage never does more than throw', () => {
    let state = 1;
    for (let round = 0; round < 3000; round++) {
      const file = Uint8Array.from(good);
      for (let change = 0; change < 3; change++) {
        state = (state * 1_103_515_245 + 12_345) & 0x7fffffff;
        file[state % file.length] = state >> 16;
      }
      try {
        expect(decodeBmp(file, 1000).pixels.length).toBeLessThanOrEqual(3000);
      } catch (error) {
        expect(error).not.toBeInstanceOf(RangeError);
      }
    }
  });
});
