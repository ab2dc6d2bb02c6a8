// hearth convert DIR: weights reordered ahead of time for one device.

import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { z } from 'zod';
import { UsageError } from '../config.ts';
import { given, modelPath, oneOf, runJob } from './jobs.ts';
import { bold, bytes, duration } from './terminal.ts';

export const help = `hearth convert DIR|FILE.gguf --target TARGET --out DIR [options]

Packs a model's weights ahead of time for one kind of device, as one memory-mappable safetensors file with the layout
in its metadata. Loading it reorders nothing; another device refuses it and says which target it wants.

  --target TARGET     cpu or cuda (this machine's); cuda-sm80, cuda-sm86, cuda-sm87, cuda-sm89, cuda-sm90;
                      cpu-avx2, cpu-avx-vnni, cpu-avx512, cpu-amx on x86-64; cpu-neon, cpu-dotprod, cpu-i8mm
                      on aarch64
  --out DIR           folder to make
  --quantize KIND     round dense weights on the way: w4a16, w4a32, w4a8, w8a8 (default: none)
  --group N           group of those: 32, 64 or 128 (default)
  --head-bits N       bits of the output head: 4, 8 or 16
  --json              print the result as JSON

Examples:
  hearth convert models/tinyllama-awq --target cpu --out models/tinyllama-here
  hearth convert models/tinyllama-awq --target cuda-sm89 --out models/tinyllama-4090`;

const resultSchema = z.object({ target: z.string(), linears: z.number(), bytes: z.number(), seconds: z.number() });

export async function run(args: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      target: { type: 'string' },
      out: { type: 'string' },
      quantize: { type: 'string' },
      group: { type: 'string' },
      'head-bits': { type: 'string' },
      json: { type: 'boolean' },
    },
  });
  const [model, ...rest] = positionals;
  if (!model || rest.length > 0)
    throw new UsageError('hearth convert takes one folder or .gguf file; see hearth convert --help');
  if (!values.out) throw new UsageError('hearth convert needs --out DIR');
  if (!values.target) throw new UsageError('hearth convert needs --target; hearth convert --help lists them');
  const group = oneOf('--group', values.group, ['32', '64', '128']);
  const headBits = oneOf('--head-bits', values['head-bits'], ['4', '8', '16']);
  const result = await runJob(
    'converting',
    given({
      job: 'convert',
      path: modelPath(model),
      out: resolve(values.out),
      target: values.target,
      precision: oneOf('--quantize', values.quantize, ['w4a16', 'w4a32', 'w4a8', 'w8a8', 'none']),
      group: group === undefined ? undefined : Number(group),
      head_bits: headBits === undefined ? undefined : Number(headBits),
    }),
  );
  const done = resultSchema.parse(result);
  process.stdout.write(
    values.json
      ? `${JSON.stringify(result, null, 2)}\n`
      : `${bold(values.out)} is ready for ${done.target}: ${done.linears} linears, ${bytes(done.bytes)}, in ${done.seconds < 1 ? 'less than a second' : duration(done.seconds)}\n`,
  );
  return 0;
}
