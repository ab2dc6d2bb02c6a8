// What commands print, on a terminal and elsewhere.
import { afterEach, describe, expect, it, vi } from 'vitest';
import { ProgressLine, wrapped } from '../../server/cli/terminal.ts';

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

describe('a progress line', () => {
  afterEach(() => vi.restoreAllMocks());
  const printed = (terminal: boolean, columns: number, ...update: Parameters<ProgressLine['update']>) => {
    const write = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
    const before = { isTTY: process.stderr.isTTY, columns: process.stderr.columns };
    Object.assign(process.stderr, { isTTY: terminal, columns });
    new ProgressLine('quantizing').update(...update);
    Object.assign(process.stderr, before);
    return String(write.mock.calls.at(-1)?.[0]);
  };

  it('tells the estimate that it was given, and none where there is none', () => {
    expect(printed(false, 0, 1, 4, 'layer 2 of 4', 75)).toMatch(
      /^quantizing █+░+ {2}25 % {2}1 min 15 s left {2}layer 2 of 4\n$/,
    );
    expect(printed(false, 0, 1, 4, 'going on', null)).toMatch(/ 25 % {2}going on\n$/);
    expect(printed(false, 0, 0, 1, 'reading')).toMatch(/ {3}0 % {2}reading\n$/);
    expect(printed(false, 0, 4, 4, 'writing', 0)).toMatch(/ 100 % {2}writing\n$/);
  });

  it('stays within a terminal, also one that says no size', () => {
    expect(printed(true, 40, 1, 4, 'layer 2 of 4', 75)).toHaveLength('\r'.length + 39 + '\u001b[K'.length);
    expect(printed(true, 0, 1, 4, 'layer 2 of 4', 75)).toContain('layer 2 of 4');
  });
});
