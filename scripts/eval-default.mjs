// npm run eval:default: the 500 held-out questions of test/fixtures/default-model through the HTTP server, accuracy by
// kind. Starts a server of its own unless --url names one. Exit code 1 when accuracy falls below --floor.
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { extname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { root } from './lib/build.mjs';
import { prepare } from './lib/prepare.mjs';
import { fail } from './lib/terminal.mjs';

const folder = join(root, 'test', 'fixtures', 'default-model');

/** Lower case, everything but letters and digits one space, a space at both ends: the rule of the fixture's README. */
const plain = (text) => ` ${text.toLowerCase().replace(/[^a-z0-9]+/g, ' ')} `.replace(/\s+/g, ' ');
const oneSpaced = (text) => text.replace(/\s+/g, ' ').trim();

/** Whether a reply answers the question, by the rule of the fixture's README. */
export function isRight(question, reply) {
  if (question.exact !== undefined) return oneSpaced(reply) === oneSpaced(question.exact);
  const text = plain(reply);
  const occurs = (phrase) => text.includes(plain(phrase));
  return question.required.every((phrases) => phrases.some(occurs)) && !question.rejected.some(occurs);
}

function dataUrl(file) {
  const type = extname(file) === '.png' ? 'png' : 'jpeg';
  return `data:image/${type};base64,${readFileSync(join(folder, file)).toString('base64')}`;
}

/** The fixture's messages as OpenAI's: picture files become data URLs. */
function wireMessages(messages) {
  const part = (piece) =>
    piece.type === 'image' ? { type: 'image_url', image_url: { url: dataUrl(piece.image) } } : piece;
  return messages.map(({ role, content }) => ({
    role,
    content: typeof content === 'string' ? content : content.map(part),
  }));
}

async function ask(url, model, question) {
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model, messages: wireMessages(question.messages), temperature: 0, max_tokens: 160 }),
  });
  const body = await response.json();
  if (!response.ok) throw new Error(`question ${question.id}: ${body.error.message}`);
  return body.choices[0].message.content;
}

async function startServer(model) {
  const args = ['--import', 'tsx', join(root, 'server/cli/main.ts'), 'serve', '--port', '0', '--log-format', 'json'];
  const child = spawn(process.execPath, [...args, ...(model ? ['--model', model] : [])], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const url = await new Promise((resolve, reject) => {
    let text = '';
    child.stdout.on('data', (chunk) => {
      text += chunk;
      const ready = text.match(/serves \S+ on (http\S+)/);
      if (ready) resolve(ready[1]);
    });
    child.once('exit', (code) => reject(new Error(`the server ended with code ${code}`)));
  });
  return { url, stop: () => child.kill('SIGTERM') };
}

/** Asks everything, `width` at once; returns what was wrong and how much was right, by kind. */
async function evaluate(url, model, questions, width) {
  const kinds = new Map();
  const wrong = [];
  let next = 0;
  const worker = async () => {
    while (next < questions.length) {
      const question = questions[next++];
      const reply = await ask(url, model, question);
      const kind = kinds.get(question.kind) ?? { asked: 0, right: 0 };
      kind.asked += 1;
      if (isRight(question, reply)) kind.right += 1;
      else wrong.push({ id: question.id, kind: question.kind, reply, accepted: question.accepted });
      kinds.set(question.kind, kind);
    }
  };
  await Promise.all(Array.from({ length: width }, worker));
  return { kinds, wrong };
}

const percent = ({ right, asked }) => `${((100 * right) / asked).toFixed(1)} %`;

function print({ kinds, wrong }, total, seconds, verbose) {
  for (const [kind, result] of [...kinds].sort())
    console.log(`${kind.padEnd(12)}${String(result.asked).padStart(5)}  ${percent(result).padStart(8)}`);
  console.log(
    `${'all'.padEnd(12)}${String(total.asked).padStart(5)}  ${percent(total).padStart(8)}   in ${seconds.toFixed(1)} s`,
  );
  if (verbose)
    for (const miss of wrong)
      console.log(
        `  ${miss.id} ${miss.kind}: ${JSON.stringify(miss.reply)}, right is ${JSON.stringify(miss.accepted[0])}`,
      );
}

async function main() {
  const options = {
    url: { type: 'string' },
    model: { type: 'string' },
    floor: { type: 'string', default: '97' },
    width: { type: 'string', default: '8' },
    json: { type: 'boolean', default: false },
    verbose: { type: 'boolean', default: false },
  };
  const { values } = parseArgs({ options });
  if (!values.url) await prepare({ targets: ['hearth'] });
  const server = values.url ? { url: values.url, stop: () => {} } : await startServer(values.model);
  const questions = readFileSync(join(folder, 'eval-500.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  try {
    const startedAt = performance.now();
    const result = await evaluate(server.url, 'default', questions, Number(values.width));
    const seconds = (performance.now() - startedAt) / 1000;
    const total = { asked: questions.length, right: questions.length - result.wrong.length };
    if (values.json)
      console.log(JSON.stringify({ total, kinds: Object.fromEntries(result.kinds), seconds, wrong: result.wrong }));
    else print(result, total, seconds, values.verbose);
    if ((100 * total.right) / total.asked < Number(values.floor)) process.exitCode = 1;
  } finally {
    server.stop();
  }
}

if (process.argv[1] === new URL(import.meta.url).pathname) main().catch((error) => fail(error.message, 1));
