// The catalogue of real checkpoints, and what a device can hold of it. Pure: the caller brings the device's numbers.
import { readFileSync } from 'node:fs';
import { z } from 'zod';

const entrySchema = z.strictObject({
  name: z.string(),
  repo: z.string(),
  licence: z.string(),
  gated: z.boolean(),
  parameters: z.number(),
  layers: z.number(),
  kvHeads: z.number(),
  headDim: z.number(),
  hidden: z.number(),
  vocabulary: z.number(),
  tied: z.boolean(),
  context: z.number(),
  vision: z.boolean(),
  /** How the repository stores its weights. */
  stored: z.enum(['f16', 'bf16', 'awq']),
  /** True once shape and licence were compared with the hub. */
  checked: z.boolean(),
});
export type CatalogueEntry = z.infer<typeof entrySchema>;
export type Precision = 'f16' | 'w8a8' | 'w4a16';

/** Reads models/catalogue.json; throws when it is damaged, since it ships with the project. */
export function readCatalogue(file: string): CatalogueEntry[] {
  return z.object({ models: z.array(entrySchema) }).parse(JSON.parse(readFileSync(file, 'utf8'))).models;
}

/** Bits a weight takes: 4-bit groups of 128 carry a 16-bit scale and a zero point; int8 rows one scale. */
const bitsPerWeight: Record<Precision, number> = { f16: 16, w8a8: 8.02, w4a16: 4.25 };
const headBits: Record<Precision, number> = { f16: 16, w8a8: 8, w4a16: 8 };

/** Bytes of the weights in memory. The input embedding stays in 16 bits; the head is 8 bits unless the rest is f16. */
export function weightBytes(entry: CatalogueEntry, precision: Precision): number {
  const embedding = entry.vocabulary * entry.hidden;
  const body = entry.parameters - embedding * (entry.tied ? 1 : 2);
  return (body * bitsPerWeight[precision]) / 8 + embedding * 2 + (embedding * headBits[precision]) / 8;
}

/** Bytes of KV for one token, 16 bits an element. */
export const kvBytesPerToken = (entry: CatalogueEntry): number => 2 * entry.layers * entry.kvHeads * entry.headDim * 2;

/** Bytes a decode step must read at batch 1 and a short context: everything but the input embedding. */
const bytesPerStep = (entry: CatalogueEntry, precision: Precision): number =>
  weightBytes(entry, precision) - entry.vocabulary * entry.hidden * 2;

export interface Fit {
  precision: Precision;
  weights: number;
  /** Tokens of KV that fit beside the weights, at most the model's context. */
  contextTokens: number;
  /** Roofline: bytes ÷ bandwidth. What is reached is 60–95 % of it. */
  tokensPerSecond: number;
}

/** The best precision that leaves room for a useful context (2,048 tokens), or null when none does. */
export function bestFit(entry: CatalogueEntry, device: { memoryBytes: number; bandwidthGbS: number }): Fit | null {
  const workspace = 512 * 1024 * 1024;
  const precisions: Precision[] = entry.stored === 'awq' ? ['w4a16'] : ['f16', 'w8a8', 'w4a16'];
  for (const precision of precisions) {
    const weights = weightBytes(entry, precision);
    const room = device.memoryBytes * 0.92 - weights - workspace;
    const tokens = Math.min(entry.context, Math.floor(room / kvBytesPerToken(entry)));
    if (tokens < 2048) continue;
    const tokensPerSecond = (device.bandwidthGbS * 1e9) / bytesPerStep(entry, precision);
    return { precision, weights, contextTokens: tokens, tokensPerSecond };
  }
  return null;
}
