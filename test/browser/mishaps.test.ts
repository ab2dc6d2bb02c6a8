// The page when something does not go well: pictures that take long, storage that is full, a server that is slow or gone.

import { fileURLToPath } from 'node:url';
import type { Page } from 'playwright-core';
import sharp from 'sharp';
import { afterEach, describe, expect, it } from 'vitest';
import { type Visit, type VisitOptions, visit } from './harness.ts';

const fixture = (name: string) => fileURLToPath(new URL(`../fixtures/images/${name}`, import.meta.url));
const vision = { vision: { family: 'llava', placeholder: '<image>', tokensPerImage: 100 } };

let current: Visit;
afterEach(() => current.close());
async function start(options: VisitOptions = {}): Promise<Page> {
  current = await visit({ models: [vision], reply: () => ({ tokens: ['Hello'] }), ...options });
  return current.page;
}

type FileLike = string | { name: string; mimeType: string; buffer: Buffer };
async function choose(page: Page, button: ReturnType<Page['locator']>, files: FileLike | string[]): Promise<void> {
  const chooser = page.waitForEvent('filechooser');
  await button.click();
  await (await chooser).setFiles(files as string);
}
const addButton = (page: Page) => page.getByRole('button', { name: 'Add pictures' });
const message = (page: Page) => page.getByLabel('Message', { exact: true });
const sendButton = (page: Page) => page.getByRole('button', { name: 'Send', exact: true });
const answers = (page: Page, count: number) =>
  expect.poll(() => page.getByRole('button', { name: 'Try again' }).count()).toBe(count);
async function ask(page: Page, text: string): Promise<void> {
  const before = await page.getByRole('button', { name: 'Try again' }).count();
  await message(page).fill(text);
  await sendButton(page).click();
  await answers(page, before + 1);
}

describe('pictures', () => {
  it('that are still being read hold the message back', async () => {
    const page = await start();
    await page.evaluate(() => {
      const read = window.createImageBitmap.bind(window) as (source: Blob) => Promise<ImageBitmap>;
      const held = new Promise<void>((resolve) => Object.assign(window, { goOn: resolve }));
      window.createImageBitmap = (async (source: Blob) => {
        await held;
        return read(source);
      }) as typeof window.createImageBitmap;
    });
    await choose(page, addButton(page), fixture('pillow-hopper.jpg'));
    await message(page).fill('What is this?');
    await page.getByText('Reading pictures…').waitFor();
    await page.keyboard.press('Enter');
    expect(await sendButton(page).isDisabled()).toBe(true);
    await page.evaluate(() => (window as unknown as { goOn(): void }).goOn());
    await page.locator('.previews img').waitFor();
    await sendButton(page).click();
    await answers(page, 1);
    expect(current.server.engine.requests.map(({ images }) => images?.length)).toEqual([1]);
  });

  it('that are scaled down are white where they were transparent', async () => {
    const page = await start();
    const clear = { r: 0, g: 0, b: 0, alpha: 0 };
    const buffer = await sharp({ create: { width: 2400, height: 40, channels: 4, background: clear } })
      .webp()
      .toBuffer();
    await choose(page, addButton(page), { name: 'clear.webp', mimeType: 'image/webp', buffer });
    await page.locator('.previews img').waitFor();
    await ask(page, 'What is this?');
    const { width, pixels } = current.server.engine.requests[0]!.images![0]!;
    expect([width, Math.min(...pixels.subarray(0, 3000))]).toEqual([2048, 255]);
  });

  it('and answers of a pattern stay in their order when the message is edited', async () => {
    const page = await start();
    await page.getByRole('button', { name: /By example/ }).click();
    for (const [at, name] of ['pillow-hopper.jpg', 'pillow-flower.jpg', 'skimage-chelsea.png'].entries()) {
      await choose(page, page.locator('.slot').nth(at), fixture(name));
      await expect.poll(() => page.locator('.slot img').count()).toBe(at + 1);
    }
    await page.getByLabel('Answer for example 1').fill('person');
    await page.getByLabel('Answer for example 2').fill('flower');
    await page.getByRole('button', { name: 'Ask', exact: true }).click();
    await answers(page, 1);
    await page.locator('.message.user').hover();
    await page.getByRole('button', { name: 'Edit and branch' }).click();
    expect(await page.locator('.editor .thumbnail').count()).toBe(3);
    await page.getByLabel('Edit your message, part 2 of 2').fill('plant');
    await page.getByRole('button', { name: 'Send as a new branch' }).click();
    await expect.poll(() => current.server.engine.requests.length).toBe(2);
    await answers(page, 1);
    const [first, second] = current.server.engine.requests;
    expect(second!.text).toBe(first!.text.replace('flower', 'plant'));
    expect(second!.images!.map(({ width }) => width)).toEqual(first!.images!.map(({ width }) => width));
  });
});

describe('answers and conversations', () => {
  it('an answer without a word is said to be one', async () => {
    const page = await start({ reply: () => ({ tokens: [] }) });
    await ask(page, 'Hi');
    await page.getByText('The model ended its answer without a word.').waitFor();
  });

  it('a browser that keeps nothing is said to be one', async () => {
    const page = await start();
    await page.evaluate(() => {
      IDBObjectStore.prototype.put = () => {
        throw new DOMException('full', 'QuotaExceededError');
      };
    });
    await ask(page, 'Hi');
    await page.getByRole('alert').getByText('does not keep conversations').waitFor();
  });

  it('the title of the tab is what is talked about', async () => {
    const page = await start();
    await ask(page, 'About ships');
    await expect.poll(() => page.title()).toBe('About ships · Hearth');
    await page.getByRole('button', { name: 'New conversation' }).click();
    await expect.poll(() => page.title()).toBe('Hearth');
  });
});

describe('a server', () => {
  it('that goes away while one talks is waited for, and its return is seen', async () => {
    const page = await start();
    await ask(page, 'Hi');
    await page.route('**/v1/**', (route) => route.abort('connectionrefused'));
    await ask(page, 'Still there?');
    const notice = page.locator('.connection');
    await notice.getByText('goes on by itself').waitFor();
    await page.unroute('**/v1/**');
    await notice.waitFor({ state: 'detached' });
    await page.getByRole('button', { name: 'Try again' }).last().click();
    await expect.poll(() => page.locator('.answer', { hasText: 'Hello' }).count()).toBe(2);
  });

  it('that is slow gets one question for its figures at a time', async () => {
    const page = await start();
    let asked = 0;
    await page.route('**/metrics', () => {
      asked++;
    });
    await page.getByRole('button', { name: 'Status' }).click();
    await page.waitForTimeout(2600);
    expect(asked).toBe(1);
    await page.unroute('**/metrics');
  });
});
