// Takes what a model thinks out of what it says.

import type { OutputDelta, OutputParser } from './output.ts';

/** A cut text's end of so many letters is taken for half a tag; fewer (`<`, `</`) begin much else. */
const halfTagMin = 3;

/** The text without half a tag at its end. */
export function withoutHalfTag(text: string, tags: readonly string[]): string {
  const half = Math.max(...tags.map((tag) => partialTag(text, tag)));
  return half >= halfTagMin ? text.slice(0, text.length - half) : text;
}

/** How much of the end of a text may be the beginning of a tag. */
export function partialTag(text: string, tag: string): number {
  for (let length = Math.min(text.length, tag.length - 1); length > 0; length--) {
    if (tag.startsWith(text.slice(text.length - length))) return length;
  }
  return 0;
}

export class ReasoningParser implements OutputParser {
  readonly #inner: OutputParser;
  readonly #open: string;
  readonly #close: string;
  #state: 'start' | 'inside' | 'after' | 'outside';
  #held = '';
  #begun = false;

  /** `inside`: the prompt itself ended with the opening tag. */
  constructor(inner: OutputParser, tags: { open: string; close: string }, inside: boolean) {
    this.#inner = inner;
    this.#open = tags.open;
    this.#close = tags.close;
    this.#state = inside ? 'inside' : 'start';
  }

  get reasoning(): boolean {
    return this.#state === 'inside';
  }

  push(text: string, out: OutputDelta[]): void {
    if (this.#state === 'outside') return this.#inner.push(text, out);
    this.#held += text;
    if (this.#state === 'start') this.#atStart(out);
    if (this.#state === 'inside') this.#inside(out);
    if (this.#state === 'after') this.#after(out);
  }

  finish(out: OutputDelta[], cut: boolean): void {
    const tag = this.#state === 'inside' ? this.#close : this.#open;
    const held = cut ? withoutHalfTag(this.#held, [tag]) : this.#held;
    if (this.#state === 'inside' && held.trimEnd() !== '') out.push({ type: 'reasoning', text: held.trimEnd() });
    else if (this.#state === 'start' && held !== '') this.#inner.push(held, out);
    this.#inner.finish(out, cut);
  }

  #atStart(out: OutputDelta[]): void {
    const text = this.#held.trimStart();
    if (text.startsWith(this.#open)) {
      this.#held = text.slice(this.#open.length);
      this.#state = 'inside';
    } else if (!this.#open.startsWith(text)) {
      const held = this.#held;
      this.#held = '';
      this.#state = 'outside';
      this.#inner.push(held, out);
    }
  }

  /** White space at either end of the thought is the template's, not the thought's. */
  #inside(out: OutputDelta[]): void {
    if (!this.#begun) this.#held = this.#held.trimStart();
    const end = this.#held.indexOf(this.#close);
    const certain = end >= 0 ? end : this.#held.length - partialTag(this.#held, this.#close);
    const text = this.#held.slice(0, certain).trimEnd();
    if (text !== '') {
      this.#begun = true;
      out.push({ type: 'reasoning', text });
    }
    if (end >= 0) {
      this.#held = this.#held.slice(end + this.#close.length);
      this.#state = 'after';
    } else {
      this.#held = this.#held.slice(text.length);
    }
  }

  #after(out: OutputDelta[]): void {
    const text = this.#held.trimStart();
    this.#held = '';
    if (text === '') return;
    this.#state = 'outside';
    this.#inner.push(text, out);
  }
}
