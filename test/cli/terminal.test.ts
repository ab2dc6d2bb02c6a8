// What commands print, on a terminal and elsewhere.
import { describe, expect, it } from 'vitest';
import { wrapped } from '../../server/cli/terminal.ts';

const narrow = { isTTY: true, columns: 40 };

describe('wrapped', () => {
  it('leaves text that goes into a pipe as it is', () => {
    expect(wrapped('word '.repeat(100), { columns: 40 })).toBe('word '.repeat(100));
  });

  it('sets what is broken off under the column that it belongs to', () => {
    expect(wrapped('  --once TEXT    ask once, print the answer, end', narrow)).toBe(
      '  --once TEXT    ask once, print the\n                 answer, end',
    );
  });

  it('fills every line of a paragraph and never exceeds the width', () => {
    const text = Array.from({ length: 60 }, (_, index) => 'x'.repeat(1 + (index % 9))).join(' ');
    const lines = wrapped(text, narrow).split('\n');
    expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(40);
    expect(lines.map((line) => line.trim()).join(' ')).toBe(text);
  });

  it('leaves alone what has no blank to break at', () => {
    expect(wrapped('y'.repeat(90), narrow)).toBe('y'.repeat(90));
  });
});
