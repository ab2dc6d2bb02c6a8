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

  it('hands the prediction to the engine, and says what it was worth', async () => {
    current = await testApp({ reply: () => ({ tokens: ['Hello'], predictedTokens: 7, predictedAccepted: 5 }) });
    const post = (body: Record<string, unknown>) =>
      supertest(current.app.server).post('/v1/chat/completions').send(chatBody(body));
    const parts = [
      { type: 'text', text: 'Hello' },
      { type: 'text', text: ', you' },
    ];
    const whole = await post({ prediction: { type: 'content', content: parts }, n: 2 });
    expect(whole.status).toBe(200);
    expect(current.engine.requests.map(({ prediction }) => prediction)).toEqual(['Hello, you', 'Hello, you']);
    expect(whole.body.usage.completion_tokens_details).toMatchObject({
      accepted_prediction_tokens: 10,
      rejected_prediction_tokens: 4,
    });
    const streamed = await post({
      prediction: { type: 'content', content: 'Hello' },
      stream: true,
      stream_options: { include_usage: true },
    });
    const usage = JSON.parse(dataLines(streamed.text).at(-2)!).usage;
    expect(usage.completion_tokens_details).toMatchObject({
      accepted_prediction_tokens: 5,
      rejected_prediction_tokens: 2,
    });
    await post({ prediction: null });
    expect(current.engine.requests.at(-1)).not.toHaveProperty('prediction');
    for (const prediction of ['Hello', { type: 'content' }, { type: 'other', content: 'Hello' }]) {
      const refused = await post({ prediction });
      expect(refused.status).toBe(400);
      expect(refused.body.error.param).toMatch(/^prediction/);
    }
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
