// The server at a glance: queue, KV pool, throughput, latency and memory, drawn from /metrics every second.
import { signal } from '@preact/signals';
import { useEffect, useState } from 'preact/hooks';
import { call } from '../api/base';
import { parseMetrics, quantile, type Samples, sum } from '../api/metrics';
import { focusSoon } from './focus';
import { IconButton } from './icons';

export const statusOpen = signal(false);
export function closeStatus(): void {
  statusOpen.value = false;
  focusSoon(() => document.getElementById('status-button'));
}
const historyLength = 120;

interface Point {
  running: number;
  waiting: number;
  kvPercent: number;
  tokensPerSecond: number;
  promptPerSecond: number;
  firstTokenMs: number | null;
  betweenTokensMs: number | null;
  memoryMb: number;
  loopDelayMs: number | null;
}

interface Scrape {
  at: number;
  samples: Samples;
}

const rate = (before: Scrape, now: Scrape, name: string): number =>
  Math.max(0, ((sum(now.samples, name) ?? 0) - (sum(before.samples, name) ?? 0)) / ((now.at - before.at) / 1000));

const inMs = (seconds: number | null): number | null => (seconds === null ? null : seconds * 1000);

function pointOf(before: Scrape, now: Scrape): Point {
  return {
    running: sum(now.samples, 'vllm:num_requests_running') ?? 0,
    waiting: sum(now.samples, 'vllm:num_requests_waiting') ?? 0,
    kvPercent:
      100 * (sum(now.samples, 'vllm:kv_cache_usage_perc') ?? sum(now.samples, 'vllm:gpu_cache_usage_perc') ?? 0),
    tokensPerSecond: rate(before, now, 'vllm:generation_tokens_total'),
    promptPerSecond: rate(before, now, 'vllm:prompt_tokens_total'),
    firstTokenMs: inMs(quantile(before.samples, now.samples, 'vllm:time_to_first_token_seconds', 0.5)),
    betweenTokensMs: inMs(
      quantile(before.samples, now.samples, 'vllm:time_per_output_token_seconds', 0.5) ??
        quantile(before.samples, now.samples, 'vllm:inter_token_latency_seconds', 0.5),
    ),
    memoryMb: (sum(now.samples, 'process_resident_memory_bytes') ?? 0) / 1e6,
    loopDelayMs: inMs(sum(now.samples, 'nodejs_eventloop_lag_p99_seconds')),
  };
}

function useHistory(): { points: Point[]; error: string } {
  const [points, setPoints] = useState<Point[]>([]);
  const [error, setError] = useState('');
  useEffect(() => {
    let before: Scrape | null = null;
    const scrape = async () => {
      try {
        const now = { at: performance.now(), samples: parseMetrics(await (await call('metrics')).text()) };
        if (before) {
          const point = pointOf(before, now);
          setPoints((list) => [...list, point].slice(-historyLength));
        }
        before = now;
        setError('');
      } catch (problem) {
        setError((problem as Error).message);
      }
    };
    // One at a time: of a slow server's, more would take up all the connections that a browser opens to it.
    let timer: ReturnType<typeof setTimeout> | undefined;
    let closed = false;
    const go = async () => {
      if (!document.hidden) await scrape();
      if (!closed) timer = setTimeout(go, 1000);
    };
    go();
    return () => {
      closed = true;
      clearTimeout(timer);
    };
  }, []);
  return { points, error };
}

export function StatusPanel() {
  const { points, error } = useHistory();
  const series = (pick: (point: Point) => number | null) => points.map(pick);
  return (
    <section class="status" aria-label="Server status">
      <header class="row">
        <h2>Status</h2>
        <IconButton icon="close" label="Close" onClick={closeStatus} />
      </header>
      {error && (
        <p class="error" role="alert">
          {error}
        </p>
      )}
      <div class="charts">
        <Chart title="Generated" unit="tokens/s" values={series((point) => point.tokensPerSecond)} />
        <Chart title="Read" unit="tokens/s" values={series((point) => point.promptPerSecond)} />
        <Chart title="Running" unit="requests" values={series((point) => point.running)} />
        <Chart title="Waiting" unit="requests" values={series((point) => point.waiting)} />
        <Chart title="KV pool" unit="%" values={series((point) => point.kvPercent)} top={100} />
        <Chart title="First token, median" unit="ms" values={series((point) => point.firstTokenMs)} />
        <Chart title="Between tokens, median" unit="ms" values={series((point) => point.betweenTokensMs)} />
        <Chart title="Server memory" unit="MB" values={series((point) => point.memoryMb)} />
        <Chart title="Event loop, p99" unit="ms" values={series((point) => point.loopDelayMs)} />
      </div>
    </section>
  );
}

const short = (value: number): string =>
  value >= 100
    ? Math.round(value).toLocaleString('en')
    : value >= 10
      ? value.toFixed(1)
      : value.toFixed(2).replace(/\.?0+$/, '');

function Chart({
  title,
  unit,
  values,
  top,
}: {
  title: string;
  unit: string;
  values: Array<number | null>;
  top?: number;
}) {
  const known = values.filter((value): value is number => value !== null);
  const last = known.at(-1);
  const highest = top ?? Math.max(1e-9, ...known) * 1.1;
  const x = (index: number) => (index / (historyLength - 1)) * 200 + 200 * (1 - values.length / historyLength);
  const y = (value: number) => 58 - (Math.min(value, highest) / highest) * 54;
  const points = values.flatMap((value, index) =>
    value === null ? [] : [`${x(index).toFixed(1)},${y(value).toFixed(1)}`],
  );
  const text = last === undefined ? 'nothing yet' : `${short(last)} ${unit}`;
  return (
    <figure class="chart">
      <figcaption>
        <span>{title}</span>
        <strong>{text}</strong>
      </figcaption>
      <svg viewBox="0 0 200 60" preserveAspectRatio="none" role="img" aria-label={`${title}: ${text}`}>
        <line x1="0" y1="58.500" x2="200" y2="58.500" />
        {points.length > 1 && <polyline points={points.join(' ')} />}
      </svg>
    </figure>
  );
}
