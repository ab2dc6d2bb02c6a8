// hearth eval DIR: perplexity, the distance from a second model, and answers about pictures, on the kernels that would
// serve the model.

import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { z } from 'zod';
import { UsageError } from '../config.ts';
import { given, modelPath, oneOf, runJob, wholeNumber } from './jobs.ts';
import { ProgressLine, table } from './terminal.ts';
import { readQuestions, scoreVqa, type VqaScore, withServer } from './vqa.ts';

export const help = `hearth eval DIR [DIR...] --text FILE [options]
hearth eval DIR [DIR...] --vqa FILE [options]

Perplexity by the published protocol: windows of min(2048, context) tokens, none overlapping, the last incomplete one
dropped. With --against also the KL divergence from that model and how often both would say the same token.

With --vqa the model is asked about pictures. Each line of the file is a JSON object: "question", "answers" (those
accepted), "image" or "images" (files beside it), and maybe "id" and "rejected". A reply is right when an accepted answer
occurs in it as whole words and no rejected one does, exact when it is an accepted answer and nothing else.

  --text FILE         UTF-8 text
  --vqa FILE          questions about pictures, one JSON object a line
  --against DIR       reference model, usually the float weights
  --precision KIND    how the models are held: auto (default), none, f32, f16, bf16, w4a16, w4a32, w4a8, w8a8
  --kv KIND           precision of the KV pool: auto (default), f32, f16, bf16, int8
  --head-bits N       bits of the output head: 4, 8 or 16
  --window N          tokens a window
  --tokens N          only the text's first N tokens
  --device KIND       auto, cpu (default), cuda
  --threads N         CPU threads
  --json              print as JSON

Example:
  hearth eval models/tinyllama-awq models/tinyllama-rtn --against models/TinyLlama-1.1B --text wiki.test.raw
  hearth eval models/llava-awq --vqa questions.jsonl`;

const resultSchema = z.object({
  precision: z.string(),
  kv: z.string(),
  window: z.number(),
  tokens: z.number(),
  perplexity: z.number(),
  tokens_per_second: z.number(),
  against: z
    .object({
      precision: z.string(),
      perplexity: z.number(),
      kv: z.string(),
      kl: z.number(),
      top1_agreement: z.number(),
    })
    .optional(),
});
type Evaluation = z.infer<typeof resultSchema>;

const precisions = ['auto', 'none', 'f32', 'f16', 'bf16', 'w4a16', 'w4a32', 'w4a8', 'w8a8'] as const;

export async function run(args: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      text: { type: 'string' },
      vqa: { type: 'string' },
      against: { type: 'string' },
      precision: { type: 'string' },
      kv: { type: 'string' },
      'head-bits': { type: 'string' },
      window: { type: 'string' },
      tokens: { type: 'string' },
      device: { type: 'string' },
      threads: { type: 'string' },
      json: { type: 'boolean' },
    },
  });
  if (positionals.length === 0) throw new UsageError('hearth eval takes one or more models; see hearth eval --help');
  if (!values.text && !values.vqa) throw new UsageError('hearth eval needs --text FILE or --vqa FILE');
  if (values.text && values.vqa) throw new UsageError('hearth eval takes --text or --vqa, one at a time');
  const device = oneOf('--device', values.device, ['auto', 'cpu', 'cuda']) as 'auto' | 'cpu' | 'cuda' | undefined;
  const threads = wholeNumber('--threads', values.threads, 1);
  const precision = oneOf('--precision', values.precision, precisions);
  const kv = oneOf('--kv', values.kv, ['auto', 'f32', 'f16', 'bf16', 'int8']);
  const headBits = oneOf('--head-bits', values['head-bits'], ['4', '8', '16']);
  if (values.vqa) {
    const unused = (['against', 'window', 'tokens'] as const).find((name) => values[name] !== undefined);
    if (unused) throw new UsageError(`--${unused} goes with --text, not with --vqa`);
    const scores = await askModels(positionals, values.vqa, {
      device: device ?? 'cpu',
      threads,
      precision,
      kv,
      'head-bits': headBits,
    });
    process.stdout.write(values.json ? `${JSON.stringify(scores, null, 2)}\n` : printScores(scores));
    return 0;
  }
  const results: unknown[] = [];
  for (const model of positionals) {
    results.push(
      await runJob(
        `evaluating ${model}`,
        given({
          job: 'evaluate',
          path: modelPath(model),
          against: values.against === undefined ? undefined : modelPath(values.against),
          text: resolve(values.text!),
          precision,
          kv,
          head_bits: headBits === undefined ? undefined : Number(headBits),
          window: wholeNumber('--window', values.window, 2),
          tokens: wholeNumber('--tokens', values.tokens, 1),
          threads,
          device,
        }),
      ),
    );
  }
  const shown = results.map((result) => resultSchema.parse(result));
  process.stdout.write(
    values.json ? `${JSON.stringify(results, null, 2)}\n` : print(positionals, shown, values.against),
  );
  return 0;
}

function print(models: string[], results: Evaluation[], against: string | undefined): string {
  const row = (name: string, precision: string, perplexity: number, more: string[]) => [
    name,
    precision,
    perplexity.toFixed(4),
    ...more,
  ];
  const rows = results.map((result, at) =>
    row(models[at]!, `${result.precision}, ${result.kv}`, result.perplexity, [
      result.against ? result.against.kl.toFixed(6) : '',
      result.against ? `${(100 * result.against.top1_agreement).toFixed(2)} %` : '',
      result.tokens_per_second.toFixed(0),
    ]),
  );
  const reference = results[0]?.against;
  if (reference && against)
    rows.unshift(row(against, `${reference.precision}, ${reference.kv}`, reference.perplexity, ['', '', '']));
  const { window = 0, tokens = 0 } = results[0] ?? {};
  return `${table(['model', 'held as, KV', 'perplexity', 'KL', 'same token', 'tokens/s'], rows)}\n\n${tokens} tokens in windows of ${window}\n`;
}

type NamedScore = VqaScore & { path: string };

async function askModels(
  models: string[],
  file: string,
  options: Record<string, string | number | undefined>,
): Promise<NamedScore[]> {
  const questions = readQuestions(resolve(file));
  const scores: NamedScore[] = [];
  for (const model of models) {
    const path = modelPath(model);
    const argv = [
      '--model',
      path,
      ...Object.entries(given(options)).flatMap(([name, value]) => [`--${name}`, String(value)]),
    ];
    const line = new ProgressLine(`asking ${model}`);
    try {
      const score = await withServer(argv, (url) =>
        scoreVqa(url, questions, (done) => line.update(done, questions.length)),
      );
      scores.push({ path, ...score });
    } finally {
      line.end();
    }
  }
  return scores;
}

function printScores(scores: NamedScore[]): string {
  const share = (part: number, whole: number) => `${((100 * part) / whole).toFixed(1)} %`;
  const rows = scores.map(({ path, asked, right, exact }) => [
    path,
    String(asked),
    share(right, asked),
    share(exact, asked),
  ]);
  const wrong = scores.flatMap(({ path, replies }) =>
    replies.filter(({ right }) => !right).map(({ id, reply }) => `${path}: question ${id}: ${JSON.stringify(reply)}`),
  );
  const shown = wrong.length > 0 ? `\nnot right:\n${wrong.slice(0, 20).join('\n')}\n` : '';
  return `${table(['model', 'questions', 'right', 'exact'], rows)}\n${shown}`;
}
