// What photographs of 12 megapixels cost the server: decoding in the worker, and the event loop's delay while 50 of them
// arrive in JSON bodies. The engine is scripted; clients are another process.
//   npx tsx test/bench/photographs.ts [--json] [photographs] [at a time]

import { fork } from 'node:child_process';
import { request as httpRequest } from 'node:http';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import sharp from 'sharp';
import { ImageDecoder } from '../../server/images/decoder.ts';
import { testApp } from '../support/app.ts';

const fixture = new URL('../fixtures/images/exif-Landscape_1.jpg', import.meta.url).pathname;
const megapixels = { width: 4000, height: 3000 };

/** A photograph enlarged, with a sensor's grain: a file as large as a telephone's. */
async function photograph(): Promise<Buffer> {
  const { width, height } = megapixels;
  const raw = await sharp(fixture).resize(width, height, { fit: 'fill' }).raw().toBuffer();
  let state = 1;
  for (let at = 0; at < raw.length; at++) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff;
    raw[at] = Math.max(0, Math.min(255, raw[at]! + ((state >> 16) % 31) - 15));
  }
  return sharp(raw, { raw: { width, height, channels: 3 } })
    .jpeg({ quality: 92 })
    .toBuffer();
}

const bodyOf = (photo: Buffer) =>
  JSON.stringify({
    messages: [
      {
        role: 'user',
        content: [
          { type: 'text', text: 'What is this?' },
          { type: 'image_url', image_url: { url: `data:image/jpeg;base64,${photo.toString('base64')}` } },
        ],
      },
    ],
  });

/** In the other process: posts the body `count` times, `together` at a time. */
async function client(url: string, body: Buffer, count: number, together: number): Promise<void> {
  let left = count;
  const one = () =>
    new Promise<void>((resolve, reject) => {
      const headers = { 'content-type': 'application/json', 'content-length': body.length };
      const sent = httpRequest(`${url}/v1/chat/completions`, { method: 'POST', headers }, (response) => {
        response
          .resume()
          .on('end', () =>
            response.statusCode === 200 ? resolve() : reject(new Error(`status ${response.statusCode}`)),
          );
      });
      sent.on('error', reject).end(body);
    });
  await Promise.all(
    Array.from({ length: together }, async () => {
      while (left-- > 0) await one();
    }),
  );
}

async function decodeMilliseconds(photo: Buffer): Promise<{ ms: number; cpuMs: number }> {
  const decoder = new ImageDecoder({ bytesMax: 2 ** 26, pixelsMax: 2 ** 26, urlHosts: [] });
  const source = { head: 'data:image/jpeg;base64', base64: Buffer.from(photo.toString('base64')) };
  const all: { ms: number; cpuMs: number }[] = [];
  for (let round = 0; round < 8; round++) {
    const cpu = process.cpuUsage();
    const begin = performance.now();
    const image = await decoder.load(source, 'auto');
    const { user, system } = process.cpuUsage(cpu);
    all.push({ ms: performance.now() - begin, cpuMs: (user + system) / 1000 });
    image.release?.(); // as the engine does
  }
  await decoder.close();
  all.sort((a, b) => a.ms - b.ms);
  return all[all.length >> 1]!;
}

async function main(): Promise<void> {
  const options = process.argv.slice(2).filter((option) => option !== '--json');
  const [count = 50, together = 8] = options.map(Number);
  const photo = await photograph();
  const body = Buffer.from(bodyOf(photo));
  const decode = await decodeMilliseconds(photo);
  const vision = { family: 'test', placeholder: '<image>', tokensPerImage: 4 };
  const { url, close } = await testApp({ listen: true, models: [{ vision }] });
  await client(url, body, 2, 2); // the worker starts, code is compiled
  const child = fork(new URL(import.meta.url).pathname, ['--client'], {
    execArgv: process.execArgv,
    serialization: 'advanced',
  });
  await new Promise((resolve) => child.once('message', resolve));
  // On a busy machine: give this process's first thread the processor now (chrt -f -p 10 PID) to see its own delays only.
  console.error(`measuring ${process.pid}`);
  await new Promise((resolve) => setTimeout(resolve, 500));
  const delay = monitorEventLoopDelay({ resolution: 1 });
  const cpu = process.cpuUsage();
  const loop = performance.eventLoopUtilization();
  const begin = performance.now();
  delay.enable();
  child.send({ url, body, count, together });
  const failed = await new Promise((resolve) => child.once('message', resolve));
  delay.disable();
  const seconds = (performance.now() - begin) / 1000;
  const used = process.cpuUsage(cpu);
  if (failed) throw new Error(String(failed));
  const ms = (nanoseconds: number) => Number((nanoseconds / 1e6).toFixed(1));
  const result = {
    photographBytes: photo.length,
    decodeMs: Number(decode.ms.toFixed(1)),
    decodeCpuMs: Number(decode.cpuMs.toFixed(1)),
    photographs: count,
    together,
    seconds: Number(seconds.toFixed(2)),
    cpuSecondsEach: Number(((used.user + used.system) / 1e6 / count).toFixed(3)),
    loopUtilization: Number(performance.eventLoopUtilization(loop).utilization.toFixed(3)),
    loopDelayMs: { p50: ms(delay.percentile(50)), p99: ms(delay.percentile(99)), max: ms(delay.max) },
  };
  console.log(process.argv.includes('--json') ? JSON.stringify(result) : result);
  child.disconnect();
  await close();
}

if (process.argv.includes('--client')) {
  process.on(
    'message',
    async ({ url, body, count, together }: { url: string; body: Uint8Array; count: number; together: number }) => {
      const error = await client(url, Buffer.from(body), count, together).then(() => null, String);
      process.send!(error);
    },
  );
  process.send!('ready');
} else {
  await main();
}
