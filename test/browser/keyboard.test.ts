// The page by keyboard alone, and by ear: where the focus is after each thing a person does, and what is said aloud.

import { fileURLToPath } from 'node:url';
import type { Page } from 'playwright-core';
import { afterEach, describe, expect, it } from 'vitest';
import { phone, type Size, type Visit, type VisitOptions, visit } from './harness.ts';

const fixture = (name: string) => fileURLToPath(new URL(`../fixtures/images/${name}`, import.meta.url));
const vision = { vision: { family: 'llava', placeholder: '<image>', tokensPerImage: 100 } };
const slow = { reply: () => ({ tokens: Array.from({ length: 500 }, () => ' word'), everyMs: 20 }) };

let current: Visit;
const start = async (options: VisitOptions = {}) => {
  current = await visit({ models: [vision], reply: () => ({ tokens: ['Hello', ' **there**.'] }), ...options });
  return current.page;
};
afterEach(async () => {
  expect(current.complaints).toEqual([]);
  await current.close();
});

/** What has the focus, by the name that a screen reader says. */
const focused = (page: Page) =>
  page.evaluate(() => {
    const element = document.activeElement as HTMLInputElement | null;
    if (!element || element === document.body) return 'nothing';
    return element.labels?.[0]?.textContent || element.ariaLabel || element.textContent?.trim() || element.tagName;
  });
const press = async (page: Page, ...keys: string[]) => {
  for (const key of keys) await page.keyboard.press(key);
};
/** Tab, or Shift+Tab, until `name` has the focus. */
async function tabTo(page: Page, name: string, key = 'Tab'): Promise<void> {
  const met: string[] = [];
  for (let step = 0; step < 60; step++) {
    await page.keyboard.press(key);
    met.push(await focused(page));
    if (met.at(-1)?.startsWith(name)) return;
  }
  throw new Error(`${key} never came to '${name}': ${met.join(', ')}`);
}
const say = async (page: Page, text: string) => {
  await page.keyboard.type(text);
  await press(page, 'Enter');
};
const answers = (page: Page, count: number) =>
  page.waitForFunction((wanted) => document.querySelectorAll('.stats').length === wanted, count);

describe('the focus', () => {
  it('is on the message at first, and stays there while one writes, sends and stops', async () => {
    const page = await start(slow);
    expect(await focused(page)).toBe('Message');
    await say(page, 'Go on');
    await page.locator('.answer p').first().waitFor();
    expect(await focused(page)).toBe('Message');
    await press(page, 'Escape');
    await page.locator('.ending').getByText('Stopped.').waitFor();
    expect(await focused(page)).toBe('Message');
  });

  it('goes back to what opened a dialog, however it is closed', async () => {
    const page = await start();
    await tabTo(page, 'Settings', 'Shift+Tab');
    await press(page, 'Enter');
    await tabTo(page, 'Done');
    await press(page, 'Enter');
    expect(await focused(page)).toBe('Settings');
    await press(page, 'Enter');
    await page.getByRole('dialog').waitFor();
    await press(page, 'Escape');
    await expect.poll(() => focused(page)).toBe('Settings');
    expect(await page.getByRole('dialog').count()).toBe(0);
  });

  it('goes into the status and comes back', async () => {
    const page = await start();
    await tabTo(page, 'Status', 'Shift+Tab');
    await press(page, 'Enter');
    await tabTo(page, 'Close');
    await press(page, 'Escape');
    await expect.poll(() => focused(page)).toBe('Status');
    expect(await page.locator('.status').count()).toBe(0);
  });

  it('moves on to the next picture, then to the message, when a picture is removed', async () => {
    const page = await start();
    await page
      .locator('input[type=file]')
      .first()
      .setInputFiles(['pillow-hopper.jpg', 'pillow-flower.jpg'].map(fixture));
    await page.waitForFunction(() => document.querySelectorAll('.previews img').length === 2);
    await tabTo(page, 'Remove pillow-hopper.jpg', 'Shift+Tab');
    await press(page, 'Enter');
    await expect.poll(() => focused(page)).toBe('Remove pillow-flower.jpg');
    await press(page, 'Enter');
    await expect.poll(() => focused(page)).toBe('Message');
  });

  it('stays with the versions that one walks through, and is never lost by trying again or editing', async () => {
    let count = 0;
    const page = await start({ reply: () => ({ tokens: [`answer ${++count}`] }) });
    await say(page, 'First');
    await answers(page, 1);
    for (let version = 2; version <= 3; version++) {
      await tabTo(page, 'Try again', 'Shift+Tab');
      await press(page, 'Enter');
      await page.locator('.answer').getByText(`answer ${version}`).waitFor();
      await answers(page, 1);
      expect(await focused(page)).toBe('Message');
    }
    await tabTo(page, 'Previous version', 'Shift+Tab');
    await press(page, 'Enter');
    await page.locator('.answer').getByText('answer 2').waitFor();
    await expect.poll(() => focused(page)).toBe('Previous version');
    await press(page, 'Enter');
    await page.locator('.answer').getByText('answer 1').waitFor();
    await expect.poll(() => focused(page)).toBe('Next version');
    await tabTo(page, 'Edit and branch', 'Shift+Tab');
    await press(page, 'Enter');
    await expect.poll(() => focused(page)).toBe('Edit your message');
    await press(page, 'Escape');
    await expect.poll(() => focused(page)).toBe('Edit and branch');
  });

  it('opens, renames and deletes conversations', async () => {
    const page = await start();
    await say(page, 'One');
    await answers(page, 1);
    await tabTo(page, 'New conversation', 'Shift+Tab');
    await press(page, 'Enter');
    await expect.poll(() => focused(page)).toBe('Message');
    await tabTo(page, 'One', 'Shift+Tab');
    await press(page, 'Enter');
    await answers(page, 1);
    expect(await focused(page)).toBe('One');
    await tabTo(page, 'Rename');
    await press(page, 'Enter');
    await page.keyboard.type('Two');
    await press(page, 'Escape');
    await expect.poll(() => focused(page)).toBe('Rename');
    expect(await page.locator('.entry').textContent()).toBe('One');
    await press(page, 'Enter');
    await page.keyboard.type('Three');
    await press(page, 'Enter');
    await expect.poll(() => focused(page)).toBe('Rename');
    expect(await page.locator('.entry').textContent()).toBe('Three');
    page.on('dialog', (dialog) => dialog.accept());
    await tabTo(page, 'Delete');
    await press(page, 'Enter');
    await expect.poll(() => focused(page)).toBe('Message');
    expect(await page.locator('.entry').count()).toBe(0);
  });

  it('opens and closes the list of conversations on a narrow page', async () => {
    const size: Size = { width: 640, height: 400 };
    const page = await start({ size });
    await tabTo(page, 'Conversations', 'Shift+Tab');
    await press(page, 'Enter');
    await expect.poll(() => focused(page)).toBe('New conversation');
    await press(page, 'Escape');
    await expect.poll(() => focused(page)).toBe('Conversations');
    await page.getByRole('navigation').waitFor({ state: 'hidden' });
  });

  it('can leave an editor and a title while an answer streams, and what was typed there stays', async () => {
    let count = 0;
    const page = await start({ reply: () => (count++ ? slow.reply() : { tokens: ['Hello'] }) });
    await say(page, 'First');
    await answers(page, 1);
    await tabTo(page, 'Edit and branch', 'Shift+Tab');
    await press(page, 'Enter');
    await page.getByLabel('Message', { exact: true }).focus();
    await say(page, 'Second');
    await page.locator('.answer').last().getByText('word word').waitFor();
    expect(await focused(page)).toBe('Message');
    await page.getByRole('button', { name: 'Rename' }).focus();
    await press(page, 'Enter');
    await page.keyboard.type('A title typed while words arrive', { delay: 30 });
    expect(await page.getByLabel('Title').inputValue()).toBe('A title typed while words arrive');
  });
});

describe('what is said aloud', () => {
  const spoken = (page: Page) =>
    page.evaluate(() => {
      const said: string[] = [];
      (window as unknown as { said: string[] }).said = said;
      const region = document.querySelector('[data-announcer]')!;
      new MutationObserver(() => region.textContent && said.push(region.textContent)).observe(region, {
        childList: true,
        characterData: true,
        subtree: true,
      });
    });
  const said = (page: Page) => page.evaluate(() => (window as unknown as { said: string[] }).said);

  it('is an answer, once, without its marks; and not an old one that is looked at again', async () => {
    const page = await start({ reply: () => ({ tokens: ['Hello', ' **there**.', '\n\nBye.'], everyMs: 30 }) });
    await spoken(page);
    await say(page, 'Hi');
    await answers(page, 1);
    await expect.poll(() => said(page)).toEqual(['The answer is being written.', 'Hello there.\nBye.']);
    await page.getByRole('button', { name: 'New conversation' }).click();
    await page.getByRole('button', { name: 'Hi' }).click();
    await answers(page, 1);
    await page.waitForTimeout(300);
    expect(await said(page)).toHaveLength(2);
  });
});

describe('scrolling', () => {
  const fromEnd = (page: Page) =>
    page.evaluate(() => {
      const { scrollHeight, scrollTop, clientHeight } = document.querySelector('.thread')!;
      return scrollHeight - scrollTop - clientHeight;
    });
  const code = '```js\nconst one = 1;\n```\n\n';

  it('shows the end of an answer that grows after it came, and the start of a page without one', async () => {
    const tokens = [
      '| a | b |\n|---|---|\n| 1 | 2 |\n\n',
      ...Array.from({ length: 12 }, () => code),
      '$$x^2$$\n\nEnd.',
    ];
    const page = await start({ size: phone, reply: () => ({ tokens }) });
    await page.getByLabel('Message', { exact: true }).fill('Hi');
    await page.getByRole('button', { name: 'Send', exact: true }).click();
    await page.locator('.answer math').waitFor();
    await expect.poll(() => fromEnd(page)).toBeLessThan(2);
    await page.setViewportSize({ width: 320, height: 256 });
    await page.getByRole('button', { name: 'Conversations' }).click();
    await page.getByRole('button', { name: 'New conversation' }).click();
    expect(await page.locator('.thread').evaluate(({ scrollTop }) => scrollTop)).toBe(0);
    await page.getByLabel('Message', { exact: true }).fill('long '.repeat(200));
    const send = await page.getByRole('button', { name: 'Send', exact: true }).boundingBox();
    expect((send?.y ?? 999) + (send?.height ?? 0)).toBeLessThan(256);
  });

  it('leaves the words where they are while one reads further up and the answer goes on', async () => {
    const page = await start({
      reply: () => ({
        tokens: Array.from({ length: 400 }, (_, i) => (i % 9 === 8 ? `\n\n${i % 2 ? code : ''}` : `w${i} `)),
        everyMs: 10,
      }),
    });
    await say(page, 'Go on');
    await page.waitForTimeout(2000);
    await tabTo(page, 'Export as Markdown', 'Shift+Tab');
    await page.locator('.thread').focus();
    await press(page, 'PageUp', 'PageUp');
    await page.waitForTimeout(500);
    const place = () =>
      page.evaluate(() => {
        const at = document.elementFromPoint(innerWidth / 2, 300)?.closest('.block');
        return { text: at?.textContent?.slice(0, 20), y: at?.getBoundingClientRect().y };
      });
    const before = await place();
    await page.waitForTimeout(1000);
    expect(await place()).toEqual(before);
    expect(await fromEnd(page)).toBeGreaterThan(300);
  });
});

describe('leaving and coming back', () => {
  it('keeps what came of an answer over a reload, says that it broke off, and shows the same conversation', async () => {
    const page = await start(slow);
    await say(page, 'Go on');
    await page.waitForTimeout(3500);
    await page.reload();
    await page.locator('.ending').getByText('Broken off').waitFor();
    expect((await page.locator('.answer .markdown').textContent())?.match(/word/g)?.length).toBeGreaterThan(20);
    await page.getByRole('button', { name: 'Try again' }).waitFor();
  });

  it('shows in each tab what the other did, and loses nothing when both write', async () => {
    const page = await start({
      reply: (_, index) => ({ tokens: [`answer ${index + 1}`], everyMs: 300, firstMs: 600 }),
    });
    await say(page, 'First');
    await answers(page, 1);
    const other = await page.context().newPage();
    await other.goto(current.server.url);
    await other.getByRole('button', { name: 'First' }).click();
    await answers(other, 1);
    await Promise.all([say(page, 'Here'), say(other, 'There')]);
    const stored = () =>
      other.evaluate(
        () =>
          new Promise<string>((resolve) => {
            const opening = indexedDB.open('hearth');
            opening.onsuccess = () => {
              const all = opening.result.transaction('conversations').objectStore('conversations').getAll();
              all.onsuccess = () => resolve(JSON.stringify(all.result));
            };
          }),
      );
    for (const text of ['First', 'Here', 'There', 'answer 1', 'answer 2', 'answer 3'])
      await expect.poll(stored, { timeout: 5000 }).toContain(text);
    await other.reload();
    other.on('dialog', (dialog) => dialog.accept());
    await other.getByRole('button', { name: 'Delete' }).click();
    await page.getByText('What shall we look at?').waitFor();
  });
});
