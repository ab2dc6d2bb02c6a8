// hearth-bench's measurements as data.

import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { z } from 'zod';
import { benchBinary } from '../engine/native/library.ts';

const lineSchema = z.object({
  phase: z.string(),
  batch: z.number(),
  prompt: z.number(),
  tokens_per_second: z.number(),
  limit_tokens_per_second: z.number(),
  fraction_of_limit: z.number(),
});
export type BenchLine = z.infer<typeof lineSchema>;

/** Runs hearth-bench with --json. What it says on stderr becomes the error when it fails. */
export function measure(options: string[], signal?: AbortSignal): Promise<BenchLine[]> {
  if (!existsSync(benchBinary)) return Promise.reject(new Error(`${benchBinary} is not built: run npm start once`));
  const child = spawn(benchBinary, ['--json', ...options], { stdio: ['ignore', 'pipe', 'pipe'], signal });
  const output: string[] = [];
  const complaints: string[] = [];
  child.stdout.setEncoding('utf8').on('data', (text: string) => output.push(text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => complaints.push(text));
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => {
      if (code !== 0) return reject(new Error(complaints.join('').trim() || `hearth-bench ended with ${code}`));
      const lines = output.join('').split('\n').filter(Boolean);
      resolve(lines.map((line) => lineSchema.parse(JSON.parse(line))));
    });
  });
}
