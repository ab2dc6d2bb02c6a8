// npm run look: pictures of the page in both themes and both widths, for people to look at: the built engine, the model
// that ships, its own example pictures. Writes docs/screenshots/ (or the folder given).

import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { Page } from 'playwright-core';
import { startRealServer } from '../support/real-server.ts';
import { desktop, openBrowser, phone } from './harness.ts';

const folder = process.argv[2] ?? fileURLToPath(new URL('../../docs/screenshots', import.meta.url));
mkdirSync(folder, { recursive: true });
const example = (name: string) => fileURLToPath(new URL(`../fixtures/default-model/examples/${name}`, import.meta.url));

async function addPictures(page: Page, ...names: string[]): Promise<void> {
  const chooser = page.waitForEvent('filechooser');
  await page.getByRole('button', { name: 'Add pictures' }).click();
  await (await chooser).setFiles(names.map(example));
  await page.waitForFunction((count) => document.querySelectorAll('.previews img').length === count, names.length);
}

async function ask(page: Page, text: string): Promise<void> {
  const before = await page.locator('.stats').count();
  await page.getByLabel('Message', { exact: true }).fill(text);
  await page.getByRole('button', { name: 'Send', exact: true }).click();
  await page.waitForFunction((count) => document.querySelectorAll('.stats').length > count, before);
}

/** A conversation in which everything that the model says is right; temperature 0 keeps it so. */
async function converse(page: Page): Promise<void> {
  await addPictures(page, 'three-circles.png', 'no-square.png');
  await ask(page, 'What is different between these pictures?');
  await ask(page, 'Which picture has more shapes?');
}

async function coldSampling(page: Page): Promise<void> {
  await page.getByRole('button', { name: 'Settings' }).click();
  await page.getByLabel('Temperature').fill('0');
  await page.getByRole('button', { name: 'Done' }).click();
}

/** Requests as several people send them, so that the charts have something to show. */
async function traffic(url: string, seconds: number): Promise<void> {
  const end = performance.now() + seconds * 1000;
  const person = async (index: number) => {
    for (let turn = 0; performance.now() < end; turn++) {
      const content = `Tell me a story about a ${['cat', 'dog', 'bird', 'boat'][(index + turn) % 4]}.`;
      const body = JSON.stringify({ messages: [{ role: 'user', content }], max_tokens: 200, ignore_eos: true });
      const headers = { 'content-type': 'application/json' };
      await (await fetch(`${url}/v1/chat/completions`, { method: 'POST', headers, body })).text();
      await new Promise((resolve) => setTimeout(resolve, 300 + ((index * 977 + turn * 431) % 2500)));
    }
  };
  await Promise.all(Array.from({ length: 12 }, (_, index) => person(index)));
}

for (const theme of ['light', 'dark'] as const) {
  for (const [name, size] of [
    ['desktop', desktop],
    ['phone', phone],
  ] as const) {
    const server = await startRealServer();
    const { page, complaints, close } = await openBrowser(server.url, '/', { theme, size });
    await page.waitForTimeout(300);
    await page.screenshot({ path: `${folder}/start-${name}-${theme}.png` });
    await coldSampling(page);
    await converse(page);
    await page.waitForTimeout(500);
    await page.screenshot({ path: `${folder}/chat-${name}-${theme}.png` });
    if (name === 'desktop') {
      await page.getByRole('button', { name: 'Status' }).click();
      const others = traffic(server.url, 32);
      await page.waitForTimeout(30_000);
      await page.screenshot({ path: `${folder}/status-${theme}.png` });
      await others;
    }
    for (const complaint of complaints) console.error(`${name}, ${theme}: ${complaint}`);
    await close();
    await server.stop();
  }
}
