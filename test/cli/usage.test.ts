import { parseArgs } from 'node:util';
import { expect, test } from 'vitest';
import { unreadableOptions } from '../../server/cli/usage.ts';

function said(args: string[], allowPositionals: boolean): string | null {
  try {
    parseArgs({ args, allowPositionals, options: { text: { type: 'string' }, json: { type: 'boolean' } } });
  } catch (error) {
    return unreadableOptions(error, 'eval');
  }
  throw new Error('parseArgs took it');
}

test.each([
  [['-o'], true, "unknown option '-o'; see hearth eval --help"],
  [['--nope'], true, "unknown option '--nope'; see hearth eval --help"],
  [['--nope'], false, "unknown option '--nope'; see hearth eval --help"],
  [['--text'], true, "option '--text <value>' argument missing; see hearth eval --help"],
  [['--json=1'], true, "option '--json' does not take an argument; see hearth eval --help"],
])('%j is answered in one sentence that names the option and the help', (args, positionals, message) => {
  expect(said(args, positionals)).toBe(message);
});

test('other errors are not taken for usage', () => {
  expect(unreadableOptions(new Error('disk full'), 'eval')).toBeNull();
});
