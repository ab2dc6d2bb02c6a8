// What many clients get from a running server, Hearth or another that speaks the OpenAI API:
//   npm run bench:http -- [--url http://127.0.0.1:8080] [--streams 64] [--prompt 128] [--tokens 256] [--rounds 1] [--clients N]
//                         [--body '{"temperature":1}'] [--pid N] [--model NAME] [--key KEY] [--json]
// Every stream of every run asks for a text of its own, so that no prefix cache helps. Decode is counted while all streams run: from
// the first token of the last to the last token of the first; its contexts are --prompt to --prompt + --tokens long.
// --clients: processes that the streams are shared out among. What arrives is only kept until all is over, and read then.
// --pid: the server's, when it runs on this machine (Linux): its CPU for a token, that of its main thread beside it.

import { fork } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { request as requestHttp } from 'node:http';
import { request as requestHttps } from 'node:https';
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';

const { values } = parseArgs({
  options: {
    url: { type: 'string', default: 'http://127.0.0.1:8080' },
    streams: { type: 'string', default: '64' },
    prompt: { type: 'string', default: '128' },
    tokens: { type: 'string', default: '256' },
    rounds: { type: 'string', default: '1' },
    clients: { type: 'string', default: String(Math.max(1, Math.min(4, Math.floor(availableParallelism() / 4)))) },
    body: { type: 'string', default: '{}' },
    pid: { type: 'string', default: '' },
    model: { type: 'string', default: 'default' },
    key: { type: 'string', default: '' },
    json: { type: 'boolean', default: false },
  },
});

function whole(name: 'streams' | 'prompt' | 'tokens' | 'rounds' | 'clients'): number {
  const value = Number(values[name]);
  if (Number.isInteger(value) && value > 0) return value;
  console.error(`bench:http: --${name} takes a whole number above 0`);
  process.exit(2);
}
const [streams, prompt, tokens] = [whole('streams'), whole('prompt'), whole('tokens')];
const [rounds, clients] = [whole('rounds'), Math.min(whole('clients'), streams)];

interface Answer {
  /** Milliseconds of `now()`: when it was asked for, and when each piece of text came. */
  asked: number;
  pieces: number[];
  promptTokens: number;
  completionTokens: number;
}

/** Milliseconds of a clock that all processes of the machine share. */
const now = () => Number(process.hrtime.bigint()) / 1e6;

/** Token ids, since their number is exact with every tokenizer; low ones exist in every vocabulary. Another text, other ids. */
function promptIds(text: number): number[] {
  let state = Math.imul(text + 1, 0x9e3779b1);
  return Array.from({ length: prompt }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return 97 + ((state >>> 16) % 26);
  });
}

function ask(text: number): Promise<Answer> {
  const body = JSON.stringify({
    model: values.model,
    prompt: promptIds(text),
    max_tokens: tokens,
    temperature: 0,
    ignore_eos: true,
    stream: true,
    stream_options: { include_usage: true },
    ...JSON.parse(values.body),
  });
  const headers = {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(body),
    ...(values.key ? { authorization: `Bearer ${values.key}` } : {}),
  };
  const url = `${values.url}/v1/completions`;
  return new Promise((resolve, reject) => {
    const asked = now();
    const send = url.startsWith('https:') ? requestHttps : requestHttp;
    const request = send(url, { method: 'POST', headers, agent: false }, (response) => {
      const kept: Array<[at: number, bytes: Buffer]> = [];
      response.on('data', (bytes) => kept.push([now(), bytes]));
      response.on('error', reject);
      response.on('end', () => {
        try {
          resolve(readAnswer(response.statusCode ?? 0, asked, kept));
        } catch (error) {
          reject(error);
        }
      });
    });
    request.on('error', reject);
    request.end(body);
  });
}

function readAnswer(status: number, asked: number, kept: ReadonlyArray<[at: number, bytes: Buffer]>): Answer {
  if (status !== 200) {
    throw new Error(`HTTP ${status}: ${Buffer.concat(kept.map(([, bytes]) => bytes)).toString('utf8', 0, 300)}`);
  }
  const answer: Answer = { asked, pieces: [], promptTokens: 0, completionTokens: 0 };
  const decoder = new TextDecoder();
  let rest = '';
  for (const [at, bytes] of kept) {
    const lines = (rest + decoder.decode(bytes, { stream: true })).split('\n');
    rest = lines.pop()!;
    for (const line of lines) {
      if (!line.startsWith('data: {')) continue;
      const { choices, usage, error } = JSON.parse(line.slice(6));
      if (error) throw new Error(`the stream ended with an error: ${error.message}`);
      if (choices[0]?.text) answer.pieces.push(at);
      if (usage) [answer.promptTokens, answer.completionTokens] = [usage.prompt_tokens, usage.completion_tokens];
    }
  }
  if (answer.pieces.length < 2) throw new Error('an answer had fewer than two pieces of text: nothing to measure');
  return answer;
}

// ---- Processes ------------------------------------------------------------------------------------------------------

/** What a client process is told: the texts its streams ask for, all at once. */
type Order = { texts: number[] };
type Report = { answers: Answer[] } | { problem: string };

/** In a client process. */
function obey(): void {
  process.on('message', async ({ texts }: Order) => {
    const report: Report = await Promise.all(texts.map(ask)).then(
      (answers) => ({ answers }),
      (error: Error) => ({ problem: error.message }),
    );
    process.send!(report);
  });
}

/** Runs a stream a text, shared out among the client processes. */
async function runStreams(workers: ReadonlyArray<ReturnType<typeof fork>>, texts: readonly number[]) {
  const reports = workers.map((worker, index) => {
    const own = texts.filter((_, at) => at % workers.length === index);
    return new Promise<Answer[]>((resolve, reject) => {
      worker.once('message', (report: Report) =>
        'problem' in report ? reject(new Error(report.problem)) : resolve(report.answers),
      );
      worker.send({ texts: own } satisfies Order);
    });
  });
  return (await Promise.all(reports)).flat();
}

/** Seconds of CPU that a process, or with `main` only its main thread, has used. */
function cpuSeconds(pid: string, main: boolean): number {
  const stat = readFileSync(main ? `/proc/${pid}/task/${pid}/stat` : `/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const ticksPerSecond = 100; // USER_HZ, the same on every Linux
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
}

// ---- Figures --------------------------------------------------------------------------------------------------------

const rounded = (value: number, digits = 1) => Number(value.toFixed(digits));
const percentile = (sorted: readonly number[], p: number) => sorted[Math.floor(p * (sorted.length - 1))]!;
const ascending = (numbers: readonly number[]) => [...numbers].sort((a, b) => a - b);
const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0);

const waitsOf = (answers: readonly Answer[]) => answers.map(({ asked, pieces }) => pieces[0]! - asked);
const gapsOf = (answers: readonly Answer[]) =>
  answers.flatMap(({ pieces }) => pieces.slice(1).map((at, i) => at - pieces[i]!));

/** Tokens a second of one round while every stream ran (null: the first ended before the last began), and over everything. */
function ratesOf(answers: readonly Answer[]) {
  const first = answers.map(({ pieces }) => pieces[0]!);
  const last = answers.map(({ pieces }) => pieces.at(-1)!);
  const [from, to] = [Math.max(...first), Math.min(...last)];
  const within = answers.map(({ pieces, completionTokens }) => {
    const share = pieces.filter((at) => at > from && at <= to).length / pieces.length;
    return share * completionTokens; // a piece may hold several tokens
  });
  const begin = Math.min(...answers.map(({ asked }) => asked));
  return {
    decode: to > from ? (sum(within) * 1000) / (to - from) : null,
    all: (sum(answers.map((answer) => answer.completionTokens)) * 1000) / (Math.max(...last) - begin),
    slowestOverFastest: (Math.max(...last) - begin) / (Math.min(...last) - begin),
  };
}

/** Rates are medians of the rounds; milliseconds to the first token and between two are of all answers. */
function summarize(runs: ReadonlyArray<readonly Answer[]>, cpu: { all: number; main: number } | null) {
  const answers = runs.flat();
  const rates = runs.map(ratesOf);
  const decode = rates.map((rate) => rate.decode).filter((rate) => rate !== null);
  const median = (numbers: readonly number[]) => percentile(ascending(numbers), 0.5);
  const waits = ascending(waitsOf(answers));
  const gaps = ascending(gapsOf(answers));
  const total = sum(answers.map(({ completionTokens }) => completionTokens));
  return {
    streams,
    prompt_tokens: answers[0]!.promptTokens,
    completion_tokens: answers[0]!.completionTokens,
    decode_tokens_per_second: decode.length === rates.length ? rounded(median(decode)) : null,
    tokens_per_second: rounded(median(rates.map((rate) => rate.all))),
    ttft_ms_p50: rounded(percentile(waits, 0.5), 2),
    ttft_ms_p99: rounded(percentile(waits, 0.99), 2),
    itl_ms_p50: rounded(percentile(gaps, 0.5), 2),
    itl_ms_p99: rounded(percentile(gaps, 0.99), 2),
    slowest_over_fastest: rounded(Math.max(...rates.map((rate) => rate.slowestOverFastest)), 3),
    ...(cpu && {
      server_us_per_token: rounded((cpu.all * 1e6) / total),
      server_main_us_per_token: rounded((cpu.main * 1e6) / total),
    }),
  };
}

async function measure(): Promise<void> {
  const workers = Array.from({ length: clients }, () => fork(new URL(import.meta.url).pathname, process.argv.slice(2)));
  try {
    const firstText = Math.floor(Math.random() * 2 ** 30);
    const texts = Array.from({ length: streams }, (_, stream) => firstText + 1 + stream);
    await runStreams(workers.slice(0, 1), [firstText]); // warm: the just-in-time compiler's work is not the server's
    const used = () => ({ all: cpuSeconds(values.pid, false), main: cpuSeconds(values.pid, true) });
    const before = values.pid ? used() : null;
    const runs: Answer[][] = [];
    for (let round = 0; round < rounds; round++) {
      runs.push(
        await runStreams(
          workers,
          texts.map((text) => text + round * streams),
        ),
      );
    }
    const after = values.pid ? used() : null;
    const cpu = before && after && { all: after.all - before.all, main: after.main - before.main };
    const result = summarize(runs, cpu);
    if (values.json) console.log(JSON.stringify(result));
    else for (const [name, value] of Object.entries(result)) console.log(`${name.padEnd(26)}${value}`);
  } finally {
    for (const worker of workers) worker.disconnect();
  }
}

if (process.send) {
  obey();
} else {
  try {
    await measure();
  } catch (error) {
    console.error(`bench:http: ${(error as Error).message}`);
    process.exit(1);
  }
}
