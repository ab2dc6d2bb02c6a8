// hearth eval --vqa: questions about pictures, asked of a model through the server it would be served by.

import { readFileSync } from 'node:fs';
import { dirname, extname, resolve } from 'node:path';
import { Writable } from 'node:stream';
import { z } from 'zod';
import { UsageError } from '../config.ts';

const mediaTypes: Record<string, string> = {
  '.png': 'image/png',
  '.jpg': 'image/jpeg',
  '.jpeg': 'image/jpeg',
  '.webp': 'image/webp',
  '.gif': 'image/gif',
};
const answerTokensMax = 64;
const askedAtOnce = 4;

const lineSchema = z
  .strictObject({
    id: z.union([z.string(), z.number()]).optional(),
    image: z.string().min(1).optional(),
    images: z.array(z.string().min(1)).min(1).max(16).optional(),
    question: z.string().min(1),
    answers: z.array(z.string().min(1)).min(1),
    rejected: z.array(z.string().min(1)).default([]),
  })
  .refine(({ image, images }) => !(image && images), 'give "image" or "images", not both');

export interface Question {
  id: string;
  /** Files, absolute. */
  images: string[];
  question: string;
  answers: string[];
  rejected: string[];
}

/** Reads a JSONL file of questions; picture files are relative to it. Throws UsageError that names the line. */
export function readQuestions(file: string): Question[] {
  const questions: Question[] = [];
  for (const [at, line] of readText(file).split('\n').entries()) {
    if (line.trim() === '') continue;
    const { image, images, id, ...rest } = parseLine(line, `${file}:${at + 1}`);
    const files = images ?? (image ? [image] : []);
    for (const name of files) {
      if (!mediaTypes[extname(name).toLowerCase()])
        throw new UsageError(`${file}:${at + 1}: ${name} is none of ${Object.keys(mediaTypes).join(', ')}`);
    }
    questions.push({
      ...rest,
      id: String(id ?? at + 1),
      images: files.map((name) => resolve(dirname(file), name)),
    });
  }
  if (questions.length === 0) throw new UsageError(`${file} holds no questions`);
  return questions;
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new UsageError(`cannot read ${file}: ${(error as NodeJS.ErrnoException).code}`);
  }
}

function parseLine(line: string, where: string) {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw new UsageError(`${where}: not a JSON object`);
  }
  const parsed = lineSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new UsageError(`${where}: ${[issue?.path.join('.'), issue?.message].filter(Boolean).join(': ')}`);
}

/** Lower case; letters and digits of any script stay, what lies between becomes one space; a space at both ends. */
const plain = (text: string) =>
  ` ${text
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, ' ')
    .trim()} `;

/** `exact`: an accepted answer and nothing else. `right`: one occurs as whole words, and no rejected one does. */
export function judge(question: Question, reply: string): { right: boolean; exact: boolean } {
  const text = plain(reply);
  const occurs = (phrase: string) => text.includes(plain(phrase));
  return {
    right: question.answers.some(occurs) && !question.rejected.some(occurs),
    exact: question.answers.some((answer) => text === plain(answer)),
  };
}

const completionSchema = z.object({
  choices: z.array(z.object({ message: z.object({ content: z.string() }) })).min(1),
});
const errorSchema = z.object({ error: z.object({ message: z.string() }) });

function imagePart(file: string) {
  let data: string;
  try {
    data = readFileSync(file).toString('base64');
  } catch (error) {
    throw new UsageError(`cannot read ${file}: ${(error as NodeJS.ErrnoException).code}`);
  }
  return { type: 'image_url', image_url: { url: `data:${mediaTypes[extname(file).toLowerCase()]};base64,${data}` } };
}

async function ask(url: string, question: Question): Promise<string> {
  const content = [...question.images.map(imagePart), { type: 'text', text: question.question }];
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      model: 'default',
      messages: [{ role: 'user', content }],
      temperature: 0,
      max_completion_tokens: answerTokensMax,
    }),
  });
  const body: unknown = await response.json();
  if (response.ok) return completionSchema.parse(body).choices[0]!.message.content;
  const refused = errorSchema.safeParse(body);
  throw new UsageError(`question ${question.id}: ${refused.success ? refused.data.error.message : response.status}`);
}

export interface VqaScore {
  asked: number;
  right: number;
  exact: number;
  replies: { id: string; reply: string; right: boolean; exact: boolean }[];
}

/** Asks everything of the server at `url`, greedily, and judges the replies. */
export async function scoreVqa(
  url: string,
  questions: Question[],
  progress: (done: number) => void = () => {},
): Promise<VqaScore> {
  const replies: VqaScore['replies'] = [];
  let next = 0;
  let done = 0;
  const worker = async () => {
    for (let at = next++; at < questions.length; at = next++) {
      const question = questions[at]!;
      const reply = await ask(url, question);
      replies[at] = { id: question.id, reply, ...judge(question, reply) };
      progress(++done);
    }
  };
  await Promise.all(Array.from({ length: askedAtOnce }, worker));
  const count = (key: 'right' | 'exact') => replies.filter((reply) => reply[key]).length;
  return { asked: questions.length, right: count('right'), exact: count('exact'), replies };
}

/** Serves a model on a free port of this machine alone, while `use` runs. */
export async function withServer<T>(argv: string[], use: (url: string) => Promise<T>): Promise<T> {
  const { serve } = await import('../main.ts');
  let stop = (_reason: string) => {};
  const stopped = new Promise<string>((resolved) => {
    stop = resolved;
  });
  let found = (_url: string) => {};
  const ready = new Promise<string>((resolved) => {
    found = resolved;
  });
  let log = '';
  const out = new Writable({
    write(chunk, _encoding, written) {
      log += chunk;
      const url = log.match(/serves .* on (http:\/\/\S+?)[\s"]/)?.[1];
      if (url) found(url);
      written();
    },
  });
  const library = process.env.HEARTH_ENGINE_LIBRARY;
  const own = ['--host', '127.0.0.1', '--port', '0', '--log-format', 'json'];
  const args = [...own, ...(library ? ['--engine-library', library] : []), ...argv];
  const served = serve({ argv: args, env: {}, out, stop: stopped });
  try {
    // A server that cannot start rejects; one that starts goes on until it is stopped.
    const url = await Promise.race([ready, served.then(() => Promise.reject(new Error('the server ended')))]);
    return await use(url);
  } finally {
    stop('done');
    await served.catch(() => {});
  }
}
