// The documentation as data: pages, fenced blocks, code spans, links, and the commands in them.

import { readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../..', import.meta.url));

export interface Page {
  /** Path from the repository's root. */
  name: string;
  text: string;
}

export interface Block {
  page: string;
  line: number;
  language: string;
  text: string;
}

/** Files below a folder whose path matches; build results and packages are left out. */
export function filesBelow(folder: string, pattern: RegExp): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (!entry.isDirectory()) return pattern.test(path) ? [path] : [];
    return /^(build.*|node_modules|dist)$/.test(entry.name) ? [] : filesBelow(path, pattern);
  });
}

const read = (name: string): Page => ({ name, text: readFileSync(join(root, name), 'utf8') });

export const pages: Page[] = ['README.md', 'CONTRIBUTING.md', ...filesBelow('docs', /\.md$/)].map(read);

export function blocksOf({ name, text }: Page): Block[] {
  return [...text.matchAll(/^```(\w*)\n(.*?)^```$/gms)].map((match) => ({
    page: name,
    line: text.slice(0, match.index).split('\n').length + 1,
    language: match[1]!,
    text: match[2]!,
  }));
}

/** Blocks of commands: marked as such, or not marked at all. */
export const isShell = ({ language }: Block) => ['', 'sh', 'bash'].includes(language);

const withoutBlocks = (text: string) => text.replace(/^```\w*\n.*?^```$/gms, '');

export const spansOf = ({ text }: Page): string[] =>
  [...withoutBlocks(text).matchAll(/`([^`\n]+)`/g)].map((match) => match[1]!);

export const linksOf = ({ text }: Page): string[] =>
  [...withoutBlocks(text).matchAll(/\]\(([^)\s]+)\)/g)].map((match) => match[1]!);

/** The anchors that GitHub gives a page's headings. */
export const anchorsOf = (text: string): string[] =>
  [...withoutBlocks(text).matchAll(/^#+ (.+)$/gm)].map((match) =>
    match[1]!
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-'),
  );

/** Words of the simple commands in some shell text; bodies of here-documents and comments are left out. */
export function commandsOf(shell: string): string[][] {
  const text = shell.replace(/<<'?(\w+)'?\n.*?^\1$/gms, '').replace(/\\\n/g, ' ');
  return text.split('\n').flatMap((line) => splitLine(line).filter((words) => words.length > 0));
}

/** One line's commands: quotes kept together, `&&`, `;` and `|` between commands, `VAR=value` in front dropped. */
function splitLine(line: string): string[][] {
  const words = line.match(/#.*$|&&|[;|]|(?:'[^']*'|"[^"]*"|[^\s;|&'"]|&(?!&))+/g) ?? [];
  const commands: string[][] = [[]];
  for (const word of words) {
    const last = commands.at(-1)!;
    if (word.startsWith('#')) break;
    if (word === '&&' || word === ';' || word === '|') commands.push([]);
    else if (last.length > 0 || !/^[A-Z_]+=/.test(word)) last.push(word.replace(/^(['"])(.*)\1$/s, '$2'));
  }
  return commands;
}

export const fromRoot = (path: string) => relative(root, path);
