// An app over a scripted engine, ready to serve.

import type { FastifyInstance } from 'fastify';
import { buildApp } from '../../server/app.ts';
import { TemplateRenderer } from '../../server/chat/templates.ts';
import { type Settings, settingsSchema } from '../../server/config.ts';
import { KeyRing } from '../../server/http/keys.ts';
import { Lifecycle } from '../../server/http/lifecycle.ts';
import { ImageDecoder } from '../../server/images/decoder.ts';
import { watchAnswers } from './answers.ts';
import { ScriptedEngine, type ScriptedOptions } from './scripted-engine.ts';

export interface TestApp {
  app: FastifyInstance;
  engine: ScriptedEngine;
  lifecycle: Lifecycle;
  /** http://127.0.0.1:port, once `listen` was asked for. */
  url: string;
  close(): Promise<void>;
}

export async function testApp(
  options: ScriptedOptions & {
    settings?: Partial<Settings>;
    listen?: boolean;
    loading?: boolean;
    /** false: answers are not held against openapi.yaml, which costs as much as streaming them. */
    watch?: boolean;
  } = {},
): Promise<TestApp> {
  const engine = new ScriptedEngine(options);
  const renderer = new TemplateRenderer({ timeoutMs: 30_000 });
  const lifecycle = new Lifecycle();
  if (!options.loading) lifecycle.ready(engine, engine.models()[0]!.name);
  const settings = { ...settingsSchema.parse({}), ...options.settings };
  const keys = new KeyRing(settings.apiKey, settings.apiKeyFile, settings, () => {}, settings.adminKey);
  const render = (source: string, variables: Record<string, unknown>) => renderer.render(source, variables);
  const images = new ImageDecoder({
    bytesMax: settings.maxImageMb * 1024 * 1024,
    pixelsMax: settings.maxImagePixels,
    urlHosts: settings.allowImageUrls,
  });
  const app = await buildApp({ images, lifecycle, settings, keys, render });
  await app.ready();
  const problems = options.watch === false ? [] : watchAnswers(app.server, settings.basePath);
  const url = options.listen ? await app.listen({ host: '127.0.0.1', port: 0 }) : '';
  const close = async () => {
    await engine.close();
    await app.close();
    await renderer.close();
    await images.close();
    if (problems.length > 0) throw new Error(`answers that openapi.yaml does not allow:\n${problems.join('\n')}`);
  };
  return { app, engine, lifecycle, url, close };
}

export const chatBody = (extra: Record<string, unknown> = {}) => ({
  model: 'default',
  messages: [{ role: 'user', content: 'Hi' }],
  ...extra,
});

/** The `data:` payloads of an event stream's text. */
export const dataLines = (text: string) =>
  text
    .split('\n\n')
    .filter((block) => block.startsWith('data: '))
    .map((block) => block.slice(6));
