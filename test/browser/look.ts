// npm run look: pictures of the page in both themes and both widths, for people to look at. Writes docs/screenshots/.

import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { desktop, phone, visit } from './harness.ts';

const folder = fileURLToPath(new URL('../../docs/screenshots', import.meta.url));
mkdirSync(folder, { recursive: true });
const fixture = (name: string) => fileURLToPath(new URL(`../fixtures/images/${name}`, import.meta.url));

const answer = `The first picture shows **a cat**; in the second it is gone.

| | first | second |
|---|---|---|
| animals | 1 | 0 |
| light | warm | cold |

\`\`\`python
def differences(a, b):
    """What changed between two pictures."""
    return [x for x in a if x not in b]  # order kept
\`\`\`

The area grows as $A = \\pi r^2$, so twice the radius gives four times the area.`;

const tokens = answer.match(/\s*\S+|\s+$/g) ?? [];
const model = {
  name: 'hearth-tiny-vl',
  vision: { family: 'llava', placeholder: '<image>', tokensPerImage: 100 },
  precision: 'w4a8',
  context: 2048,
  device: 'AMD EPYC, avx2',
};

for (const theme of ['light', 'dark'] as const) {
  for (const [name, size] of [
    ['desktop', desktop],
    ['phone', phone],
  ] as const) {
    const { page, close } = await visit({
      theme,
      size,
      models: [model],
      reply: () => ({ tokens, promptTokens: 231, cachedTokens: 208, everyMs: 4, firstMs: 30 }),
    });
    await page.waitForTimeout(300);
    await page.screenshot({ path: `${folder}/start-${name}-${theme}.png` });
    const chooser = page.waitForEvent('filechooser');
    await page.getByRole('button', { name: 'Add pictures' }).click();
    await (await chooser).setFiles([fixture('skimage-chelsea.png'), fixture('pillow-hopper.png')].filter(Boolean));
    await page.waitForSelector('.previews img');
    await page.getByLabel('Message', { exact: true }).fill('What is different between these pictures?');
    await page.getByRole('button', { name: 'Send', exact: true }).click();
    await page.waitForSelector('.stats');
    await page.waitForTimeout(500);
    await page.screenshot({ path: `${folder}/chat-${name}-${theme}.png` });
    if (name === 'desktop') {
      await page.getByRole('button', { name: 'Status' }).click();
      await page.waitForTimeout(4200);
      await page.screenshot({ path: `${folder}/status-${theme}.png` });
    }
    await close();
  }
}
