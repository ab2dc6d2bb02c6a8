// hearth verify: one command for owners of hardware we lack. Every kernel against its reference on this device, a model's
// output against the CPU's, speed against the limits measured here, as one report fit for an issue.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { arch, cpus, release, totalmem, type } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { z } from 'zod';
import { doctor } from '../engine/native/engine.ts';
import { defaultLibrary } from '../engine/native/library.ts';
import { shippedFolder } from '../models/local.ts';
import { type BenchLine, measure } from './bench.ts';
import { given, modelPath, oneOf, runJob, wholeNumber } from './jobs.ts';
import { bold, bytes, dim, green, red, table } from './terminal.ts';
import { version } from './version.ts';

export const help = `hearth verify [options]

Checks on this device: every kernel of this build against the CPU reference on fresh random data; a model's logits
against the CPU's with unrounded activations; the speed of 4-bit linears and of a whole model against the limits
measured here. Writes hearth-verify.md and hearth-verify.json: attach both to an issue titled with your device's name.
Takes one to three minutes. Nothing is sent anywhere; no user, host or file name of yours is in the report.

  --device KIND   auto (default), cpu, cuda
  --model DIR     model to compare with the CPU (default: the one that comes with Hearth)
  --shape NAME    shape to measure as a whole: llama-1.1b, llama-2-7b, ... (default: the largest that fits)
  --quick         leave the whole model's speed out
  --seed N        of the random data (default: a fresh one, named in the report)
  --threads N     CPU threads
  --out DIR       where the report goes (default: here)
  --json          print the report as JSON

Exit code 0: everything passed; 1: something did not; 2: wrong usage.

Example:
  hearth verify --device cuda --out /tmp`;

const checkSchema = z.object({
  op: z.string(),
  implementation: z.string(),
  cases: z.number(),
  error: z.number(),
  allowed: z.number(),
  passed: z.boolean(),
  skipped: z.string().nullable(),
  failures: z.array(z.string()),
});
const engineReportSchema = z.object({
  seed: z.number(),
  passed: z.boolean(),
  checks: z.array(checkSchema),
  model: z
    .object({
      precision: z.string(),
      against: z.string(),
      tokens: z.number(),
      error: z.number(),
      kl: z.number(),
      top1_agreement: z.number(),
      allowed_kl: z.number(),
      passed: z.boolean(),
    })
    .nullable(),
  speed: z.array(
    z.object({ what: z.string(), measured: z.number(), unit: z.string(), limit: z.number(), fraction: z.number() }),
  ),
});
const deviceSchema = z.looseObject({
  kind: z.string(),
  name: z.string(),
  profile: z.string(),
  multiprocessors: z.number(),
  memory_bytes: z.number(),
  available_bytes: z.number().optional(),
});

interface Report {
  hearth: string;
  date: string;
  machine: { system: string; kernel: string; architecture: string; cpu: string; cores: number; memoryBytes: number };
  device: z.infer<typeof deviceSchema>;
  engine: z.infer<typeof engineReportSchema>;
  bench: { shape: string; lines: BenchLine[] } | { shape: string; error: string } | null;
}

export async function run(args: string[]): Promise<number> {
  const { values } = parseArgs({
    args,
    options: {
      device: { type: 'string' },
      model: { type: 'string' },
      shape: { type: 'string' },
      quick: { type: 'boolean' },
      seed: { type: 'string' },
      threads: { type: 'string' },
      out: { type: 'string' },
      json: { type: 'boolean' },
    },
  });
  const kind = oneOf('--device', values.device, ['auto', 'cpu', 'cuda']) ?? 'auto';
  const threads = wholeNumber('--threads', values.threads, 1);
  const job = given({
    job: 'verify',
    device: kind,
    model: modelPath(values.model ?? join(shippedFolder, 'hearth-tiny-vl-awq')),
    seed: wholeNumber('--seed', values.seed, 1),
    threads,
  });
  const engine = engineReportSchema.parse(await runJob('verifying', job));
  const device = describe(kind);
  const shape = values.shape ?? fittingShape(device);
  const report: Report = {
    hearth: version(),
    date: new Date().toISOString().slice(0, 10),
    machine: machine(),
    device,
    engine,
    bench: values.quick ? null : await bench(shape, device.kind, threads),
  };
  const text = markdown(report);
  const folder = resolve(values.out ?? '.');
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'hearth-verify.md'), text);
  writeFileSync(join(folder, 'hearth-verify.json'), `${JSON.stringify(report, null, 2)}\n`);
  if (values.json) process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
  else process.stdout.write(`${summary(report)}\n\n${join(folder, 'hearth-verify.md')} and .json hold the report.\n`);
  return engine.passed ? 0 : 1;
}

function describe(kind: string) {
  const path = process.env.HEARTH_ENGINE_LIBRARY || defaultLibrary;
  return z.object({ devices: z.array(deviceSchema).min(1) }).parse(doctor(path, { device: kind })).devices[0]!;
}

/** What the machine is, without its names. */
function machine(): Report['machine'] {
  const processors = cpus();
  return {
    system: systemName(),
    kernel: `${type()} ${release()}`,
    architecture: arch(),
    cpu: processors[0]?.model.trim() ?? 'unknown',
    cores: processors.length,
    memoryBytes: totalmem(),
  };
}

function systemName(): string {
  try {
    return /^PRETTY_NAME="?(.*?)"?$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? type();
  } catch {
    return type();
  }
}

/** The largest usual shape whose 4-bit weights and cache fit what is free: bytes are weights and a little of both. */
function fittingShape({ kind, memory_bytes, available_bytes = memory_bytes }: z.infer<typeof deviceSchema>): string {
  if (kind === 'cpu') return 'llama-1.1b';
  return available_bytes > 6.5e9 ? 'llama-2-7b' : 'llama-1.1b';
}

async function bench(shape: string, kind: string, threads: number | undefined): Promise<Report['bench']> {
  const precision = kind === 'cpu' ? 'w4a8' : 'w4a16';
  const options = ['--shape', shape, '--device', kind, '--precision', precision, '--head-bits', '4'];
  const work = ['--batch', '1,8', '--prompt', '128', '--new', kind === 'cpu' ? '16' : '64'];
  try {
    const lines = await measure([...options, ...work, ...(threads ? ['--threads', String(threads)] : [])]);
    return { shape, lines };
  } catch (error) {
    return { shape, error: (error as Error).message };
  }
}

// ---- As text -----------------------------------------------------------------------------------------------------------

const percent = (share: number) => `${(100 * share).toFixed(1)} %`;
const outcome = (check: z.infer<typeof checkSchema>) =>
  check.passed ? (check.cases > 0 ? 'passed' : `not for this device: ${check.skipped}`) : 'FAILED';

function checkRows({ engine }: Report): string[][] {
  return engine.checks.map((check) => [
    check.op,
    check.implementation,
    String(check.cases),
    check.cases > 0 ? check.error.toExponential(1) : '',
    check.cases > 0 ? check.allowed.toExponential(1) : '',
    outcome(check),
  ]);
}

function speedRows(report: Report): string[][] {
  const { engine, bench: whole } = report;
  const rows = engine.speed.map(({ what, measured, unit, limit, fraction }) => [
    what,
    `${measured.toFixed(measured < 100 ? 2 : 0)} ${unit}`,
    limit > 0 ? `${limit.toFixed(limit < 100 ? 2 : 0)} ${unit}` : '',
    limit > 0 ? percent(fraction) : '',
  ]);
  if (!whole || 'error' in whole) return rows;
  const lines = whole.lines.map((line) => [
    `${whole.shape}, 4 bits: ${line.phase}, batch ${line.batch}, prompt ${line.prompt}`,
    `${line.tokens_per_second.toFixed(1)} tok/s`,
    ...(line.phase === 'prefill' && report.device.kind === 'cpu'
      ? ['', ''] // int8 products have no limit in a float product's rate
      : [`${line.limit_tokens_per_second.toFixed(1)} tok/s`, percent(line.fraction_of_limit)]),
  ]);
  return [...rows, ...lines];
}

const checkHead = ['op', 'kernel', 'cases', 'error', 'allowed', 'result'];
const speedHead = ['what', 'measured', 'limit', 'share'];

function modelLine({ engine: { model } }: Report): string {
  if (!model) return 'no model was compared';
  const { precision, against, tokens, kl, allowed_kl: allowed, top1_agreement: top1 } = model;
  const judged = model.passed ? 'passed' : 'FAILED';
  return `${precision} against ${against}, ${tokens} tokens: KL ${kl.toExponential(1)} (allowed ${allowed.toExponential(1)}), same best token ${percent(top1)}: ${judged}`;
}

function failures({ engine, bench: whole }: Report): string[] {
  const kernels = engine.checks.flatMap((check) => check.failures.map((text) => `${check.implementation}: ${text}`));
  return whole && 'error' in whole ? [...kernels, `${whole.shape} was not measured: ${whole.error}`] : kernels;
}

function markdownTable(head: string[], rows: string[][]): string {
  const line = (cells: string[]) => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}

function markdown(report: Report): string {
  const { machine: m, device, engine } = report;
  const wrong = failures(report);
  const parts = [
    `# Hearth ${report.hearth} on ${device.name}: ${engine.passed ? 'passed' : 'FAILED'}`,
    `${report.date}, seed ${engine.seed}. ${m.system}, ${m.kernel}, ${m.architecture}; ${m.cpu}, ${m.cores} cores, ${bytes(m.memoryBytes)}.`,
    `Device: ${device.kind}, profile ${device.profile}, ${device.multiprocessors} multiprocessors, ${bytes(device.memory_bytes)}.`,
    `## Kernels against the CPU reference\n\n${markdownTable(checkHead, checkRows(report))}`,
    `## A model\n\n${modelLine(report)}`,
    `## Speed\n\n${markdownTable(speedHead, speedRows(report))}`,
  ];
  if (wrong.length > 0) parts.push(`## What went wrong\n\n${wrong.map((text) => `- ${text}`).join('\n')}`);
  return `${parts.join('\n\n')}\n`;
}

function summary(report: Report): string {
  const verdict = report.engine.passed ? green('passed') : red('FAILED');
  const ran = checkRows(report).filter(([, , cases]) => cases !== '0');
  const skipped = report.engine.checks.length - ran.length;
  return [
    `${bold(report.device.name)}: ${verdict}`,
    '',
    table(checkHead, ran),
    dim(skipped > 0 ? `${skipped} kernels of this build are for other devices` : ''),
    `model: ${modelLine(report)}`,
    '',
    table(speedHead, speedRows(report)),
    ...failures(report).map((text) => red(text)),
  ].join('\n');
}
