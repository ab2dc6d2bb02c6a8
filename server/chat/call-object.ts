// Reads one JSON object like {"name": "f", "arguments": {…}} as it comes, giving the arguments piece by piece.

const argumentKeys = new Set(['arguments', 'parameters']);

export class CallObject {
  /** Everything read so far, for when it turns out not to be a call. */
  raw = '';
  /** Known once its string has ended. */
  name: string | null = null;
  done = false;
  /** Not JSON, or not an object. */
  broken = false;
  #depth = 0;
  #inString = false;
  #escaped = false;
  #expecting: 'key' | 'colon' | 'value' | 'comma' = 'key';
  #text = '';
  #key = '';
  #arguments = '';
  #taken = 0;
  #argumentsWhole = false;
  #sawArguments = false;

  /** Reads up to the end of the object; returns how many UTF-16 units were read. */
  feed(text: string): number {
    for (let at = 0; at < text.length; at++) {
      const char = text[at]!;
      this.raw += char;
      this.#read(char);
      if (this.done || this.broken) return at + 1;
    }
    return text.length;
  }

  /** Argument text that is new since the last call. At the end of the object all of it has been given. */
  takeArguments(): string {
    const streams = this.#arguments.startsWith('{');
    if (!this.done && !streams) return '';
    if (this.done && !streams && !this.#argumentsWhole) {
      this.#argumentsWhole = true;
      return this.#wholeArguments();
    }
    if (!streams) return '';
    const piece = this.#arguments.slice(this.#taken);
    this.#taken = this.#arguments.length;
    return piece;
  }

  /** Arguments that are no object: absent, null, JSON inside a string, or what is no JSON, as the model wrote it. */
  #wholeArguments(): string {
    const text = this.#arguments.trim();
    if (!this.#sawArguments || text === '' || text === 'null') return '{}';
    if (!text.startsWith('"')) return text;
    const inner = parsed(text);
    if (inner === null) return text;
    return inner.trim() === '' ? '{}' : inner;
  }

  #read(char: string): void {
    if (this.#inString) return this.#readInString(char);
    if (char === '"') {
      this.#inString = true;
      if (this.#depth === 1 && this.#expecting === 'key') this.#text = '"';
      else this.#value(char);
      return;
    }
    if (this.#depth === 0) {
      if (char === '{') this.#depth = 1;
      else if (!isSpace(char)) this.broken = true;
      return;
    }
    if (this.#depth > 1) return this.#readNested(char);
    this.#readTop(char);
  }

  #readInString(char: string): void {
    const isKey = this.#depth === 1 && this.#expecting === 'key';
    if (isKey) this.#text += char;
    else this.#value(char);
    if (this.#escaped) this.#escaped = false;
    else if (char === '\\') this.#escaped = true;
    else if (char === '"') {
      this.#inString = false;
      if (isKey) this.#endKey();
    }
  }

  #readNested(char: string): void {
    this.#value(char);
    if (char === '{' || char === '[') this.#depth++;
    else if (char === '}' || char === ']') {
      this.#depth--;
      if (this.#depth === 1) this.#endValue();
    }
  }

  #readTop(char: string): void {
    if (char === '{' || char === '[') {
      if (this.#expecting !== 'value') {
        this.broken = true;
        return;
      }
      this.#value(char);
      this.#depth++;
    } else if (char === ':') {
      if (this.#expecting !== 'colon') this.broken = true;
      this.#expecting = 'value';
      this.#text = '';
    } else if (char === ',') {
      this.#endValue();
      this.#expecting = 'key';
    } else if (char === '}') {
      this.#endValue();
      this.done = true;
      this.#depth = 0;
    } else if (!isSpace(char)) {
      if (this.#expecting !== 'value') this.broken = true;
      this.#value(char);
    }
  }

  #endKey(): void {
    this.#key = parsed(this.#text) ?? '';
    this.#expecting = 'colon';
  }

  #value(char: string): void {
    if (this.#expecting !== 'value') return;
    this.#text += char;
    if (argumentKeys.has(this.#key)) {
      this.#sawArguments = true;
      this.#arguments += char;
    }
  }

  #endValue(): void {
    if (this.#expecting === 'value' && this.#key === 'name') {
      this.name = parsed(this.#text.trim());
      if (this.name === null) this.broken = true;
    }
    if (this.#expecting === 'value') this.#expecting = 'comma';
  }
}

const isSpace = (char: string) => char === ' ' || char === '\n' || char === '\r' || char === '\t';

function parsed(text: string): string | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'string' ? value : null;
  } catch {
    return null;
  }
}
