// CPU the server spends on one streamed token: a scripted Engine in this process, clients in another.
//   npx tsx test/bench/sse-overhead.ts [--json] [streams,streams,...] [tokens a stream]
// The engine steps as a real one does: one token for every stream, then the event loop turns.

import { fork } from 'node:child_process';
import { connect } from 'node:net';
import { EventStream } from '../../server/engine/event-stream.ts';
import type { EngineRequest, EngineStream, RequestUsage } from '../../server/engine/port.ts';
import { testApp } from '../support/app.ts';
import { ScriptedEngine } from '../support/scripted-engine.ts';

const usage: RequestUsage = {
  promptTokens: 3,
  cachedTokens: 0,
  imageTokens: 0,
  completionTokens: 0,
  queueMs: 0,
  prefillMs: 0,
  decodeMs: 0,
  draftTokens: 0,
  draftAccepted: 0,
  predictedTokens: 0,
  predictedAccepted: 0,
};

/** Holds requests until `count` have come, then gives each a token a step. */
class SteppingEngine extends ScriptedEngine {
  readonly waiting: EventStream[] = [];

  override submit(request: EngineRequest): Promise<EngineStream> {
    const stream = new EventStream(() => {});
    stream.push({ type: 'accepted', promptTokens: 3 });
    this.waiting.push(stream);
    void request;
    return Promise.resolve(stream);
  }

  async run(tokens: number): Promise<void> {
    for (let step = 0; step < tokens; step++) {
      for (const stream of this.waiting) stream.push({ type: 'token', token: step, text: ' token', special: false });
      await new Promise((resolve) => setImmediate(resolve));
    }
    for (const stream of this.waiting) stream.push({ type: 'finished', reason: 'stop', text: '', stop: null, usage });
    this.waiting.length = 0;
  }
}

/** In the child: opens the streams, reads them to their end, and says how many events came. */
function readAll(port: number, streams: number): Promise<number> {
  const body = JSON.stringify({ messages: [{ role: 'user', content: 'Hi' }], stream: true });
  const head =
    'POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n' +
    `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
  const one = () =>
    new Promise<number>((resolve, reject) => {
      const socket = connect(port, '127.0.0.1', () => socket.write(head));
      let events = 0;
      let rest = '';
      socket.on('data', (data) => {
        const text = rest + data.toString('latin1');
        events += text.split('data: ').length - 1;
        rest = text.slice(-5).includes('data:') ? '' : text.slice(-5);
      });
      socket.on('end', () => resolve(events));
      socket.on('error', reject);
    });
  return Promise.all(Array.from({ length: streams }, one)).then((counts) => counts.reduce((a, b) => a + b, 0));
}

async function measure(streams: number, tokens: number) {
  const engine = new SteppingEngine({ models: [{ maxSequences: streams }] });
  const app = await testApp({ listen: true, watch: false });
  app.lifecycle.ready(engine, 'tiny');
  const child = fork(new URL(import.meta.url).pathname, ['child', new URL(app.url).port, String(streams)]);
  const received = new Promise<number>((resolve) => child.once('message', (count) => resolve(count as number)));
  while (engine.waiting.length < streams) await new Promise((resolve) => setTimeout(resolve, 5));
  await new Promise((resolve) => setTimeout(resolve, 100));
  const begin = performance.now();
  const cpu = process.cpuUsage();
  await engine.run(tokens);
  const events = await received;
  const used = process.cpuUsage(cpu);
  const seconds = (performance.now() - begin) / 1000;
  await app.close();
  const total = streams * tokens;
  return {
    streams,
    tokens: total,
    events,
    us_cpu_per_token: +((used.user + used.system) / total).toFixed(1),
    tokens_per_second: Math.round(total / seconds),
  };
}

if (process.argv[2] === 'child') {
  const events = await readAll(Number(process.argv[3]), Number(process.argv[4]));
  process.send!(events);
} else {
  const args = process.argv.slice(2).filter((argument) => argument !== '--json');
  const json = process.argv.includes('--json');
  const sizes = (args[0] ?? '64,256').split(',').map(Number);
  await measure(sizes[0]!, 200); // Warm: the just-in-time compiler's work is not the server's.
  for (const streams of sizes) {
    const result = await measure(streams, Number(args[1] ?? 500));
    console.log(
      json
        ? JSON.stringify(result)
        : `${streams} streams: ${result.us_cpu_per_token} µs CPU a token, ${result.tokens_per_second} tokens/s`,
    );
  }
}
