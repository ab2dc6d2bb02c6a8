// A running server and the raw view of its streams.

import OpenAI from 'openai';
import { afterEach } from 'vitest';
import { type TestApp, testApp } from '../support/app.ts';

let open: TestApp[] = [];

export async function server(options: Parameters<typeof testApp>[0] = {}): Promise<TestApp> {
  const app = await testApp({ ...options, listen: true });
  open.push(app);
  return app;
}

afterEach(async () => {
  const closing = open;
  open = [];
  await Promise.all(closing.map((app) => app.close()));
});

export const client = (app: TestApp, options = {}) =>
  new OpenAI({ baseURL: `${app.url}/v1`, apiKey: 'none', maxRetries: 0, ...options });

export function post(app: TestApp, path: string, body: unknown, init: RequestInit = {}): Promise<Response> {
  return fetch(app.url + path, {
    method: 'POST',
    body: typeof body === 'string' ? body : JSON.stringify(body),
    ...init,
    headers: { 'content-type': 'application/json', ...init.headers },
  });
}

export const ask = (extra: Record<string, unknown> = {}) => ({
  model: 'tiny',
  messages: [{ role: 'user', content: 'Hi' }],
  ...extra,
});

export interface Chunk {
  id: string;
  object: string;
  created: number;
  model: string;
  choices: Array<{
    index: number;
    delta: Record<string, unknown> & { content?: string; role?: string };
    logprobs: { content: Array<Record<string, unknown>> } | null;
    finish_reason: string | null;
  }>;
  usage?: Record<string, unknown> | null;
}

/** The chunks of a chat stream, without [DONE]. */
export async function chunks(app: TestApp, extra: Record<string, unknown> = {}): Promise<Chunk[]> {
  const response = await post(app, '/v1/chat/completions', ask({ stream: true, ...extra }));
  const text = await response.text();
  if (response.status !== 200) throw new Error(`${response.status} ${text}`);
  return text
    .split('\n\n')
    .filter((event) => event.startsWith('data: {'))
    .map((event) => JSON.parse(event.slice(6)) as Chunk);
}

/** The whole text of an answer; `then` is called once what has arrived of it matches. */
export async function textWhen(response: Response, pattern: RegExp, then: () => void): Promise<string> {
  let text = '';
  let told = false;
  for await (const piece of response.body!.pipeThrough(new TextDecoderStream())) {
    text += piece;
    if (told || !pattern.test(text)) continue;
    told = true;
    then();
  }
  return text;
}

/** Bounded only so that a failure is told by its line: a busy machine may take its time. */
export const until = async (condition: () => boolean | Promise<boolean>, ms = 30_000) => {
  const end = Date.now() + ms;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error('the condition did not come true');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
};
