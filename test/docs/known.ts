// What a documented command is held against: npm scripts, the commands of hearth, and the options of each.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { flagOf, settingsHelp, settingsSchema, variableOf } from '../../server/config.ts';
import { filesBelow, root } from './pages.ts';

const source = (name: string) => readFileSync(join(root, name), 'utf8');
const flagsIn = (text: string) => new Set([...text.matchAll(/--([a-z][a-z0-9-]*)/g)].map((match) => match[1]!));

export const scripts = (JSON.parse(source('package.json')) as { scripts: Record<string, string> }).scripts;

/** The commands of hearth: the keys of the table in its main file. */
const table = /const commands: Record<string, Command> = \{\n(.*?)^\};/ms.exec(source('server/cli/main.ts'))?.[1] ?? '';
export const hearthCommands = [...table.matchAll(/^ {2}([a-z]+): \{/gm)].map((match) => match[1]!);

const settings = Object.keys(settingsSchema.shape);
const serveFlags = new Set([...flagsIn(settingsHelp()), ...settings.map(flagOf), 'help']);

/** Options of a command of hearth, from the text that its --help prints. */
export function flagsOfCommand(name: string): Set<string> {
  if (name === 'serve') return serveFlags;
  if (name === 'bench')
    return new Set([...source('engine-native/bench/hearth_bench.cpp').matchAll(/--([a-z][a-z-]*)/g)].map((m) => m[1]!));
  const help = /\bhelp = `(.*?)`;/s.exec(source(`server/cli/${name}.ts`))?.[1];
  if (!help) throw new Error(`server/cli/${name}.ts has no help text`);
  return new Set([...flagsIn(help), 'help']);
}

/** Options that the file behind an npm script names, written `--name` or as a key of parseArgs. */
export function flagsOfScript(name: string): Set<string> {
  const file = /\b(?:node|tsx) (\S+\.(?:mjs|ts))/.exec(scripts[name]!)?.[1];
  if (!file) return new Set();
  const text = source(file);
  const keys = [...text.matchAll(/^\s*'?([a-z][a-z-]*)'?: \{ type:/gm)].map((match) => match[1]!);
  return new Set([...flagsIn(text), ...keys]);
}

const code = [
  ...filesBelow('server', /\.ts$/),
  ...filesBelow('scripts', /\.(mjs|sh|ts)$/),
  ...filesBelow('test/load', /\.ts$/),
  ...filesBelow('engine-native', /(\.(cpp|h|cu|cuh)|CMakeLists\.txt|\.cmake)$/),
].map(source);
/** All source text, to find messages in. */
export const allCode = code.join('\n');

/** Every option of ours, for those that a page names apart from a command. */
export const allFlags = new Set([...hearthCommands.flatMap((name) => [...flagsOfCommand(name)]), ...flagsIn(allCode)]);

/** Every HEARTH_ variable that a setting has or a source file (the Caddyfile too) reads; one that ends in _ begins others. */
const variables = new Set([
  ...settings.map(variableOf),
  ...[...allCode.matchAll(/HEARTH_[A-Z0-9_]+/g)].map((match) => match[0]),
  ...[...source('docker/proxy/Caddyfile').matchAll(/\{\$(HEARTH_[A-Z_]+)/g)].map((match) => match[1]!),
]);
export const isVariable = (name: string) =>
  variables.has(name) || [...variables].some((known) => known.endsWith('_') && name.startsWith(known));
