// The questions' file, the rule by which replies are judged, and the asking, against a scripted server.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { judge, type Question, readQuestions, scoreVqa } from '../../server/cli/vqa.ts';

let folder = '';
const file = (lines: string) => {
  const path = join(folder, 'questions.jsonl');
  writeFileSync(path, lines);
  return path;
};

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'hearth-vqa-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const question = (change: Partial<Question> = {}): Question => ({
  id: '1',
  images: [],
  question: 'How many circles?',
  answers: ['three', '3'],
  rejected: [],
  ...change,
});

describe('the file of questions', () => {
  it('names pictures beside it, and numbers what has no id', () => {
    const path = file(
      '{"image":"a.PNG","question":"q","answers":["x"]}\n\n{"id":7,"images":["b.jpg","c/d.webp"],"question":"r","answers":["y","z"],"rejected":["n"]}\n',
    );
    expect(readQuestions(path)).toEqual([
      { id: '1', images: [join(folder, 'a.PNG')], question: 'q', answers: ['x'], rejected: [] },
      {
        id: '7',
        images: [join(folder, 'b.jpg'), join(folder, 'c/d.webp')],
        question: 'r',
        answers: ['y', 'z'],
        rejected: ['n'],
      },
    ]);
  });

  it.each([
    ['{"question":"q"}', /questions\.jsonl:1: answers/],
    ['{"question":"q","answers":["a"]}\n{"question":"","answers":["a"]}', /:2: question/],
    ['{"question":"q","answers":[]}', /answers/],
    ['{"question":"q","answers":["a"],"picture":"x.png"}', /picture/],
    ['{"question":"q","answers":["a"],"image":"a.png","images":["b.png"]}', /not both/],
    ['{"question":"q","answers":["a"],"image":"a.bmp"}', /a\.bmp is none of/],
    ['not json', /:1: not a JSON object/],
    ['\n', /holds no questions/],
  ])('refuses %s', (lines, message) => {
    expect(() => readQuestions(file(lines))).toThrow(message);
  });

  it('says which file it cannot read', () => {
    expect(() => readQuestions('/nonexistent.jsonl')).toThrow(/\/nonexistent\.jsonl: ENOENT/);
  });
});

describe('judging a reply', () => {
  it.each([
    ['There are three circles.', true, false],
    ['Three!', true, true],
    ['3', true, true],
    ['thirty-three thousand', true, false],
    ['threefold', false, false],
    ['two', false, false],
    ['', false, false],
  ])('%s', (reply, right, exact) => {
    expect(judge(question(), reply)).toEqual({ right, exact });
  });

  it('is wrong when a rejected answer occurs too', () => {
    expect(judge(question({ rejected: ['two'] }), 'two or three').right).toBe(false);
  });

  it('keeps letters of every script', () => {
    expect(judge(question({ answers: ['Straße'] }), 'Die STRASSE? Die Straße.').right).toBe(true);
    expect(judge(question({ answers: ['三'] }), '三。').exact).toBe(true);
  });
});

describe('asking', () => {
  let server: Server;
  let url = '';
  const bodies: Array<{ messages: Array<{ content: unknown[] }>; temperature: number }> = [];
  beforeAll(async () => {
    server = createServer((request, response) => {
      let text = '';
      request.on('data', (chunk) => {
        text += chunk;
      });
      request.on('end', () => {
        const body = JSON.parse(text);
        bodies.push(body);
        const asked = body.messages[0].content.at(-1).text as string;
        response.setHeader('content-type', 'application/json');
        if (asked === 'bad') response.writeHead(400).end('{"error":{"message":"no pictures here"}}');
        else response.end(JSON.stringify({ choices: [{ message: { content: `it is ${asked}` } }] }));
      });
    }).listen(0, '127.0.0.1');
    await new Promise((resolve) => server.once('listening', resolve));
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  afterAll(() => void server.close());

  it('counts, in the order of the file, and sends the pictures', async () => {
    const picture = join(folder, 'a.png');
    writeFileSync(picture, 'PNG');
    const questions = Array.from({ length: 9 }, (_, i) =>
      question({ id: String(i), images: [picture], question: String(i), answers: [i < 6 ? String(i) : 'none'] }),
    );
    const done: number[] = [];
    const score = await scoreVqa(url, questions, (count) => done.push(count));
    expect(score).toMatchObject({ asked: 9, right: 6, exact: 0 });
    expect(score.replies.map(({ id }) => id)).toEqual(questions.map(({ id }) => id));
    expect(done.at(-1)).toBe(9);
    expect(bodies[0]!.messages[0]!.content[0]).toEqual({
      type: 'image_url',
      image_url: { url: `data:image/png;base64,${Buffer.from('PNG').toString('base64')}` },
    });
    expect(bodies[0]!.temperature).toBe(0);
  });

  it('ends with what the server refused', async () => {
    await expect(scoreVqa(url, [question({ question: 'bad' })])).rejects.toThrow('question 1: no pictures here');
  });

  it('says which picture it cannot read', async () => {
    await expect(scoreVqa(url, [question({ images: ['/nonexistent.png'] })])).rejects.toThrow(
      '/nonexistent.png: ENOENT',
    );
  });
});
