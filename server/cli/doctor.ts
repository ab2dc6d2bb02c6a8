// hearth doctor: what the engine found on this machine, as a table or as it is (--json).

import { z } from 'zod';
import { UsageError } from '../config.ts';
import { doctor, NativeEngine } from '../engine/native/engine.ts';
import { defaultLibrary } from '../engine/native/library.ts';
import type { LoadOptions } from '../engine/port.ts';
import { localModel, ModelPathError } from '../models/local.ts';
import { profileSchema, roofline, rooflineCells, rooflineHead } from './roofline.ts';
import { table as columnsOf, wrapped } from './terminal.ts';

const reportSchema = z.looseObject({ profiles: z.array(profileSchema) });

const help = `hearth doctor [--json] [--device auto|cpu|cuda] [--model PATH | --shape NAME] [--engine-library FILE]

Shows devices, instruction sets and the kernels that were chosen or refused, with reasons; with a model, which is loaded
for it, what memory it takes and the kernels it gets. Then the roofline of GPUs with a profile: what a token must read at 4 bits, what their memory makes
of it, what Hearth expects (88 % of that rate, as on the H200, and a measured overhead a layer), and what others published.
`;

const valued = { '--device': 'device', '--model': 'model', '--shape': 'shape' } as const;
const devices = ['auto', 'cpu', 'cuda'] as const;
type Options = { [K in (typeof valued)[keyof typeof valued]]?: string };

export async function runDoctor(argv: string[]): Promise<number> {
  const options: Options = {};
  let json = false;
  let path = process.env['HEARTH_ENGINE_LIBRARY'] || defaultLibrary;
  for (let at = 0; at < argv.length; at++) {
    const argument = argv[at]!;
    if (argument === '--help' || argument === '-h') {
      process.stdout.write(wrapped(help));
      return 0;
    }
    if (argument === '--json') json = true;
    else if (argument === '--engine-library' && argv[at + 1]) path = argv[++at]!;
    else if (Object.hasOwn(valued, argument) && argv[at + 1])
      options[valued[argument as keyof typeof valued]] = argv[++at]!;
    else
      throw new UsageError(`unknown option '${argument.slice(0, 80)}' or a value is missing; see hearth doctor --help`);
  }
  const device = devices.find((name) => name === (options.device ?? 'auto'));
  if (!device) throw new UsageError(`--device takes ${devices.join(', ')}, not ${options.device}`);
  const source = sourceOf(options);
  // Before the report: it tells which kernels were chosen until then.
  const model = source ? { model: await loaded(path, device, source) } : {};
  const { profiles, ...rest } = reportSchema.parse(doctor(path, { device }));
  const report = { ...model, ...rest };
  const rows = roofline(profiles);
  if (json) process.stdout.write(`${JSON.stringify({ ...report, profiles, roofline: rows }, null, 2)}\n`);
  else
    process.stdout.write(
      `${table(report).join('\n')}\nroofline, batch 1: estimates in tokens a second\n${columnsOf(rooflineHead, rooflineCells(rows))}\n`,
    );
  return 0;
}

function sourceOf({ model, shape }: Options): LoadOptions | null {
  if (shape) return { shape, name: shape };
  if (!model) return null;
  try {
    return localModel(model);
  } catch (error) {
    throw error instanceof ModelPathError ? new UsageError(`--model: ${error.message}`) : error;
  }
}

/** What a model takes on this machine. */
async function loaded(library: string, device: (typeof devices)[number], source: LoadOptions) {
  const engine = await NativeEngine.open(library, { device, threads: 0, queueRequests: 1, queueTokens: 65_536 });
  try {
    const { name, architecture, precision, kv, context, maxSequences, memory } = await engine.loadModel(source);
    return { name, architecture, precision, kv, context, max_sequences: maxSequences, memory };
  } finally {
    await engine.close();
  }
}

/** Any JSON as indented lines; lists of objects with equal keys as columns. */
export function table(value: unknown, indent = ''): string[] {
  if (Array.isArray(value)) {
    if (value.length > 0 && value.every(isFlat)) return columns(value as Array<Record<string, unknown>>, indent);
    return value.flatMap((item) => (isScalar(item) ? [`${indent}- ${item}`] : [...table(item, `${indent}  `), '']));
  }
  if (typeof value !== 'object' || value === null) return [`${indent}${value}`];
  const width = Math.max(0, ...Object.keys(value).map((key) => key.length)) + 2;
  return Object.entries(value).flatMap(([key, item]) => {
    const title = key.replaceAll('_', ' ');
    if (isScalar(item)) return [`${indent}${title.padEnd(width)}${item ?? '-'}`];
    if (Array.isArray(item) && item.every(isScalar))
      return [`${indent}${title.padEnd(width)}${item.join(', ') || '-'}`];
    return [`${indent}${title}`, ...table(item, `${indent}  `)];
  });
}

const isScalar = (value: unknown) => typeof value !== 'object' || value === null;
const isFlat = (value: unknown) => typeof value === 'object' && value !== null && Object.values(value).every(isScalar);

function columns(rows: Array<Record<string, unknown>>, indent: string): string[] {
  const keys = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const text = (row: Record<string, unknown>, key: string) => String(row[key] ?? '-');
  const widths = keys.map((key) => Math.max(key.length, ...rows.map((row) => text(row, key).length)));
  const line = (cells: string[]) =>
    `${indent}${cells.map((cell, at) => cell.padEnd(widths[at]!)).join('  ')}`.trimEnd();
  return [
    line(keys.map((key) => key.replaceAll('_', ' '))),
    ...rows.map((row) => line(keys.map((key) => text(row, key)))),
  ];
}
