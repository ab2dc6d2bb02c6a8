import supertest from 'supertest';
import { afterEach, describe, expect, it } from 'vitest';
import { chatBody, dataLines, type TestApp, testApp } from '../support/app.ts';

let current: TestApp;
afterEach(() => current.close());

describe('POST /v1/chat/completions', () => {
  it('answers a conversation', async () => {
    current = await testApp();
    const response = await supertest(current.app.server).post('/v1/chat/completions').send(chatBody());
    expect(response.status).toBe(200);
    expect(response.body).toMatchObject({
      object: 'chat.completion',
      model: 'tiny',
      choices: [{ index: 0, message: { role: 'assistant', content: 'Hello, world!' }, finish_reason: 'stop' }],
      usage: { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 },
    });
    expect(current.engine.requests[0]).toMatchObject({ text: '<s><|user|>Hi<|assistant|>', literal: [[11, 13]] });
  });

  it('streams it', async () => {
    current = await testApp();
    const response = await supertest(current.app.server)
      .post('/v1/chat/completions')
      .send(chatBody({ stream: true }));
    const events = dataLines(response.text);
    expect(events.at(-1)).toBe('[DONE]');
    const text = events.slice(0, -1).map((event) => JSON.parse(event).choices[0].delta.content ?? '');
    expect(text.join('')).toBe('Hello, world!');
  });
});
