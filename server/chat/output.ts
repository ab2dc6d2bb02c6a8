// What a model's text means: answer, reasoning, tool calls. Parsers are fed text as it comes and give deltas at once.

export type OutputDelta =
  | { type: 'content'; text: string }
  | { type: 'reasoning'; text: string }
  /** A call begins; its arguments follow as pieces of JSON text. */
  | { type: 'call'; index: number; id: string; name: string }
  | { type: 'arguments'; index: number; text: string };

export interface OutputParser {
  /** True while the text that comes is reasoning; tokens are counted by it. */
  readonly reasoning: boolean;
  /** Appends to `out` what the text makes certain. */
  push(text: string, out: OutputDelta[]): void;
  /**
   * The text has ended: what was held back comes out. Of a text that was `cut` (max_tokens, the context's end) half a
   * mark or half a call does not: the rest would have made it no part of the answer.
   */
  finish(out: OutputDelta[], cut: boolean): void;
}

/** For models and requests without reasoning or tools. */
export class PlainParser implements OutputParser {
  readonly reasoning = false;

  push(text: string, out: OutputDelta[]): void {
    if (text !== '') out.push({ type: 'content', text });
  }

  finish(): void {}
}
