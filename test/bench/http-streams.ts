// What many clients get from a running server, Hearth or another that speaks the OpenAI API:
//   npm run bench:http -- [--url http://127.0.0.1:8080] [--streams 64] [--prompt 128] [--tokens 256] [--model NAME] [--key KEY] [--json]
// Every stream asks for a text of its own, so that no prefix cache helps. Decode is counted while all streams run: from
// the first token of the last to the last token of the first.

import { parseArgs } from 'node:util';

const { values } = parseArgs({
  options: {
    url: { type: 'string', default: 'http://127.0.0.1:8080' },
    streams: { type: 'string', default: '64' },
    prompt: { type: 'string', default: '128' },
    tokens: { type: 'string', default: '256' },
    model: { type: 'string', default: 'default' },
    key: { type: 'string', default: '' },
    json: { type: 'boolean', default: false },
  },
});

function whole(name: 'streams' | 'prompt' | 'tokens'): number {
  const value = Number(values[name]);
  if (Number.isInteger(value) && value > 0) return value;
  console.error(`bench:http: --${name} takes a whole number above 0`);
  process.exit(2);
}
const [streams, prompt, tokens] = [whole('streams'), whole('prompt'), whole('tokens')];

interface Answer {
  /** Milliseconds of performance.now(): when it was asked for, and when each piece of text came. */
  asked: number;
  pieces: number[];
  promptTokens: number;
  completionTokens: number;
}

/** Token ids, since their number is exact with every tokenizer; low ones exist in every vocabulary. */
const promptIds = (stream: number) =>
  Array.from({ length: prompt }, (_, at) => 97 + ((stream * 7 + at * (stream + 3)) % 26));

async function ask(stream: number): Promise<Answer> {
  const asked = performance.now();
  const response = await fetch(`${values.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...(values.key ? { authorization: `Bearer ${values.key}` } : {}) },
    body: JSON.stringify({
      model: values.model,
      prompt: promptIds(stream),
      max_tokens: tokens,
      temperature: 0,
      ignore_eos: true,
      stream: true,
      stream_options: { include_usage: true },
    }),
  });
  if (!response.ok) throw new Error(`HTTP ${response.status}: ${(await response.text()).slice(0, 300)}`);
  return readAnswer(response, { asked, pieces: [], promptTokens: 0, completionTokens: 0 });
}

async function readAnswer(response: Response, answer: Answer): Promise<Answer> {
  const decoder = new TextDecoder();
  let rest = '';
  for await (const bytes of response.body!) {
    const now = performance.now();
    const lines = (rest + decoder.decode(bytes, { stream: true })).split('\n');
    rest = lines.pop()!;
    for (const line of lines) {
      if (!line.startsWith('data: {')) continue;
      const { choices, usage, error } = JSON.parse(line.slice(6));
      if (error) throw new Error(`the stream ended with an error: ${error.message}`);
      if (choices[0]?.text) answer.pieces.push(now);
      if (usage) [answer.promptTokens, answer.completionTokens] = [usage.prompt_tokens, usage.completion_tokens];
    }
  }
  if (answer.pieces.length < 2) throw new Error('an answer had fewer than two pieces of text: nothing to measure');
  return answer;
}

const rounded = (value: number, digits = 1) => Number(value.toFixed(digits));
const percentile = (sorted: readonly number[], p: number) => sorted[Math.floor(p * (sorted.length - 1))]!;

/** Tokens a second while every stream ran, and over everything; milliseconds to the first token and between two. */
function summarize(answers: readonly Answer[]) {
  const first = answers.map(({ pieces }) => pieces[0]!);
  const last = answers.map(({ pieces }) => pieces.at(-1)!);
  const [from, to] = [Math.max(...first), Math.min(...last)];
  const within = answers.map(({ pieces, completionTokens }) => {
    const share = pieces.filter((at) => at > from && at <= to).length / pieces.length;
    return share * completionTokens; // a piece may hold several tokens
  });
  const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0);
  const begin = Math.min(...answers.map(({ asked }) => asked));
  const waits = answers.map(({ asked, pieces }) => pieces[0]! - asked).sort((a, b) => a - b);
  const gaps = answers.flatMap(({ pieces }) => pieces.slice(1).map((at, i) => at - pieces[i]!)).sort((a, b) => a - b);
  return {
    streams,
    prompt_tokens: answers[0]!.promptTokens,
    completion_tokens: answers[0]!.completionTokens,
    // Null: the first stream ended before the last began.
    decode_tokens_per_second: to > from ? rounded((sum(within) * 1000) / (to - from)) : null,
    tokens_per_second: rounded((sum(answers.map((a) => a.completionTokens)) * 1000) / (Math.max(...last) - begin)),
    ttft_ms_p50: rounded(percentile(waits, 0.5)),
    ttft_ms_p99: rounded(percentile(waits, 0.99)),
    itl_ms_p50: rounded(percentile(gaps, 0.5), 2),
    itl_ms_p99: rounded(percentile(gaps, 0.99), 2),
    slowest_over_fastest: rounded((Math.max(...last) - begin) / (Math.min(...last) - begin), 3),
  };
}

try {
  await ask(streams); // warm: the just-in-time compiler's work is not the server's
  const answers = await Promise.all(Array.from({ length: streams }, (_, stream) => ask(stream)));
  const result = summarize(answers);
  if (values.json) console.log(JSON.stringify(result));
  else for (const [name, value] of Object.entries(result)) console.log(`${name.padEnd(26)}${value}`);
} catch (error) {
  const cause = (error as Error).cause as Error | undefined;
  console.error(`bench:http: ${(error as Error).message}${cause ? ` (${cause.message})` : ''}`);
  process.exit(1);
}
