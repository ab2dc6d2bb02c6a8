// Finds tool calls in what a model says, in the formats of the common families.

import { randomBytes } from 'node:crypto';
import { CallObject } from './call-object.ts';
import { type CallFormat, deepseek } from './families.ts';
import type { OutputDelta, OutputParser } from './output.ts';
import { partialTag, withoutHalfTag } from './reasoning.ts';

export interface CallOptions {
  /** Functions that may be called. */
  names: ReadonlySet<string>;
  /** Calls that are given on; further ones are dropped. 0 leaves out every call and its marks. */
  callsMax: number;
}

export function callParser(format: CallFormat, options: CallOptions): OutputParser {
  switch (format) {
    case 'hermes':
      return new TaggedParser(['<tool_call>'], () => new ObjectReader('</tool_call>'), options);
    case 'llama':
      return new TaggedParser(['<|python_tag|>'], () => new ObjectReader(''), options, true);
    case 'mistral':
      return new TaggedParser(['[TOOL_CALLS]'], () => new MistralReader(), options, false, shortId);
    case 'deepseek':
      return new TaggedParser(
        [deepseek.callBegin, deepseek.callsBegin, deepseek.callsEnd],
        () => new DeepseekReader(),
        options,
      );
  }
}

const longId = () => `call_${randomBytes(12).toString('hex')}`;
const letters = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789';
/** Mistral's templates insist on nine letters and digits. */
const shortId = () => [...randomBytes(9)].map((byte) => letters[byte % letters.length]).join('');

/** How a call without a mark begins, up to its name and without white space. */
const bareBeginnings = ['{"name":', '{"type":"function","name":'];

/** Reads what follows a mark. */
interface CallReader {
  /** Reads calls from the text and returns what is left once it is `done`. */
  read(text: string, calls: CallSink): string;
  done: boolean;
  /** Whether it is within a call: what it left is then the beginning of an end mark, and no text where the answer is cut. */
  readonly inCall: boolean;
  /** What was read and gave no call; goes back to the text when the answer ends here by itself. */
  rest(): string;
}

/** Where readers put calls; says no to those that are not wanted, whose text then stays text. */
interface CallSink {
  begin(name: string): boolean;
  arguments(text: string): void;
  end(): void;
  text(text: string): void;
}

class TaggedParser implements OutputParser, CallSink {
  readonly reasoning = false;
  readonly #tags: readonly string[];
  readonly #makeReader: () => CallReader;
  readonly #options: CallOptions;
  readonly #bareObject: boolean;
  readonly #makeId: () => string;
  #reader: CallReader | null = null;
  #held = '';
  #space = '';
  #anything = false;
  /** The reader stands behind a mark, and not in an answer that begins with a brace. */
  #marked = false;
  #calls = 0;
  #wanted = false;
  #wroteArguments = false;
  #out: OutputDelta[] = [];

  /** `bareObject`: an answer that begins with a brace is a call without a mark. */
  constructor(
    tags: readonly string[],
    makeReader: () => CallReader,
    options: CallOptions,
    bareObject = false,
    makeId = longId,
  ) {
    this.#tags = tags;
    this.#makeReader = makeReader;
    this.#options = options;
    this.#bareObject = bareObject;
    this.#makeId = makeId;
  }

  push(text: string, out: OutputDelta[]): void {
    this.#out = out;
    this.#held += text;
    for (;;) {
      const before = this.#held;
      if (this.#reader) this.#readCall();
      else this.#readText();
      if (this.#held === '' || this.#held === before) return;
    }
  }

  finish(out: OutputDelta[], cut: boolean): void {
    this.#out = out;
    if (cut && this.#endsInHalfCall()) {
      this.#space = '';
    } else {
      if (this.#reader) this.text(this.#reader.rest());
      if (!this.#reader?.inCall) this.text(this.#held);
    }
    this.#reader = null;
    this.#held = '';
    if (this.#calls === 0 && this.#space !== '') out.push({ type: 'content', text: this.#space });
    this.#space = '';
  }

  /** Whether what was read last is the beginning of a call: certain after a mark and after another call. */
  #endsInHalfCall(): boolean {
    if (!this.#reader) return withoutHalfTag(this.#held, this.#tags) !== this.#held;
    if (this.#marked || this.#calls > 0) return true;
    const bare = this.#reader.rest().replace(/\s+/g, '');
    return bareBeginnings.some((begin) =>
      [...this.#options.names].some((name) => `${begin}${JSON.stringify(name)}`.startsWith(bare)),
    );
  }

  #readCall(): void {
    const reader = this.#reader!;
    this.#held = reader.read(this.#held, this);
    if (reader.done) this.#reader = null;
  }

  #readText(): void {
    if (this.#bareObject && !this.#anything && this.#held.trimStart().startsWith('{')) {
      this.#anything = true;
      this.#marked = false;
      this.#reader = this.#makeReader();
      return this.#readCall();
    }
    let at = -1;
    let tag = '';
    for (const one of this.#tags) {
      const found = this.#held.indexOf(one);
      if (found >= 0 && (at < 0 || found < at)) [at, tag] = [found, one];
    }
    if (at >= 0) {
      this.text(this.#held.slice(0, at));
      this.#anything = true;
      this.#held = this.#held.slice(at + tag.length);
      this.#marked = true;
      const aroundCalls = tag === deepseek.callsBegin || tag === deepseek.callsEnd;
      if (aroundCalls) this.#space = '';
      this.#reader = aroundCalls ? null : this.#makeReader();
      return;
    }
    const partial = Math.max(...this.#tags.map((one) => partialTag(this.#held, one)));
    this.text(this.#held.slice(0, this.#held.length - partial));
    this.#held = this.#held.slice(this.#held.length - partial);
  }

  /** Content. White space waits for what follows: around calls it is not part of the answer. */
  text(text: string): void {
    if (text === '') return;
    const whole = this.#space + text;
    const trimmed = whole.trimEnd();
    this.#space = whole.slice(trimmed.length);
    if (trimmed === '') return;
    this.#anything = true;
    this.#out.push({ type: 'content', text: trimmed });
  }

  begin(name: string): boolean {
    // A bare object is a call only when it names a function; after a mark the model means a call, and a client that
    // gets an unknown name can say so to the model.
    if (this.#bareObject ? !this.#options.names.has(name) : !/^[a-zA-Z0-9_.-]{1,64}$/.test(name)) return false;
    this.#wanted = this.#calls < this.#options.callsMax;
    this.#wroteArguments = false;
    if (this.#wanted) this.#out.push({ type: 'call', index: this.#calls, id: this.#makeId(), name });
    this.#space = '';
    return true;
  }

  arguments(text: string): void {
    if (!this.#wanted || text === '') return;
    this.#wroteArguments = true;
    this.#out.push({ type: 'arguments', index: this.#calls, text });
  }

  end(): void {
    if (!this.#wanted) return;
    if (!this.#wroteArguments) this.arguments('{}');
    this.#wanted = false;
    this.#calls++;
  }
}

/** {"name": …, "arguments": …}, then a closing mark, a separator or nothing. */
class ObjectReader implements CallReader {
  readonly #close: string;
  #object: CallObject | null = new CallObject();
  #begun = false;
  done = false;

  constructor(close: string) {
    this.#close = close;
  }

  read(text: string, calls: CallSink): string {
    const object = this.#object;
    if (!object) return this.#readClose(text);
    const rest = text.slice(object.feed(text));
    if (!this.#begun && object.name !== null && !object.broken) {
      this.#begun = calls.begin(object.name);
      if (!this.#begun) return this.#giveBack(rest, calls);
    }
    if (object.broken || (object.done && !this.#begun)) return this.#giveBack(rest, calls);
    if (this.#begun) calls.arguments(object.takeArguments());
    if (!object.done) return rest;
    calls.end();
    this.#object = null;
    return this.#readClose(rest);
  }

  /** Not a call after all: what was read is text. */
  #giveBack(rest: string, calls: CallSink): string {
    this.done = true;
    if (!this.#begun) calls.text(this.#object!.raw);
    this.#object = null;
    return rest;
  }

  #readClose(text: string): string {
    const trimmed = text.replace(/^[\s;]+/, '');
    if (this.#close === '' && trimmed.startsWith('{')) {
      // Several calls in a row, as Llama writes them.
      this.#object = new CallObject();
      this.#begun = false;
      return trimmed;
    }
    if (trimmed === '' || (this.#close.startsWith(trimmed) && trimmed !== this.#close)) return trimmed;
    this.done = true;
    return this.#close !== '' && trimmed.startsWith(this.#close) ? trimmed.slice(this.#close.length) : trimmed;
  }

  get inCall(): boolean {
    return this.#begun;
  }

  rest(): string {
    return this.#begun || !this.#object ? '' : this.#object.raw;
  }
}

/** [{"name": …}, …] or name[ARGS]{…}. */
class MistralReader implements CallReader {
  #mode: 'unknown' | 'list' | 'named' = 'unknown';
  #object: ObjectReader | null = null;
  #value: CallObject | null = null;
  #wanted = false;
  #raw = '';
  #depth = 0;
  #inString = false;
  #escaped = false;
  done = false;

  read(text: string, calls: CallSink): string {
    let rest = text;
    if (this.#mode === 'unknown') {
      rest = rest.trimStart();
      if (rest === '') return '';
      this.#mode = rest[0] === '[' || rest[0] === '{' ? 'list' : 'named';
      if (rest[0] === '[') rest = rest.slice(1);
    }
    return this.#mode === 'list' ? this.#readList(rest, calls) : this.#readNamed(rest, calls);
  }

  #readList(text: string, calls: CallSink): string {
    let rest = text;
    while (rest !== '') {
      if (this.#object) {
        rest = this.#object.read(rest, calls);
        if (!this.#object.done) return rest;
        this.#object = null;
        continue;
      }
      rest = rest.replace(/^[\s,]+/, '');
      if (rest === '') return '';
      if (rest[0] === ']') {
        this.done = true;
        return rest.slice(1);
      }
      if (rest[0] !== '{') {
        this.done = true;
        return rest;
      }
      this.#object = new ObjectReader('');
    }
    return rest;
  }

  #readNamed(text: string, calls: CallSink): string {
    if (this.#value) return this.#readValue(text, calls);
    const brace = text.indexOf('{');
    if (brace < 0) return text;
    const name = text
      .slice(0, brace)
      .replace(/\[(?:ARGS|CALL_ID)\].*$/s, '')
      .trim();
    this.#raw = text.slice(0, brace);
    this.#wanted = calls.begin(name);
    // The arguments are one object; wrapped, they read like the others.
    this.#value = new CallObject();
    this.#value.feed('{"arguments":');
    return this.#readValue(text.slice(brace), calls);
  }

  #readValue(text: string, calls: CallSink): string {
    const value = this.#value!;
    let at = 0;
    let depth = this.#depth;
    for (; at < text.length && !this.done; at++) {
      value.feed(text[at]!);
      depth = this.#track(text[at]!);
      if (depth === 0) this.done = true;
    }
    if (this.done) value.feed('}');
    const piece = value.takeArguments();
    if (this.#wanted) calls.arguments(piece);
    else calls.text(this.#raw + piece);
    this.#raw = '';
    if (this.done && this.#wanted) calls.end();
    return text.slice(at);
  }

  #track(char: string): number {
    if (this.#inString) {
      if (this.#escaped) this.#escaped = false;
      else if (char === '\\') this.#escaped = true;
      else if (char === '"') this.#inString = false;
    } else if (char === '"') this.#inString = true;
    else if (char === '{' || char === '[') this.#depth++;
    else if (char === '}' || char === ']') this.#depth--;
    return this.#depth;
  }

  get inCall(): boolean {
    return this.#object?.inCall ?? this.#wanted;
  }

  rest(): string {
    return this.#object?.rest() ?? '';
  }
}

/** function<sep>name, a fenced block of JSON, <end>; or name<sep>JSON<end>. */
class DeepseekReader implements CallReader {
  #head = '';
  #begun = false;
  #wanted = false;
  #fenced = false;
  done = false;

  read(text: string, calls: CallSink): string {
    let rest = text;
    if (!this.#begun) {
      this.#head += rest;
      const match = /^(?:function)?<｜tool▁sep｜>([^\n]*)\n```(?:json)?\n|^((?!function<)[^<]+)<｜tool▁sep｜>/.exec(
        this.#head,
      );
      if (!match) return '';
      this.#fenced = match[1] !== undefined;
      this.#begun = true;
      this.#wanted = calls.begin((match[1] ?? match[2])!.trim());
      if (!this.#wanted) calls.text(match[0]);
      rest = this.#head.slice(match[0].length);
    }
    return this.#readArguments(rest, calls);
  }

  #readArguments(text: string, calls: CallSink): string {
    const end = text.indexOf(deepseek.callEnd);
    const closing = this.#fenced ? '\n```' : '';
    const give = (piece: string) => (this.#wanted ? calls.arguments(piece) : calls.text(piece));
    if (end >= 0) {
      give(
        text
          .slice(0, end)
          .trimEnd()
          .replace(/\n?```$/, ''),
      );
      if (this.#wanted) calls.end();
      this.done = true;
      return text.slice(end + deepseek.callEnd.length);
    }
    // The end mark, and the fence before it, may have begun.
    const hold = Math.max(partialTag(text, closing + deepseek.callEnd), partialTag(text, deepseek.callEnd));
    const keep = Math.max(hold, text.length - text.trimEnd().length);
    give(text.slice(0, text.length - keep));
    return text.slice(text.length - keep);
  }

  get inCall(): boolean {
    return this.#wanted;
  }

  rest(): string {
    return this.#begun ? '' : this.#head;
  }
}
