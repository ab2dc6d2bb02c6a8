// The documentation does not lie: commands, options, variables, files and anchors in it exist, the messages in the
// troubleshooting page are the code's, and the examples get answers.

import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readSettings } from '../../server/config.ts';
import { type TestApp, testApp } from '../support/app.ts';
import { allCode, allFlags, flagsOfCommand, flagsOfScript, hearthCommands, isVariable, scripts } from './known.ts';
import {
  anchorsOf,
  type Block,
  blocksOf,
  commandsOf,
  filesBelow,
  isShell,
  linksOf,
  pages,
  root,
  spansOf,
} from './pages.ts';

const run = promisify(execFile);
const isPlaceholder = (word: string) => /^[A-Z<…]/.test(word);
const flagNames = (words: readonly string[]) => words.flatMap((word) => /^--([a-z][a-z0-9-]*)/.exec(word)?.[1] ?? []);

/** What is wrong with a documented command; empty when nothing is, or when it is not one of ours. */
function problemsOf(words: string[]): string[] {
  const [program, first = '', ...rest] = words;
  if (program === 'npx' && first === 'hearth') return hearthProblems(rest);
  if (program === 'hearth') return hearthProblems([first, ...rest]);
  if (program !== 'npm') return [];
  const name = first === 'run' ? (rest.shift() ?? '') : ['start', 'test'].includes(first) ? first : null;
  if (name === null || isPlaceholder(name)) return [];
  if (!scripts[name]) return [`there is no npm script '${name}'`];
  const given = rest[0] === '--' ? rest.slice(1) : [];
  if (name === 'hearth') return hearthProblems(given);
  if (name === 'start') return hearthProblems(['serve', ...given]);
  if (name === 'bench') return hearthProblems(['bench', ...given]);
  const known = flagsOfScript(name);
  return flagNames(given).flatMap((flag) => (known.has(flag) ? [] : [`npm run ${name} has no option --${flag}`]));
}

function hearthProblems([name = '--help', ...args]: string[]): string[] {
  if (name === '' || name.startsWith('-') || isPlaceholder(name)) return [];
  if (!hearthCommands.includes(name)) return [`hearth has no command '${name}'`];
  const known = flagsOfCommand(name);
  const unknown = flagNames(args).filter((flag) => !known.has(flag));
  if (unknown.length > 0) return unknown.map((flag) => `hearth ${name} has no option --${flag}`);
  if (name !== 'serve' || args.some((word) => isPlaceholder(word) || word === '--config')) return [];
  try {
    readSettings(args, {});
    return [];
  } catch (error) {
    return [(error as Error).message];
  }
}

const shellBlocks = pages.flatMap(blocksOf).filter(isShell);

describe('the documentation', () => {
  it('has commands to check', () => {
    expect(pages.length).toBeGreaterThan(10);
    expect(shellBlocks.length).toBeGreaterThan(20);
    expect(hearthCommands).toContain('serve');
  });

  it.each(pages.map((page) => [page.name, page] as const))('%s names commands and options that exist', (_, page) => {
    const spans = spansOf(page);
    const commands = [
      ...blocksOf(page)
        .filter(isShell)
        .map(({ text }) => text),
      ...spans,
    ].flatMap(commandsOf);
    const apart = spans.filter((span) => span.startsWith('--')).flatMap((span) => flagNames([span]));
    const unknown = apart.filter((flag) => !allFlags.has(flag)).map((flag) => `--${flag} is no option of ours`);
    expect([...commands.flatMap(problemsOf), ...unknown]).toEqual([]);
  });

  it.each(pages.map((page) => [page.name, page] as const))(
    '%s links to files and headings that exist',
    (name, page) => {
      const broken = linksOf(page).filter((link) => {
        if (/^[a-z]+:/.test(link)) return false;
        const [path = '', anchor] = link.split('#');
        const target = path === '' ? name : normalize(join(dirname(name), path));
        if (!existsSync(join(root, target))) return true;
        return anchor !== undefined && !anchorsOf(readFileSync(join(root, target), 'utf8')).includes(anchor);
      });
      expect(broken).toEqual([]);
    },
  );

  it.each(pages.map((page) => [page.name, page] as const))('%s names files that exist', (_, page) => {
    const words = blocksOf(page)
      .filter(isShell)
      .flatMap(({ text }) => commandsOf(text).flat());
    const named = [...spansOf(page), ...words].flatMap(
      (text) => /^((?:server|scripts|docs|docker|test|engine-native)\/[\w./-]+)(?:$|[:#])/.exec(text)?.[1] ?? [],
    );
    // Built, so not there in a fresh clone.
    const ours = named.filter((path) => !/^(engine-native\/build|server\/web\/dist)/.test(path));
    expect(ours.filter((path) => !existsSync(join(root, path)))).toEqual([]);
  });

  it('names HEARTH_ variables that something reads, in docker/ too', () => {
    const texts = [...pages.map(({ name }) => name), ...filesBelow('docker', /./)];
    const unknown = texts.flatMap((name) =>
      [...readFileSync(join(root, name), 'utf8').matchAll(/HEARTH_[A-Z0-9_]+/g)]
        .filter(([variable]) => !isVariable(variable))
        .map(([variable]) => `${name}: ${variable}`),
    );
    expect(unknown).toEqual([]);
  });

  it('quotes the messages of the code in the troubleshooting page', () => {
    const { text } = pages.find(({ name }) => name === 'docs/troubleshooting.md')!;
    const messages = [...text.matchAll(/^\|.*$/gm)].flatMap(([row]) =>
      [...row.matchAll(/`([^`]+)`/g)].map((match) => match[1]!).filter((span) => span.length >= 25),
    );
    expect(messages.length).toBeGreaterThan(25);
    // GLIBC's are the dynamic loader's; the rest of a row are commands, which other tests check.
    const ours = messages.filter((message) => !/^(GLIBC|npm |hearth |docker |--)/.test(message));
    const pieces = ours.flatMap((message) => message.split('…').map((piece) => piece.replace(/^[\s':]+|[\s']+$/g, '')));
    expect(pieces.filter((piece) => piece.length >= 10 && !allCode.includes(piece))).toEqual([]);
  });
});

describe('the examples get answers', () => {
  let app: TestApp;
  beforeAll(async () => {
    const vision = { family: 'test', placeholder: '<image>', tokensPerImage: 4 };
    app = await testApp({ listen: true, models: [{ vision, context: 4096 }] });
  }, 60_000);
  afterAll(() => app.close());

  const title = ({ page, line }: Block): string => `${page}:${line}`;
  const usesCurl = ({ text }: Block) => commandsOf(text).some(([program]) => program === 'curl');
  const curls = shellBlocks.filter(usesCurl);

  it.each(curls.map((block) => [title(block), block] as const))(
    'curl, %s',
    async (_, { text }) => {
      const shim = fileURLToPath(new URL('./curl.mjs', import.meta.url));
      const script = `set -e\ncurl() { "$NODE" "$SHIM" "$@"; }\n${text}`;
      const env = { ...process.env, NODE: process.execPath, SHIM: shim, HEARTH_DOCS_URL: app.url };
      const { stdout } = await run('bash', ['-c', script], { cwd: root, env, timeout: 60_000 });
      expect(stdout).toMatch(/^200 \S/);
    },
    60_000,
  );

  const modules = pages.flatMap(blocksOf).filter(({ language }) => language === 'js');
  it.each(modules.map((block) => [title(block), block] as const))(
    'JavaScript, %s',
    async (_, { text }) => {
      const code = text.replaceAll('http://127.0.0.1:8080', app.url);
      const { stdout } = await run(process.execPath, ['--input-type=module', '-e', code], {
        cwd: root,
        timeout: 60_000,
      });
      expect(stdout).toContain('Hello, world!');
    },
    60_000,
  );

  it('covers the guides', () => {
    expect(curls.map(({ page }) => page)).toEqual(expect.arrayContaining(['README.md', 'docs/guides/pictures.md']));
    expect(modules.length).toBeGreaterThanOrEqual(3);
  });
});
