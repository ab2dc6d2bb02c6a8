// The composition root of `hearth serve`: settings → engine → app → listen → drain on a signal.

import { readFileSync } from 'node:fs';
import { networkInterfaces } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { createSecureContext } from 'node:tls';
import type { FastifyInstance } from 'fastify';
import { buildApp } from './app.ts';
import { type Render, templateProblem } from './chat/prompt.ts';
import { TemplateRenderer } from './chat/templates.ts';
import { wrapped } from './cli/terminal.ts';
import { type ModelEntry, readSettings, type Settings, settingsHelp, UsageError } from './config.ts';
import { ModelSet, type OfferedModel } from './engine/model-set.ts';
import { NativeEngine } from './engine/native/engine.ts';
import { defaultLibrary } from './engine/native/library.ts';
import { type Engine, EngineError, type ModelInfo, type Progress } from './engine/port.ts';
import { generateKey, KeyFileError, KeyRing } from './http/keys.ts';
import { Lifecycle } from './http/lifecycle.ts';
import { ImageDecoder } from './images/decoder.ts';
import { makeSpeaker, type Speaker } from './log.ts';
import { localModel, ModelPathError } from './models/local.ts';
import { offeredModels } from './models/offered.ts';
import { onStop } from './signals.ts';

/** How long a server whose engine has died answers 503 before it exits, so that probes and clients see why. */
const deathSeconds = 1;

/** Files and the name that clients use. */
interface ServedModel {
  path: string;
  name: string;
}

export interface ServeOptions {
  argv: readonly string[];
  env: Record<string, string | undefined>;
  out: NodeJS.WritableStream & { isTTY?: boolean; columns?: number };
  /** How an engine is opened; tests bring their own. */
  openEngine?: (settings: Settings) => Promise<Engine>;
  /** Resolves when the server should stop. */
  stop?: Promise<string>;
}

/** Serves until it is told to stop. Throws UsageError for what the operator got wrong. */
export async function serve(options: ServeOptions): Promise<void> {
  const { settings, help } = readSettings(options.argv, options.env);
  if (help) {
    options.out.write(wrapped(`hearth serve [options]\n\n${settingsHelp()}`, options.out));
    return;
  }
  const begin = performance.now();
  const model = settings.shape ? { path: '', name: settings.modelName || settings.shape } : findModel(settings);
  const others = findOthers(settings, model);
  const tls = tlsOf(settings);
  const speaker = makeSpeaker({ level: settings.logLevel, format: settings.logFormat, out: options.out });
  const generated = needsKey(settings) ? generateKey() : null;
  const keys = openKeys(settings, generated, speaker);
  const lifecycle = new Lifecycle();
  const renderer = new TemplateRenderer({ timeoutMs: settings.templateTimeoutMs });
  const images = new ImageDecoder({
    bytesMax: settings.maxImageMb * 1024 * 1024,
    pixelsMax: settings.maxImagePixels,
    urlHosts: settings.allowImageUrls,
  });
  const render: Render = (source, variables) => renderer.render(source, variables);
  const app = await buildApp({
    images,
    lifecycle,
    settings,
    keys,
    render,
    logger: speaker.logger,
    ...tls,
  });
  const stop = options.stop ?? firstSignal();
  let engine: Engine | null = null;
  let models: ModelSet | null = null;
  try {
    const url = await speaker.stage('listening', (note) => listen(app, settings, note));
    if (generated !== null) tellKey(url, settings, generated, speaker);
    engine = await openEngine(options, settings, speaker, lifecycle);
    const tell = (loaded: ModelInfo) => tellOfModel(loaded, render, speaker, lifecycle);
    models = makeModels(engine, settings, model, others, tell, speaker, lifecycle);
    const info = await Promise.race([load(models, model.name, speaker, lifecycle), stop]);
    if (typeof info === 'string') return speaker.say(`${info}: the load is given up`);
    lifecycle.ready(engine, models);
    await Promise.race([tell(info), stop]);
    speaker.say(`Hearth serves ${info.name} on ${url} (ready in ${Math.round(performance.now() - begin)} ms)`);
    const signal = await Promise.race([stop, untilDead(engine, stop)]);
    if (typeof signal !== 'string') throw signal;
    // To the log, which `hearth chat` keeps quiet on its own server: whoever leaves it has said so already.
    speaker.logger.info(`${signal}: finishing ${lifecycle.active} running requests`);
    await lifecycle.drain(settings.drainSeconds * 1000);
  } finally {
    await app.close();
    await models?.close();
    await engine?.close();
    await renderer.close();
    await images.close();
  }
}

/** What became of an engine whose device failed. Until the process ends, /health says 503 and streams get their error event. */
async function untilDead(engine: Engine, stop: Promise<string>): Promise<EngineError | string> {
  let stopped = false;
  void stop.then(() => {
    stopped = true;
  });
  while (!stopped && !engine.failure()) await delay(200, undefined, { ref: false });
  if (stopped) return stop;
  await delay(deathSeconds * 1000);
  return engine.failure()!;
}

function findModel(settings: Settings): ServedModel {
  try {
    return localModel(settings.model, settings.modelName);
  } catch (error) {
    if (error instanceof ModelPathError) throw new UsageError(`--model: ${error.message}`);
    throw error;
  }
}

function findOthers(settings: Settings, first: ServedModel) {
  try {
    return offeredModels(first, settings.moreModels, settings.model !== '' || settings.shape !== '');
  } catch (error) {
    if (error instanceof ModelPathError) throw new UsageError(`--more-models: ${error.message}`);
    throw error;
  }
}

const isLoopback = (host: string) => /^(localhost|127\.\d+\.\d+\.\d+|::1|\[::1\])$/i.test(host);

function openKeys(settings: Settings, generated: string | null, speaker: Speaker): KeyRing {
  const keys = generated === null ? settings.apiKey : [generated];
  const warn = (problem: string) => speaker.logger.warn(problem);
  try {
    return new KeyRing(keys, settings.apiKeyFile, settings, warn, settings.adminKey);
  } catch (error) {
    if (error instanceof KeyFileError) throw new UsageError(`--api-key-file: ${error.message}`);
    throw new UsageError(
      `--api-key-file: cannot read ${settings.apiKeyFile}: ${(error as NodeJS.ErrnoException).code}`,
    );
  }
}

/** Others can reach the server, nobody gave it a key, and nobody said that it needs none. */
const needsKey = ({ host, auth, apiKey, adminKey, apiKeyFile }: Settings) =>
  auth && apiKey.length + adminKey.length === 0 && apiKeyFile === '' && !isLoopback(host);

/** The one time the key is shown: it lives in memory only, and the next start makes another. */
function tellKey(url: string, settings: Settings, key: string, speaker: Speaker): void {
  const base = lanUrl(url, settings.host);
  const body = `{"messages":[{"role":"user","content":"Hello"}]}`;
  speaker.announce(
    `No API key was given, so one was made for this run: ${key}\n` +
      `Others reach this server at ${base}; give them the key, or set --api-key-file, or --no-auth. Try:\n` +
      `  curl ${settings.tlsCert ? '-k ' : ''}${base}/v1/chat/completions -H 'Authorization: Bearer ${key}' ` +
      `-H 'Content-Type: application/json' -d '${body}'`,
  );
}

/** The address that other machines use, when the server listens on all of them. */
function lanUrl(url: string, host: string): string {
  const any = host === '0.0.0.0' || host === '::' || host === '';
  if (!any) return url;
  const own = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  const address = own.find(({ family, internal }) => family === 'IPv4' && !internal)?.address ?? '127.0.0.1';
  const made = new URL(url);
  made.hostname = address;
  return made.href.replace(/\/$/, '');
}

function tlsOf(settings: Settings): { tls?: { cert: string; key: string } } {
  if (!settings.tlsCert) return {};
  const tls = { cert: readOwn(settings.tlsCert, '--tls-cert'), key: readOwn(settings.tlsKey, '--tls-key') };
  try {
    createSecureContext(tls);
  } catch (error) {
    throw new UsageError(`--tls-cert and --tls-key: ${(error as Error).message}`);
  }
  return { tls };
}

/** A file the operator named. */
function readOwn(path: string, flag: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new UsageError(`${flag}: cannot read ${path}: ${(error as NodeJS.ErrnoException).code}`);
  }
}

const listenProblems: Record<string, string> = {
  EADDRINUSE: 'the port is in use',
  EACCES: 'no permission to use the port',
  EADDRNOTAVAIL: 'this machine does not have the address',
  ENOTFOUND: 'the address is unknown',
};

async function listen(app: FastifyInstance, settings: Settings, note: (detail: string) => void): Promise<string> {
  const { host, port } = settings;
  try {
    const url = (await app.listen({ host, port })) + settings.basePath;
    note(url);
    return url;
  } catch (error) {
    const problem = listenProblems[(error as NodeJS.ErrnoException).code ?? ''];
    if (problem) throw new UsageError(`cannot listen on ${host}:${port}: ${problem}`);
    throw error;
  }
}

async function openEngine(
  options: ServeOptions,
  settings: Settings,
  speaker: Speaker,
  lifecycle: Lifecycle,
): Promise<Engine> {
  lifecycle.loading('opening the engine');
  const open = options.openEngine ?? openNative;
  return speaker.stage('engine', async (note) => {
    const engine = await startOrExplain(open(settings));
    note(settings.device);
    return engine;
  });
}

const engineLevels: Partial<Record<Settings['logLevel'], 'error' | 'warn' | 'info' | 'debug'>> = {
  fatal: 'error',
  silent: 'error',
  error: 'error',
  warn: 'warn',
  debug: 'debug',
};

function openNative(settings: Settings): Promise<Engine> {
  return NativeEngine.open(settings.engineLibrary || defaultLibrary, {
    device: settings.device,
    threads: settings.threads,
    promptThreads: settings.promptThreads,
    queueRequests: settings.queueRequests,
    queueTokens: settings.queueTokens,
    profile: settings.profile || null,
    logLevel: engineLevels[settings.logLevel] ?? 'warn',
  });
}

/** What the engine refuses at the start is the operator's to fix: its message, and exit code 2. */
async function startOrExplain<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof EngineError && error.code !== 'internal') throw new UsageError(error.message);
    throw error;
  }
}

/** Options of the command line that hold for every model; the default one has more of its own. */
const commonKeys = [
  'precision',
  'visionPrecision',
  'group',
  'kv',
  'headBits',
  'maxSequences',
  'prefillChunk',
  'prefixCache',
  'hostKvMb',
] as const;
type CommonOptions = Pick<Settings, (typeof commonKeys)[number]>;

const commonOptions = (settings: Settings) =>
  Object.fromEntries(commonKeys.map((key) => [key, settings[key]])) as CommonOptions;

function makeModels(
  engine: Engine,
  settings: Settings,
  first: ServedModel,
  others: ReturnType<typeof findOthers>,
  tell: (info: ModelInfo) => Promise<void>,
  speaker: Speaker,
  lifecycle: Lifecycle,
): ModelSet {
  const common = commonOptions(settings);
  const { context, kvTokens } = settings;
  const source = settings.shape ? { shape: settings.shape, seed: settings.seed } : { path: first.path };
  const offered = [
    { load: { ...common, ...source, name: first.name, context, kvTokens }, chatTemplate: templateOf(settings) },
    ...others.map((other) => toOffered(common, other)),
  ];
  return new ModelSet(engine, offered, {
    defaultModel: first.name,
    idleMs: others.length > 0 ? settings.modelIdleSeconds * 1000 : 0,
    waitMs: settings.modelLoadSeconds * 1000,
    waitersMax: settings.queueRequests,
    memoryLimitMb: settings.memoryLimitMb,
    hooks: {
      failed(name, reason) {
        // Without the model to start with the process ends, and says why itself.
        if (lifecycle.phase !== 'loading') speaker.logger.warn({ model: name, reason }, 'a model could not be loaded');
      },
      loaded(info, seconds) {
        speaker.logger.info({ model: info.name, seconds: Number(seconds.toFixed(2)) }, 'model loaded');
        // The one to start with is told of in its place, below the line of its load.
        if (lifecycle.phase !== 'loading') void tell(info);
      },
      unloaded: (name, reason) => speaker.logger.info({ model: name, reason }, 'model unloaded'),
    },
  });
}

function toOffered(
  common: CommonOptions,
  { name, path, options, context, vision }: ReturnType<typeof findOthers>[number],
): OfferedModel {
  const own = options as Exclude<ModelEntry, string>;
  const template = own['chat-template'];
  const given = {
    precision: own.precision,
    kv: own.kv,
    context: own.context,
    maxSequences: own['max-sequences'],
    kvTokens: own['kv-tokens'],
  };
  const set = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  return {
    load: { ...common, ...set, path, name },
    chatTemplate: template ? readOwn(template, `--more-models: chat-template of ${name}`) : null,
    context: own.context || context,
    vision,
  };
}

const templateOf = ({ chatTemplate }: Settings) => (chatTemplate ? readOwn(chatTemplate, '--chat-template') : null);

async function load(models: ModelSet, name: string, speaker: Speaker, lifecycle: Lifecycle): Promise<ModelInfo> {
  return speaker.stage('model', async (note) => {
    const onProgress = ({ stage, done, total }: Progress) => {
      lifecycle.loading(`${stage} ${total > 0 ? Math.round((100 * done) / total) : 0} %`);
    };
    const loading = models.load(name, { onProgress, waitMs: Number.POSITIVE_INFINITY });
    // The operator is told more than clients are: the engine's own words, with paths and the whole table.
    const own = loading.catch((error: Error) => Promise.reject(error.cause ?? error));
    const info = await startOrExplain(own);
    const gib = info.memory.reduce((sum, { bytes }) => sum + bytes, 0) / 2 ** 30;
    note(`${info.name}: ${info.architecture}, ${info.precision} on ${info.device}, ${gib.toFixed(2)} GiB`);
    return info;
  });
}

/** What its owner should know of a model that was loaded: no request would say so, or only the first that fails. */
async function tellOfModel(info: ModelInfo, render: Render, speaker: Speaker, lifecycle: Lifecycle): Promise<void> {
  for (const note of info.notes) speaker.say(`${info.name}: ${note}`);
  const problem = await templateProblem({ ...info, imagePlaceholder: null }, render);
  if (!problem || lifecycle.phase === 'draining') return;
  const what =
    problem.fault === 'broken'
      ? 'cannot be read, so chats are refused'
      : 'fails on a plain message, and on any that brings it no more';
  speaker.logger.warn(
    { model: info.name, reason: problem.message },
    `the model's chat template ${what}: mend it in the model's folder (chat_template.jinja, ` +
      'tokenizer_config.json), or give another: --chat-template FILE, chat-template in --more-models',
  );
}

function firstSignal(): Promise<string> {
  return new Promise((resolve) => {
    onStop(['SIGTERM', 'SIGINT'], resolve);
  });
}
