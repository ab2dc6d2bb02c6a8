// Finds again, in a rendered prompt, the text that people typed: there special tokens must not match.
//
// Before rendering, every typed text is enclosed in a pair of private-use characters (planes 15 and 16, chosen so
// that they occur nowhere in the input). Leading and trailing white space stays outside the pair, so that a template's
// trim still works. After rendering the marks are taken out and their places give byte ranges. A template that splits
// or slices a text may drop one mark of a pair; then the range is found by comparing with the text that was marked.

export type Ranges = Array<readonly [begin: number, end: number]>;

const planeStart = 0xf0000;
const planeEnd = 0x10fffd;
const marksMax = 60_000;

export class TooManyTexts extends Error {}

export class Marks {
  readonly #base: number;
  readonly #texts: string[] = [];

  /** `inputs`: everything that may reach the template, so that marks can be chosen outside it. */
  constructor(inputs: Iterable<string>) {
    this.#base = freeWindow(inputs);
  }

  /** The text with a pair of marks inside its white space; unchanged when there is nothing else in it. */
  mark(text: string): string {
    const inner = text.trim();
    if (inner === '') return text;
    if (this.#texts.length * 2 + 2 > marksMax) throw new TooManyTexts('too many texts in one request');
    const code = this.#base + this.#texts.length * 2;
    this.#texts.push(inner);
    const begin = text.indexOf(inner);
    const [open, close] = [String.fromCodePoint(code), String.fromCodePoint(code + 1)];
    return text.slice(0, begin) + open + inner + close + text.slice(begin + inner.length);
  }

  /** Takes the marks out of a rendered prompt. Ranges are UTF-8 byte offsets, in order, disjoint. */
  strip(rendered: string): { text: string; literal: Ranges } {
    if (this.#texts.length === 0) return { text: rendered, literal: [] };
    const last = this.#base + this.#texts.length * 2 - 1;
    const pattern = new RegExp(`[\\u{${this.#base.toString(16)}}-\\u{${last.toString(16)}}]`, 'gu');
    const found: Array<{ at: number; id: number; close: boolean }> = [];
    let removed = 0;
    const text = rendered.replace(pattern, (mark, offset: number) => {
      const code = mark.codePointAt(0)! - this.#base;
      found.push({ at: offset - removed, id: code >> 1, close: (code & 1) === 1 });
      removed += mark.length;
      return '';
    });
    return { text, literal: toByteRanges(text, this.#rangesOf(text, found)) };
  }

  #rangesOf(text: string, found: ReadonlyArray<{ at: number; id: number; close: boolean }>): Array<[number, number]> {
    const ranges: Array<[number, number]> = [];
    const open = new Map<number, number>();
    const closeAlone = (id: number, begin: number) =>
      ranges.push([begin, begin + commonPrefix(text, begin, this.#texts[id]!)]);
    for (const { at, id, close } of found) {
      const begin = open.get(id);
      if (!close) {
        if (begin !== undefined) closeAlone(id, begin);
        open.set(id, at);
      } else if (begin !== undefined) {
        ranges.push([begin, at]);
        open.delete(id);
      } else {
        ranges.push([at - commonSuffix(text, at, this.#texts[id]!), at]);
      }
    }
    for (const [id, begin] of open) closeAlone(id, begin);
    return ranges;
  }
}

/** First code point of a run of private-use characters of which the inputs hold none. */
function freeWindow(inputs: Iterable<string>): number {
  const used = new Set<number>();
  for (const input of inputs) {
    // Planes 15 and 16 are the surrogates from U+DB80 on.
    for (const match of input.matchAll(/[\udb80-\udbff][\udc00-\udfff]/g)) used.add(match[0].codePointAt(0)!);
  }
  const taken = [...used].sort((a, b) => a - b);
  let start = planeStart;
  for (const code of [...taken, planeEnd + 1]) {
    if (code - start > marksMax) return start;
    start = code + 1;
  }
  throw new TooManyTexts('the text uses too many private-use characters');
}

const same = (a: string, b: string) => a === b || a.toLowerCase() === b.toLowerCase();

function commonPrefix(text: string, at: number, marked: string): number {
  let length = 0;
  while (length < marked.length && at + length < text.length && same(text[at + length]!, marked[length]!)) length++;
  return length;
}

function commonSuffix(text: string, end: number, marked: string): number {
  let length = 0;
  while (length < marked.length && length < end && same(text[end - length - 1]!, marked[marked.length - length - 1]!))
    length++;
  return length;
}

function toByteRanges(text: string, ranges: Array<[number, number]>): Ranges {
  const merged: Array<[number, number]> = [];
  for (const [begin, end] of ranges.filter(([a, b]) => b > a).sort((a, b) => a[0] - b[0])) {
    const last = merged.at(-1);
    if (last && begin <= last[1]) last[1] = Math.max(last[1], end);
    else merged.push([begin, end]);
  }
  let at = 0;
  let bytes = 0;
  const byteOffset = (index: number) => {
    bytes += Buffer.byteLength(text.slice(at, index));
    at = index;
    return bytes;
  };
  return merged.map(([begin, end]) => [byteOffset(begin), byteOffset(end)] as const);
}
