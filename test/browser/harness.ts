// A real Chromium on the page of a real server with a scripted engine.

import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type BrowserContext, chromium, type Page } from 'playwright-core';
import { type TestApp, testApp } from '../support/app.ts';
import type { ScriptedOptions } from '../support/scripted-engine.ts';

export const chromiumPath = process.env.HEARTH_CHROMIUM ?? '/usr/bin/chromium';
if (!existsSync(chromiumPath)) {
  throw new Error(
    `no Chromium at ${chromiumPath}. Install it with: apt-get install -y chromium (or set HEARTH_CHROMIUM)`,
  );
}

export interface Size {
  width: number;
  height: number;
}
export const desktop: Size = { width: 1280, height: 800 };
export const phone: Size = { width: 390, height: 844 };

export interface Browser {
  page: Page;
  /** What the page wrote to the console as an error, and requests to other origins. */
  complaints: string[];
  close(): Promise<void>;
}

export interface Visit extends Browser {
  server: TestApp;
}

interface Looks {
  size?: Size;
  theme?: 'light' | 'dark';
}

export interface VisitOptions extends ScriptedOptions, Looks {
  settings?: Record<string, unknown>;
  path?: string;
}

export async function visit(options: VisitOptions = {}): Promise<Visit> {
  const server = await testApp({ ...options, listen: true });
  const browser = await openBrowser(server.url, options.path ?? '/', options);
  const close = async () => {
    await browser.close();
    await server.close();
  };
  return { ...browser, server, close };
}

/** A browser of its own, with an empty profile, on the page of any server. */
export async function openBrowser(origin: string, path: string, options: Looks): Promise<Browser> {
  const profile = mkdtempSync(join(tmpdir(), 'hearth-browser-'));
  const size = options.size ?? desktop;
  const context: BrowserContext = await chromium.launchPersistentContext(profile, {
    executablePath: chromiumPath,
    headless: true,
    viewport: size,
    colorScheme: options.theme ?? 'light',
    hasTouch: size.width < 500,
    isMobile: size.width < 500,
    deviceScaleFactor: size.width < 500 ? 2 : 1,
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
  const page = context.pages()[0] ?? (await context.newPage());
  const complaints: string[] = [];
  page.on('console', (message) => {
    if (message.type() === 'error') complaints.push(message.text());
  });
  page.on('pageerror', (error) => complaints.push(error.message));
  page.on('request', (request) => {
    if (!/^(data|blob):/.test(request.url()) && !request.url().startsWith(origin))
      complaints.push(`outgoing: ${request.url()}`);
  });
  await page.goto(`${origin}${path}`);
  await page.waitForSelector('#model option, .connection input', { state: 'attached' });
  const close = async () => {
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  };
  return { page, complaints, close };
}
