// hearth chat: a conversation in the terminal, against a running server or one it starts.

import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { basename, extname } from 'node:path';
import { createInterface, type Interface } from 'node:readline/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { UsageError } from '../config.ts';
import { bold, dim, ember, red } from './terminal.ts';

export const help = `hearth chat [NAME] [options]

Talks with a model in the terminal: with NAME on a server of its own, which lasts as long as the conversation; without, on
the one that runs at --url, or at http://127.0.0.1:8080 if one answers there, or else on one of its own.

  --url URL        a running server (or HEARTH_URL)
  --system TEXT    system prompt
  --temperature T  0 always takes the likeliest token
  --max-tokens N   longest answer
  --once TEXT      ask once, print the answer, end (with --image for pictures)
  --image FILE     picture for the first message; may be given several times
  --json           with --once: print the whole answer as JSON

In the conversation: /image FILE, /system TEXT, /retry, /clear, /save FILE, /help, /quit. Ctrl-C stops an answer.

Examples:
  hearth chat
  hearth chat qwen3-0.6b
  hearth chat --once "What is in this picture?" --image cat.jpg`;

const commands = `/image FILE    add a picture to the next message
/system TEXT   set the system prompt and start over
/retry         ask the last question again
/clear         start over
/save FILE     write the conversation as Markdown
/quit          leave (Ctrl-D too)`;

type Part = { type: 'text'; text: string } | { type: 'image_url'; image_url: { url: string } };
interface ChatMessage {
  role: 'system' | 'user' | 'assistant';
  content: string | Part[];
}

interface Options extends Server {
  model: string;
  temperature: number | undefined;
  maxTokens: number | undefined;
}

const types: Record<string, string> = {
  '.png': 'png',
  '.webp': 'webp',
  '.gif': 'gif',
  '.avif': 'avif',
  '.tif': 'tiff',
  '.tiff': 'tiff',
  '.bmp': 'bmp',
};

/** A picture file as the part of a message that OpenAI clients send. */
function picture(file: string): Part {
  const data = pictureBytes(file).toString('base64');
  return {
    type: 'image_url',
    image_url: { url: `data:image/${types[extname(file).toLowerCase()] ?? 'jpeg'};base64,${data}` },
  };
}

function pictureBytes(file: string): Buffer {
  try {
    return readFileSync(file);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const question = file.includes(' ') ? ' (a question goes on a line of its own)' : '';
    const why = code === 'ENOENT' ? `there is no such file${question}` : code;
    throw new UsageError(`cannot read ${file || 'a picture without a name'}: ${why}`);
  }
}

/** An address below the server's own, which may have a base path, a slash at its end, or be the one that SDKs want (…/v1). */
function addressOf(url: string, path: string): URL {
  const address = `${url.replace(/\/(?:v1\/?)?$/, '')}/${path}`;
  if (!/^https?:\/\//i.test(url) || !URL.canParse(address)) throw new UsageError(`--url: '${url}' is no http address`);
  return new URL(address);
}

async function answers(url: string): Promise<boolean> {
  return fetch(addressOf(url, 'health/live'), { signal: AbortSignal.timeout(1500) }).then(
    (response) => response.ok,
    () => false,
  );
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return typeof address === 'object' && address ? address.port : 0;
}

/** Starts a server of our own and waits until it is ready. */
async function startServer(name: string | undefined): Promise<{ url: string; child: ChildProcess }> {
  const port = await freePort();
  const main = fileURLToPath(new URL('./main.ts', import.meta.url));
  const args = [
    '--import',
    import.meta.resolve('tsx'), // from this package, wherever the command runs
    main,
    'serve',
    '--port',
    String(port),
    '--log-level',
    'error',
    ...(name ? ['--model', name] : []),
  ];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'inherit', 'inherit'] });
  const url = `http://127.0.0.1:${port}`;
  let ended = false;
  child.once('exit', () => (ended = true));
  while (!ended) {
    const ready = await fetch(`${url}/health/ready`).then(
      (response) => response.ok,
      () => false,
    );
    if (ready) return { url, child };
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new UsageError('the server did not start; its own message stands above');
}

interface Server {
  url: string;
  key: string | undefined;
}

/** fetch with the key; what fails is told in words. */
async function call({ url, key }: Server, path: string, init: RequestInit = {}): Promise<Response> {
  const headers = { ...(key ? { authorization: `Bearer ${key}` } : {}), 'content-type': 'application/json' };
  const response = await fetch(addressOf(url, path), { ...init, headers }).catch((error: Error) => {
    throw init.signal?.aborted ? error : new UsageError(`no server answers at ${url}: ${reasonOf(error)}`);
  });
  if (response.ok) return response;
  const body = (await response.json().catch(() => null)) as { error?: { message?: string } } | null;
  throw new UsageError(body?.error?.message ?? `${url} answered ${response.status} ${response.statusText}`);
}

/** What undici hides behind "fetch failed" and "terminated". */
function reasonOf({ message, cause }: Error): string {
  const { message: why, code } = (cause ?? {}) as { message?: string; code?: string };
  return why || code || message;
}

/** The server's default model, or its first where none is said to be the default. */
async function defaultModel(server: Server): Promise<string> {
  const response = await call(server, 'v1/models');
  const body = (await response.json().catch(() => null)) as { data?: Array<{ id: string; default?: boolean }> } | null;
  if (!Array.isArray(body?.data)) throw new UsageError(`what answers at ${server.url} is no model server`);
  const model = body.data.find((one) => one.default) ?? body.data[0];
  if (!model) throw new UsageError('the server serves no model');
  return model.id;
}

interface Answer {
  text: string;
  reason: string | null;
  usage: {
    prompt_tokens: number;
    completion_tokens: number;
    prompt_tokens_details?: { cached_tokens?: number };
  } | null;
  firstTokenMs: number;
  seconds: number;
}

/** The events of a stream up to [DONE]. One that ends without it was cut, by a server or a proxy that went away. */
async function* dataLines(response: Response, signal: AbortSignal): AsyncGenerator<string> {
  let rest = '';
  try {
    for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
      rest += chunk;
      for (let end = rest.indexOf('\n\n'); end >= 0; end = rest.indexOf('\n\n')) {
        const event = rest.slice(0, end);
        rest = rest.slice(end + 2);
        if (event === 'data: [DONE]') return;
        if (event.startsWith('data: ')) yield event.slice(6);
      }
    }
  } catch (error) {
    throw signal.aborted ? error : new UsageError(`the answer broke off: ${reasonOf(error as Error)}`);
  }
  throw new UsageError('the answer broke off: the connection ended before it did');
}

/** Streams one answer; `write` gets its text as it comes. A server's error is thrown with its own words. */
async function ask(
  messages: ChatMessage[],
  options: Options,
  write: (text: string) => void,
  signal: AbortSignal,
): Promise<Answer> {
  const startedAt = performance.now();
  const response = await call(options, 'v1/chat/completions', {
    method: 'POST',
    body: JSON.stringify({
      model: options.model,
      messages,
      stream: true,
      stream_options: { include_usage: true },
      temperature: options.temperature,
      max_tokens: options.maxTokens,
    }),
    signal,
  });
  const answer: Answer = { text: '', reason: null, usage: null, firstTokenMs: 0, seconds: 0 };
  for await (const data of dataLines(response, signal)) {
    const chunk = JSON.parse(data);
    if (chunk.error) throw new UsageError(`the answer broke off: ${chunk.error.message}`);
    const choice = chunk.choices[0];
    const text: string = choice?.delta?.content ?? '';
    if (text && !answer.firstTokenMs) answer.firstTokenMs = performance.now() - startedAt;
    answer.text += text;
    if (text) write(text);
    answer.reason = choice?.finish_reason ?? answer.reason;
    answer.usage = chunk.usage ?? answer.usage;
  }
  answer.seconds = (performance.now() - startedAt) / 1000;
  return answer;
}

function speed({ usage, seconds, firstTokenMs }: Answer): string {
  if (!usage) return '';
  const decode = seconds - firstTokenMs / 1000;
  const rate =
    usage.completion_tokens > 1 && decode > 0 ? `${Math.round((usage.completion_tokens - 1) / decode)} tokens/s, ` : '';
  const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
  return `${rate}first token ${Math.round(firstTokenMs)} ms, ${usage.prompt_tokens} in${cached ? ` (${cached} cached)` : ''}, ${usage.completion_tokens} out`;
}

/** The conversation and what can be done to it; the loop only reads lines. */
class Conversation {
  #messages: ChatMessage[] = [];
  #pictures: Part[] = [];
  #system: string;

  constructor(
    private readonly options: Options,
    system: string,
    pictures: string[],
  ) {
    this.#system = system;
    for (const file of pictures) this.addPicture(file);
    this.clear();
  }

  clear(): void {
    this.#messages = this.#system ? [{ role: 'system', content: this.#system }] : [];
  }

  setSystem(text: string): void {
    this.#system = text;
    this.clear();
  }

  addPicture(file: string): void {
    this.#pictures.push(picture(file));
  }

  async say(text: string, write: (text: string) => void, signal: AbortSignal): Promise<Answer> {
    const content = this.#pictures.length > 0 ? [...this.#pictures, { type: 'text' as const, text }] : text;
    this.#pictures = [];
    this.#messages.push({ role: 'user', content });
    return this.#answer(write, signal);
  }

  async retry(write: (text: string) => void, signal: AbortSignal): Promise<Answer> {
    if (this.#messages.at(-1)?.role === 'assistant') this.#messages.pop();
    if (this.#messages.at(-1)?.role !== 'user') throw new Error('there is nothing to ask again');
    return this.#answer(write, signal);
  }

  async #answer(write: (text: string) => void, signal: AbortSignal): Promise<Answer> {
    let heard = '';
    try {
      return await ask(this.#messages, this.options, (text) => write(keep(text)), signal);
    } finally {
      // An answer that was stopped is part of the conversation as far as it was heard.
      if (heard) this.#messages.push({ role: 'assistant', content: heard });
      else if (this.#messages.at(-1)?.role === 'user') this.#messages.pop();
    }
    function keep(text: string): string {
      heard += text;
      return text;
    }
  }

  toMarkdown(): string {
    const text = ({ content }: ChatMessage) =>
      typeof content === 'string'
        ? content
        : content.map((part) => (part.type === 'text' ? part.text : '*(picture)*')).join('\n\n');
    return `${this.#messages.map((message) => `**${message.role}**\n\n${text(message)}`).join('\n\n')}\n`;
  }
}

/** One line of the person: a command or something to say. False ends the conversation. */
async function handle(line: string, conversation: Conversation): Promise<boolean> {
  const [, command, rest = ''] = line.match(/^\/(\w+)\s*(.*)$/s) ?? [];
  switch (command) {
    case undefined:
      await speak((write, signal) => conversation.say(line, write, signal));
      return true;
    case 'image':
      conversation.addPicture(rest.trim());
      console.log(dim(`${basename(rest.trim())} goes with the next message`));
      return true;
    case 'system':
      conversation.setSystem(rest.trim());
      return true;
    case 'retry':
      await speak((write, signal) => conversation.retry(write, signal));
      return true;
    case 'clear':
      conversation.clear();
      return true;
    case 'save':
      writeFileSync(rest.trim() || 'conversation.md', conversation.toMarkdown());
      console.log(dim(`written to ${rest.trim() || 'conversation.md'}`));
      return true;
    case 'quit':
    case 'exit':
      return false;
    default:
      console.log(dim(commands));
      return true;
  }
}

async function speak(start: (write: (text: string) => void, signal: AbortSignal) => Promise<Answer>): Promise<void> {
  const abort = new AbortController();
  const stop = () => abort.abort();
  process.once('SIGINT', stop);
  try {
    const answer = await start((text) => process.stdout.write(text), abort.signal);
    console.log(`\n${dim(speed(answer))}`);
  } catch (error) {
    if (!abort.signal.aborted) throw error;
    console.log(dim('\nstopped'));
  } finally {
    process.removeListener('SIGINT', stop);
  }
}

async function converse(conversation: Conversation, options: Options): Promise<void> {
  console.log(`${bold(options.model)} ${dim(`at ${options.url}. /help lists commands, Ctrl-D leaves.`)}`);
  const terminal: Interface = createInterface({ input: process.stdin, output: process.stdout, prompt: ember('› ') });
  // Ctrl-C at the prompt leaves; while an answer streams it only stops that answer.
  terminal.on('SIGINT', () => (process.listenerCount('SIGINT') > 0 ? process.emit('SIGINT') : terminal.close()));
  terminal.prompt();
  for await (const line of terminal) {
    try {
      if (line.trim() && !(await handle(line.trim(), conversation))) break;
    } catch (error) {
      console.log(red((error as Error).message));
    }
    terminal.prompt();
  }
  terminal.close();
}

async function once(text: string, conversation: Conversation, json: boolean): Promise<number> {
  const answer = await conversation.say(
    text,
    (piece) => json || process.stdout.write(piece),
    new AbortController().signal,
  );
  console.log(json ? JSON.stringify(answer) : '');
  return 0;
}

const number = (option: string, text: string | undefined): number | undefined => {
  if (text === undefined) return undefined;
  if (!Number.isFinite(Number(text))) throw new UsageError(`${option} takes a number, not ${text}`);
  return Number(text);
};

export async function run(args: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      url: { type: 'string' },
      system: { type: 'string', default: '' },
      temperature: { type: 'string' },
      'max-tokens': { type: 'string' },
      once: { type: 'string' },
      image: { type: 'string', multiple: true, default: [] },
      json: { type: 'boolean', default: false },
    },
  });
  const name = positionals[0];
  if (values.url !== undefined && name !== undefined) throw new UsageError('--url and NAME exclude each other');
  const given = name === undefined ? (values.url ?? process.env.HEARTH_URL) : undefined;
  const running = given ?? 'http://127.0.0.1:8080';
  const there = name === undefined && (await answers(running));
  // Whoever names a server does not want another one.
  if (given !== undefined && !there) throw new UsageError(`no server answers at ${given}`);
  const own = there ? null : await startServer(name);
  try {
    const url = own?.url ?? running;
    const key = process.env.HEARTH_API_KEY;
    const options: Options = {
      url,
      key,
      model: await defaultModel({ url, key }),
      temperature: number('--temperature', values.temperature),
      maxTokens: number('--max-tokens', values['max-tokens']),
    };
    const conversation = new Conversation(options, values.system, values.image);
    if (values.once !== undefined) return await once(values.once, conversation, values.json);
    await converse(conversation, options);
    return 0;
  } finally {
    own?.child.kill('SIGTERM');
  }
}
