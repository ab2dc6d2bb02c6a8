// What the soak asks: requests whose answer is known from having been asked alone, and bad ones whose error is known.

import { readdirSync, readFileSync } from 'node:fs';

const pictures = new URL('../fixtures/default-model/images/', import.meta.url);
const subjects = [
  'a dog',
  'a red ball',
  'the rain',
  'a small boat',
  'two friends',
  'a cat that sings',
  'the moon',
  'a cake',
];
const openings = ['Tell me about', 'Once upon a time there was', 'What do you know of'];

export interface Question {
  kind: 'greedy' | 'seeded' | 'image';
  body: Record<string, unknown>;
  /** The answer that it got alone. */
  alone: string;
}

const user = (content: unknown) => [{ role: 'user', content }];

export function makeQuestions(): Question[] {
  const texts = openings.flatMap((opening) => subjects.map((subject) => `${opening} ${subject}.`));
  const greedy = texts.map((text, at) => ({
    kind: 'greedy' as const,
    body: { messages: user(text), temperature: 0, max_tokens: 8 + ((at * 7) % 57) },
  }));
  const seeded = texts.slice(0, 12).map((text, at) => ({
    kind: 'seeded' as const,
    body: { messages: user(text), temperature: 1, seed: 1000 + at, max_tokens: 40 },
  }));
  const image = readdirSync(pictures)
    .sort()
    .slice(0, 8)
    .map((name) => {
      const type = name.endsWith('.png') ? 'png' : 'jpeg';
      const url = `data:image/${type};base64,${readFileSync(new URL(name, pictures)).toString('base64')}`;
      const content = [
        { type: 'image_url', image_url: { url } },
        { type: 'text', text: 'What is in the picture?' },
      ];
      return { kind: 'image' as const, body: { messages: user(content), temperature: 0, max_tokens: 24 } };
    });
  return [...greedy, ...seeded, ...image].map((question) => ({ ...question, alone: '' }));
}

export interface BadRequest {
  body: string;
  status: number;
  code: string | null;
}

const bad = (body: unknown, status: number, code: string | null): BadRequest => ({
  body: typeof body === 'string' ? body : JSON.stringify(body),
  status,
  code,
});

export const badRequests: readonly BadRequest[] = [
  bad('{"messages": [', 400, null),
  bad({ messages: [] }, 400, null),
  bad({ messages: user('x'), temperature: 99 }, 400, null),
  bad({ messages: user('x'), frobnicate: 1 }, 400, 'unsupported_parameter'),
  bad({ messages: user('x'), model: 'no-such-model' }, 404, 'model_not_found'),
  bad({ messages: user('word '.repeat(20_000)) }, 400, 'context_length_exceeded'),
  bad(
    { messages: user([{ type: 'image_url', image_url: { url: 'data:image/png;base64,iVBORw0KGgo=' } }]) },
    400,
    'invalid_image',
  ),
];
