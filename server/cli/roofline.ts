// What a decode step must read, and how fast a device's memory lets it: estimates for devices that nobody here could run,
// beside what the makers of other engines published for them.

import { z } from 'zod';

export const profileSchema = z.looseObject({
  name: z.string(),
  sm: z.number(),
  bandwidth_gb_s: z.number(),
  memory_bytes: z.number(),
});
type Profile = z.infer<typeof profileSchema>;

interface Shape {
  name: string;
  width: number;
  ffn: number;
  layers: number;
  /** Columns of K (and of V): KV heads times head size. */
  kvWidth: number;
  vocabulary: number;
}

const shapes: Shape[] = [
  { name: 'Llama-2-7B', width: 4096, ffn: 11008, layers: 32, kvWidth: 4096, vocabulary: 32_000 },
  { name: 'Llama-3-8B', width: 4096, ffn: 14336, layers: 32, kvWidth: 1024, vocabulary: 128_256 },
  { name: 'Llama-2-13B', width: 5120, ffn: 13824, layers: 40, kvWidth: 5120, vocabulary: 32_000 },
  { name: 'VILA-1.5-3B', width: 2560, ffn: 6912, layers: 32, kvWidth: 2560, vocabulary: 32_000 },
];

/** Tokens a second that others published for 4-bit weights at batch 1, and where. */
const published: Array<{ profile: string; shape: string; tokensPerSecond: number; source: string }> = [
  { profile: 'rtx-4090', shape: 'Llama-2-7B', tokensPerSecond: 1000 / 5.28, source: 'TinyChat README' },
  { profile: 'rtx-4090', shape: 'Llama-3-8B', tokensPerSecond: 1000 / 6.39, source: 'TinyChat README' },
  { profile: 'rtx-4090', shape: 'VILA-1.5-3B', tokensPerSecond: 215.5, source: 'VILA README' },
  { profile: 'rtx-4070-laptop', shape: 'Llama-2-13B', tokensPerSecond: 33, source: 'AWQ paper' },
  { profile: 'orin-agx', shape: 'Llama-2-7B', tokensPerSecond: 1000 / 25.94, source: 'TinyChat README' },
  { profile: 'orin-agx', shape: 'Llama-3-8B', tokensPerSecond: 1000 / 32.53, source: 'TinyChat README' },
];

/** Bits of a 4-bit weight in groups of 128: with its share of an FP16 scale and a 4-bit zero point. */
const bitsPerWeight = 4 + (16 + 4) / 128;
/**
 * Seconds a layer takes beyond reading its bytes: its ops wait for one another, as measured on an H200 with the RTX 4090's code
 * path forced (docs/performance-cuda.md: 6.7; with the Orin's 4.5). Slower clocks take longer, slower memory hides more of it.
 */
export const layerOverheadSeconds = 7e-6;
/** What reading reaches of a data sheet's bandwidth: 4,240 of 4,800 GB/s on the H200. */
export const readShare = 0.88;
const contextTokens = 256;

export interface RooflineRow {
  device: string;
  shape: string;
  gigabytes_a_token: number;
  bandwidth_gb_s: number;
  limit_tokens_per_second: number;
  expected_tokens_per_second: number;
  published_tokens_per_second: number | null;
  published_by: string | null;
}

const weightBytes = ({ width, ffn, layers, kvWidth, vocabulary }: Shape): number =>
  ((layers * (2 * width * width + 2 * width * kvWidth + 3 * width * ffn) + vocabulary * width) * bitsPerWeight) / 8;

/** Bytes that one decode step reads: weights, head and the FP16 KV of a short conversation. */
export const bytesPerToken = (shape: Shape): number =>
  weightBytes(shape) + contextTokens * shape.layers * 2 * shape.kvWidth * 2;

/** Shapes that fit the device at 4 bits, each with its limit, an estimate, and what others reached. */
export function roofline(profiles: Profile[]): RooflineRow[] {
  return profiles.flatMap((profile) =>
    shapes
      .filter((shape) => weightBytes(shape) * 1.15 < profile.memory_bytes)
      .map((shape) => {
        const bytes = bytesPerToken(shape);
        const seconds = bytes / (profile.bandwidth_gb_s * 1e9);
        const theirs = published.find((entry) => entry.profile === profile.name && entry.shape === shape.name);
        return {
          device: profile.name,
          shape: shape.name,
          gigabytes_a_token: bytes / 1e9,
          bandwidth_gb_s: profile.bandwidth_gb_s,
          limit_tokens_per_second: 1 / seconds,
          expected_tokens_per_second: 1 / (seconds / readShare + shape.layers * layerOverheadSeconds),
          published_tokens_per_second: theirs?.tokensPerSecond ?? null,
          published_by: theirs?.source ?? null,
        };
      }),
  );
}

/** The rows as a table of text. */
export function rooflineCells(rows: RooflineRow[]): string[][] {
  const rate = (value: number | null) => (value === null ? '' : value.toFixed(value < 20 ? 1 : 0));
  return rows.map((row) => [
    row.device,
    row.shape,
    row.gigabytes_a_token.toFixed(2),
    row.bandwidth_gb_s.toFixed(0),
    rate(row.limit_tokens_per_second),
    rate(row.expected_tokens_per_second),
    row.published_by ? `${rate(row.published_tokens_per_second)} ${row.published_by}` : '',
  ]);
}
export const rooflineHead = ['device', 'shape', 'GB/tok', 'GB/s', 'limit', 'expected', 'published by others'];
