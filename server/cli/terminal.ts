// What commands print: colours only on a terminal, one progress line, tables, and `--json` for programs.

const colour = (stream: NodeJS.WriteStream) => stream.isTTY && !process.env.NO_COLOR;
const paint = (code: number) => (text: string) => (colour(process.stdout) ? `\u001b[${code}m${text}\u001b[0m` : text);
export const bold = paint(1);
export const dim = paint(2);
export const red = paint(31);
export const green = paint(32);
export const ember = paint(33);

/** 1,610,612,736 → "1.6 GB". */
export function bytes(count: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let unit = 0;
  let value = count;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value >= 99.5 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** 4,000 → "1 h 7 min"; 75 → "1 min 15 s". */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return 'unknown';
  const whole = Math.max(0, Math.round(seconds));
  if (whole >= 3600) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return whole >= 60 ? `${Math.floor(whole / 60)} min ${whole % 60} s` : `${whole} s`;
}

/** Columns as wide as they need; numbers to the right. */
export function table(head: string[], rows: string[][]): string {
  const all = [head, ...rows];
  const width = head.map((_, column) => Math.max(...all.map((row) => (row[column] ?? '').length)));
  const numeric = head.map((_, column) => rows.every((row) => /^[\d.,]+( \w+(\/s)?)?$|^$|^–$/.test(row[column] ?? '')));
  const line = (row: string[]) =>
    row
      .map((cell, column) => (numeric[column] ? cell.padStart(width[column]!) : cell.padEnd(width[column]!)))
      .join('  ')
      .trimEnd();
  return [dim(line(head)), ...rows.map(line)].join('\n');
}

/**
 * On a terminal, lines broken at blanks to its width, and what is broken off set under where the line's last column began
 * (two blanks or more before it). Elsewhere the text as it is.
 */
export function wrapped(text: string, stream: { isTTY?: boolean; columns?: number } = process.stdout): string {
  if (!stream.isTTY) return text;
  const width = Math.max(40, stream.columns ?? 80);
  return text
    .split('\n')
    .map((line) => wrapLine(line, width))
    .join('\n');
}

function wrapLine(line: string, width: number): string {
  const column = /^(\s*)\S.*?\s{2,}(?=\S)/.exec(line)?.[0].length ?? /^\s*/.exec(line)![0].length;
  const indent = ' '.repeat(column < width / 2 ? column : 4);
  const lines: string[] = [];
  let rest = line;
  while (rest.length > width) {
    const at = rest.lastIndexOf(' ', width);
    if (at <= indent.length) break;
    lines.push(rest.slice(0, at).trimEnd());
    rest = indent + rest.slice(at + 1);
  }
  return [...lines, rest].join('\n');
}

/** A progress line that redraws itself on a terminal, and says something every ten seconds elsewhere. */
export class ProgressLine {
  #startedAt = performance.now();
  #drawnAt = Number.NEGATIVE_INFINITY;
  readonly #stream = process.stderr;

  constructor(private readonly label: string) {}

  /**
   * `done` of `total` in the same unit; `note` stands behind, for example a file name. `secondsLeft`: an estimate better than
   * from the time since the line began, for what did not begin at nothing; null where there is none yet.
   */
  update(done: number, total: number, note = '', secondsLeft?: number | null): void {
    const now = performance.now();
    if (now - this.#drawnAt < (this.#stream.isTTY ? 80 : 10_000) && done < total) return;
    this.#drawnAt = now;
    const share = total > 0 ? Math.min(1, done / total) : 0;
    const since = share > 0.01 ? ((now - this.#startedAt) / 1000) * (1 / share - 1) : null;
    const left = share < 1 ? (secondsLeft === undefined ? since : secondsLeft) : null;
    const percent = `${String(Math.round(share * 100)).padStart(3)} %`;
    const parts = [`${this.label} ${bar(share)} ${percent}`, left === null ? '' : `${duration(left)} left`, note];
    const text = parts.filter((part) => part !== '').join('  ');
    const columns = this.#stream.columns || 100; // a terminal that was told no size says 0
    this.#stream.write(this.#stream.isTTY ? `\r${text.slice(0, columns - 1)}\u001b[K` : `${text.trimEnd()}\n`);
  }

  /** Clears the line; what comes after starts on a clean one. */
  end(): void {
    if (this.#stream.isTTY) this.#stream.write('\r\u001b[K');
  }
}

function bar(share: number): string {
  const cells = 24;
  const full = Math.round(share * cells);
  return `${'█'.repeat(full)}${'░'.repeat(cells - full)}`;
}
