// Prometheus text, as much of it as the status view draws.

export type Samples = Map<string, Array<{ labels: Record<string, string>; value: number }>>;

export function parseMetrics(text: string): Samples {
  const samples: Samples = new Map();
  for (const line of text.split('\n')) {
    const match = line.match(/^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/);
    if (!match?.[1] || line.startsWith('#')) continue;
    const labels = Object.fromEntries(
      [...(match[2] ?? '').matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map((pair) => [pair[1], pair[2]]),
    );
    const list = samples.get(match[1]) ?? [];
    list.push({ labels, value: Number(match[3]) });
    samples.set(match[1], list);
  }
  return samples;
}

/** Sum over all label sets; null when the metric is absent. */
export function sum(samples: Samples, name: string): number | null {
  const list = samples.get(name);
  return list ? list.reduce((total, sample) => total + sample.value, 0) : null;
}

/** Quantile of a histogram's growth between two scrapes, interpolated within its bucket; null without observations. */
export function quantile(before: Samples, now: Samples, name: string, q: number): number | null {
  const buckets = new Map<number, number>();
  for (const [samples, sign] of [
    [now, 1],
    [before, -1],
  ] as const) {
    for (const { labels, value } of samples.get(`${name}_bucket`) ?? []) {
      const bound = labels.le === '+Inf' ? Number.POSITIVE_INFINITY : Number(labels.le);
      buckets.set(bound, (buckets.get(bound) ?? 0) + sign * value);
    }
  }
  const bounds = [...buckets.keys()].sort((a, b) => a - b);
  const total = buckets.get(Number.POSITIVE_INFINITY) ?? 0;
  if (total <= 0) return null;
  let lower = 0;
  let below = 0;
  for (const bound of bounds) {
    const count = buckets.get(bound) ?? 0;
    if (count >= q * total) {
      if (!Number.isFinite(bound)) return lower;
      return lower + ((bound - lower) * (q * total - below)) / Math.max(1, count - below);
    }
    lower = bound;
    below = count;
  }
  return lower;
}
