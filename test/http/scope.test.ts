// A request's scope ends with its client, whatever became of the answer.

import { connect } from 'node:net';
import { expect, it } from 'vitest';
import { EngineError } from '../../server/engine/port.ts';
import { until } from '../contract/support.ts';
import { chatBody, testApp } from '../support/app.ts';

function rawPost(url: string, body: object): string {
  const text = JSON.stringify(body);
  const head = ['POST /v1/chat/completions HTTP/1.1', `Host: ${new URL(url).host}`, 'Content-Type: application/json'];
  return `${[...head, `Content-Length: ${Buffer.byteLength(text)}`].join('\r\n')}\r\n\r\n${text}`;
}

it('a client that leaves takes along the requests it had sent behind the one being answered', async () => {
  const test = await testApp({
    listen: true,
    watch: false,
    reply: () => ({ tokens: Array(5000).fill('x'), everyMs: 5 }),
  });
  const socket = connect(Number(new URL(test.url).port), '127.0.0.1');
  socket.on('error', () => {});
  for (let count = 0; count < 3; count++) socket.write(rawPost(test.url, chatBody()));
  await until(() => test.lifecycle.active === 3);
  socket.destroy();
  await until(() => test.lifecycle.active === 0);
  expect(test.lifecycle.models().statusOf(undefined).inUse).toBe(0);
  await test.close();
});

it('what is left of an answer that failed is not generated to its end', async () => {
  const test = await testApp({
    listen: true,
    watch: false,
    reply: (_, index) =>
      index === 0
        ? { tokens: ['x'], fail: new EngineError('unsupported', 'the vocabulary cannot spell it') }
        : { tokens: Array(5000).fill('x'), everyMs: 5 },
  });
  const answer = await fetch(`${test.url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(chatBody({ n: 2 })),
  });
  expect(answer.ok).toBe(false);
  await answer.text();
  await until(() => test.engine.cancelled === 1);
  await until(() => test.lifecycle.active === 0);
  await test.close();
});
