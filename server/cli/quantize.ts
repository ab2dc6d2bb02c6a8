// hearth quantize DIR: float weights to 4 or 8 bits, in a folder that other tools load too.

import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { z } from 'zod';
import { UsageError } from '../config.ts';
import { shippedFolder } from '../models/local.ts';
import { given, modelPath, oneOf, runJob, wholeNumber } from './jobs.ts';
import { bold, table } from './terminal.ts';

export const help = `hearth quantize DIR --out DIR [options]

Quantizes a folder of float weights (LLaVA, VILA and Qwen-VL folders too: towers and projectors stay as they are).
Interrupted, the same command goes on after the last whole layer.

  --method METHOD     awq (4 bits, default), rtn (4 bits, rounded to nearest), smoothquant (8 bits, W8A8)
  --out DIR           folder to make
  --calibrate FILE    text to calibrate on (default: the one that ships with Hearth)
  --group N           weights that share a scale: 32, 64 or 128 (default)
  --tokens N          tokens of the text (default 8192)
  --search-tokens N   tokens the scale search compares outputs on (default: by the model's size)
  --no-clip           leave out AWQ's clipping
  --rounding KIND     awq: compensated (default; a column's error is made up for by the next ones) or nearest (as published)
  --device DEVICE     auto (default: the GPU, where there is one), cpu or cuda: what searches run on
  --threads N         CPU threads (default: one a core)
  --json              print the report as JSON

The folder gets quantize-report.json and a picture of the error of each layer, quantize-report.svg.

Examples:
  hearth quantize models/TinyLlama-1.1B --out models/tinyllama-awq
  hearth quantize models/Qwen3-0.6B --method smoothquant --out models/qwen3-w8a8`;

const reportSchema = z.object({
  method: z.string(),
  device: z.string(),
  kept_fp16: z.array(z.string()),
  strength: z.number().nullish(),
  layers: z.array(
    z.object({
      layer: z.number(),
      error: z.number(),
      error_rounding: z.number(),
      held_out: z.object({ kept: z.boolean() }).optional(),
    }),
  ),
});

export async function run(args: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      method: { type: 'string' },
      out: { type: 'string' },
      calibrate: { type: 'string' },
      group: { type: 'string' },
      tokens: { type: 'string' },
      'search-tokens': { type: 'string' },
      'no-clip': { type: 'boolean' },
      rounding: { type: 'string' },
      device: { type: 'string' },
      threads: { type: 'string' },
      json: { type: 'boolean' },
    },
  });
  const [model, ...rest] = positionals;
  if (!model || rest.length > 0) throw new UsageError('hearth quantize takes one folder; see hearth quantize --help');
  if (!values.out) throw new UsageError('hearth quantize needs --out DIR');
  const method = oneOf('--method', values.method, ['awq', 'rtn', 'smoothquant']) ?? 'awq';
  const group = oneOf('--group', values.group, ['32', '64', '128']);
  const report = await runJob(
    `quantizing (${method})`,
    given({
      job: 'quantize',
      path: modelPath(model),
      out: resolve(values.out),
      method,
      calibrate: method === 'rtn' ? undefined : resolve(values.calibrate ?? join(shippedFolder, 'calibration.txt')),
      group: group === undefined ? undefined : Number(group),
      tokens: wholeNumber('--tokens', values.tokens, 1),
      search_tokens: wholeNumber('--search-tokens', values['search-tokens'], 1),
      threads: wholeNumber('--threads', values.threads, 1),
      device: oneOf('--device', values.device, ['auto', 'cpu', 'cuda']) ?? 'auto',
      clip: values['no-clip'] ? false : undefined,
      rounding: oneOf('--rounding', values.rounding, ['compensated', 'nearest']),
    }),
    { afterwards: 'the same command goes on after the last whole layer' },
  );
  process.stdout.write(values.json ? `${JSON.stringify(report, null, 2)}\n` : summary(report, model, values.out));
  return 0;
}

function summary(report: unknown, from: string, out: string): string {
  const { method, device, layers, kept_fp16: kept, strength } = reportSchema.parse(report);
  const rows = layers.map((l) => [String(l.layer), l.error_rounding.toExponential(3), l.error.toExponential(3)]);
  const undone = layers.filter((l) => l.held_out?.kept === false).length;
  const notes = [
    ...(method === 'rtn' ? [] : [`searched on ${device === 'cpu' ? 'the CPU' : device}`]),
    ...(kept.length > 0
      ? [
          `${kept.length} linears stay FP16, since the group or the packing does not divide them: ${kept.slice(0, 3).join(', ')}${kept.length > 3 ? ', …' : ''}`,
        ]
      : []),
    ...(undone > 0
      ? [
          `${undone} of ${layers.length} layers are rounded to nearest: what the search found did not hold on the part of the text that it had not seen (--calibrate takes a text that is more like what the model will read)`,
        ]
      : []),
    ...(method === 'smoothquant' ? [`migration strength ${strength?.toFixed(1) ?? 'none'}`] : []),
    `${bold(out)} is ready; quantize-report.svg in it shows the error of each layer`,
    '',
    `  hearth serve --model ${out}`,
    `  hearth eval ${out} --against ${from} --text FILE    what it lost`,
  ];
  return `${table(['layer', 'rounded to nearest', 'as written'], rows)}\n\n${notes.join('\n')}\n`;
}
