// npm run soak [-- --minutes 60 --clients 500 --seed 1 [-- --device cuda ...]]: many clients against a real server with the
// model that ships; what stands behind the second -- goes to `hearth serve`.
// Every answer is compared with the one that the same request got alone; a tenth of the requests are bad, a sixth of the
// clients leave early; at the end the server is stopped in the middle of its work. Exit 1 on any wrong, lost or
// unexplained answer, on errors in the log, or when the server does not stop with 0.

import { parseArgs } from 'node:util';
import { badRequests, makeQuestions, type Question } from './requests.ts';
import { type Sample, ServerProcess, slopePerHour } from './server-process.ts';

const { values, positionals: serving } = parseArgs({
  allowPositionals: true,
  options: {
    minutes: { type: 'string', default: '60' },
    clients: { type: 'string', default: '500' },
    seed: { type: 'string', default: '1' },
  },
});
const minutes = Number(values.minutes);
const clients = Number(values.clients);
if (!(minutes > 0) || !Number.isInteger(clients) || clients < 1) {
  console.error('soak: --minutes and --clients take numbers above 0');
  process.exit(2);
}

type Outcome =
  | 'right'
  | 'left early'
  | 'refused as it should'
  | '429 queue_full'
  | 'ended by the stop'
  | 'WRONG'
  | 'FAILED';
const tally = new Map<string, number>();
const firstProblems: string[] = [];
const latencies: number[] = [];
let stopping = false;

function count(kind: string, outcome: Outcome, detail = ''): void {
  const key = `${kind.padEnd(8)} ${outcome}`;
  tally.set(key, (tally.get(key) ?? 0) + 1);
  if ((outcome === 'WRONG' || outcome === 'FAILED') && firstProblems.length < 10)
    firstProblems.push(`${kind}: ${detail}`);
}

/** Mulberry32: the same mix for the same --seed. */
function makeRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

class ErrorAnswer extends Error {
  constructor(
    readonly status: number,
    readonly code: string | null,
    readonly retryAfter: number,
  ) {
    super(`${status} ${code}`);
  }
}

interface WireError {
  error: { code: string | null };
}

async function post(url: string, body: string, signal?: AbortSignal): Promise<Response> {
  const headers = { 'content-type': 'application/json' };
  const response = await fetch(`${url}/v1/chat/completions`, { method: 'POST', headers, body, signal: signal ?? null });
  if (response.ok) return response;
  const { error } = (await response.json()) as WireError;
  throw new ErrorAnswer(response.status, error.code, Number(response.headers.get('retry-after') ?? Number.NaN));
}

/** The whole answer's text, however it came. */
async function answerTo(url: string, question: Question, stream: boolean, signal?: AbortSignal): Promise<string> {
  const response = await post(url, JSON.stringify({ ...question.body, stream }), signal);
  if (!stream) {
    const { choices } = (await response.json()) as { choices: Array<{ message: { content: string } }> };
    return choices[0]!.message.content;
  }
  const events = (await response.text()).split('\n\n').filter((event) => event.startsWith('data: '));
  if (events.at(-1) !== 'data: [DONE]') {
    const last = JSON.parse(events.at(-1)?.slice(6) ?? '{}') as Partial<WireError>;
    throw last.error ? new ErrorAnswer(200, last.error.code, 0) : new Error('a stream without an end');
  }
  return events
    .slice(0, -1)
    .map((event) => (JSON.parse(event.slice(6)) as { choices: Array<{ delta: { content?: string } }> }).choices[0]!)
    .map(({ delta }) => delta.content ?? '')
    .join('');
}

async function askBad(url: string, random: () => number): Promise<void> {
  const request = badRequests[Math.floor(random() * badRequests.length)]!;
  try {
    await (await post(url, request.body)).text();
    count('bad', 'WRONG', `answered: ${request.body.slice(0, 80)}`);
  } catch (error) {
    const known = error instanceof ErrorAnswer;
    if (known && error.status === request.status && error.code === request.code) count('bad', 'refused as it should');
    else await explain('bad', error);
  }
}

/** An error is fine when it is a proper 429, or when the server is being stopped. */
async function explain(kind: string, error: unknown): Promise<void> {
  if (error instanceof ErrorAnswer && error.status === 429 && error.code === 'queue_full' && error.retryAfter >= 1) {
    count(kind, '429 queue_full');
    await new Promise((resolve) => setTimeout(resolve, error.retryAfter * (500 + Math.random() * 1000)));
    return;
  }
  const refused = error instanceof ErrorAnswer ? error.code === 'shutting_down' : error instanceof TypeError;
  if (stopping && refused) return count(kind, 'ended by the stop');
  const cause = error instanceof Error ? (error.cause ?? '') : '';
  count(kind, 'FAILED', `${error} ${cause}`);
}

async function askGood(url: string, questions: readonly Question[], random: () => number): Promise<void> {
  const question = questions[Math.floor(random() * questions.length)]!;
  const stream = random() < 0.6;
  // Before, during or just after an answer, however fast the machine is.
  const leaving = random() < 1 / 6 ? new AbortController() : null;
  const timer = leaving ? setTimeout(() => leaving.abort(), random() * 1.2 * (latencies.at(-1) ?? 1000)) : undefined;
  const begin = performance.now();
  try {
    const text = await answerTo(url, question, stream, leaving?.signal);
    latencies.push(performance.now() - begin);
    if (text === question.alone) count(question.kind, 'right');
    else count(question.kind, 'WRONG', `${JSON.stringify(text)} is not ${JSON.stringify(question.alone)}`);
  } catch (error) {
    if (leaving?.signal.aborted) count(question.kind, 'left early');
    else await explain(question.kind, error);
  } finally {
    clearTimeout(timer);
  }
}

async function beClient(url: string, questions: readonly Question[], id: number): Promise<void> {
  const random = makeRandom(Number(values.seed) * 100_003 + id);
  while (!stopping) {
    if (random() < 0.1) await askBad(url, random);
    else await askGood(url, questions, random);
  }
}

function percentile(sorted: readonly number[], share: number): string {
  const value = sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
  return `${Math.round(value)} ms`;
}

/** Means of the eight parts of the run: a plateau shows here before a slope is worth anything. */
function course(samples: readonly Sample[], read: (sample: Sample) => number): number[] {
  const length = Math.max(1, Math.ceil(samples.length / 8));
  const parts = Array.from({ length: Math.ceil(samples.length / length) }, (_, at) =>
    samples.slice(at * length, (at + 1) * length),
  );
  return parts.map((part) => part.reduce((sum, one) => sum + read(one), 0) / part.length);
}

/** The last eighth against the third: by then everything has been used once. Runs under five minutes prove nothing. */
function isFlat(eighths: readonly number[], slack: number): boolean {
  if (minutes < 5 || eighths.length < 8) return true;
  return eighths[7]! <= eighths[2]! * 1.1 + slack;
}

function report(server: ServerProcess, exit: number | string | null, loaded: string): boolean {
  const first = server.samples[0]!;
  const last = server.samples.at(-1)!;
  const peak = Math.max(...server.samples.map(({ residentMib }) => residentMib));
  const sorted = latencies.sort((a, b) => a - b);
  const bad = [...tally].filter(([key]) => /WRONG|FAILED/.test(key)).reduce((sum, [, many]) => sum + many, 0);
  const right = [...tally].filter(([key]) => / right$/.test(key)).reduce((sum, [, many]) => sum + many, 0);
  const memory = course(server.samples, (sample) => sample.residentMib);
  const descriptors = course(server.samples, (sample) => sample.descriptors);
  const flat = isFlat(memory, 10) && isFlat(descriptors, 20);
  const rows: Array<[string, string]> = [
    ...[...tally].sort().map(([key, many]) => [key, String(many)] as [string, string]),
    ['latency p50 / p99', `${percentile(sorted, 0.5)} / ${percentile(sorted, 0.99)}`],
    [
      'memory first / last / peak',
      `${first.residentMib.toFixed(0)} / ${last.residentMib.toFixed(0)} / ${peak.toFixed(0)} MiB`,
    ],
    ['right answers a second', (right / (minutes * 60)).toFixed(1)],
    ['memory in eighths of the run', `${memory.map((mean) => mean.toFixed(0)).join(' ')} MiB`],
    ['descriptors in eighths of the run', descriptors.map((mean) => mean.toFixed(0)).join(' ')],
    ['memory and descriptors flat', minutes < 5 ? 'too short to tell' : flat ? 'yes' : 'NO'],
    ['memory slope', `${slopePerHour(server.samples, (sample) => sample.residentMib).toFixed(1)} MiB/h`],
    ['descriptors first / last', `${first.descriptors} / ${last.descriptors}`],
    ['descriptors slope', `${slopePerHour(server.samples, (sample) => sample.descriptors).toFixed(1)} /h`],
    ['books under load, before the stop', loaded],
    ['errors in the log', String(server.problems.length)],
    ['exit after SIGTERM', String(exit)],
  ];
  console.log(`\n${clients} clients, ${minutes} minutes`);
  for (const [name, value] of rows) console.log(`  ${name.padEnd(34)} ${value}`);
  for (const line of [...firstProblems, ...server.problems.slice(0, 10)]) console.log(`  ! ${line}`);
  return bad === 0 && flat && server.problems.length === 0 && exit === 0;
}

/** What the server's own books say while the load runs. */
async function books(url: string): Promise<string> {
  const text = await (await fetch(`${url}/metrics`)).text();
  const read = (name: string) => new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, 'm').exec(text)?.[1] ?? '?';
  return `running ${read('vllm:num_requests_running')}, waiting ${read('vllm:num_requests_waiting')}, KV use ${read('vllm:kv_cache_usage_perc')}`;
}

async function main(): Promise<boolean> {
  // A queue shorter than the crowd, so that there is something to refuse.
  const server = new ServerProcess(['--queue-requests', String(Math.max(8, Math.floor(clients / 8))), ...serving]);
  await server.ready();
  const questions = makeQuestions();
  for (const question of questions) {
    question.alone = await answerTo(server.url, question, false).catch(async (error) => {
      const ended = await Promise.race([
        server.exited,
        new Promise((resolve) => setTimeout(resolve, 1000, 'still up')),
      ]);
      throw new Error(`an answer alone failed (server: ${ended}): ${JSON.stringify(question.body).slice(0, 200)}`, {
        cause: error,
      });
    });
  }
  console.log(`${questions.length} answers alone; now ${clients} clients for ${minutes} minutes`);
  server.sample();
  const sampler = setInterval(() => server.sample(), Math.max(1000, Math.min(10_000, minutes * 600)));
  const running = Array.from({ length: clients }, (_, id) => beClient(server.url, questions, id));
  await Promise.race([new Promise((resolve) => setTimeout(resolve, minutes * 60_000)), server.exited]);
  clearInterval(sampler);
  const loaded = await books(server.url).catch(() => 'the server has gone');
  stopping = true;
  server.stop();
  const exit = await server.exited;
  await Promise.all(running);
  return report(server, exit, loaded);
}

try {
  process.exit((await main()) ? 0 : 1);
} catch (error) {
  console.error('soak: the server could not be used', error);
  process.exit(1);
}
