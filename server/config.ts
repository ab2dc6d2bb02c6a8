// Every setting of the server, once. Flags, HEARTH_* variables, the config file, the help text and the defaults all
// come from this schema. Precedence: flag, then environment, then config file, then default.

import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { parse as parseYaml } from 'yaml';
import { z } from 'zod';
import { settingInWords } from './words.ts';

/** A mistake of the person who starts the server: one line on stderr and exit code 2. */
export class UsageError extends Error {
  readonly exitCode = 2;
}

interface SettingMeta {
  help: string;
  /** Shown after the flag in --help; absent for switches. */
  value?: string;
  section: string;
}

const settingMeta = new Map<z.ZodType, SettingMeta>();

function describe<T extends z.ZodType>(schema: T, section: string, help: string, value?: string): T {
  settingMeta.set(schema, { help, section, ...(value ? { value } : {}) });
  return schema;
}

const emptyAsAbsent = (value: unknown) => (value === '' || value === null ? undefined : value);

function flag(section: string, help: string, fallback: boolean) {
  const words: Record<string, boolean> = {
    true: true,
    1: true,
    yes: true,
    on: true,
    false: false,
    0: false,
    no: false,
  };
  const schema = z.preprocess((value) => {
    const given = emptyAsAbsent(value);
    return typeof given === 'string' ? (words[given.toLowerCase()] ?? (given === 'off' ? false : given)) : given;
  }, z.boolean().default(fallback));
  return describe(schema, section, help);
}

function whole(section: string, help: string, fallback: number, min: number, max: number) {
  const schema = z.preprocess((value) => {
    const given = emptyAsAbsent(value);
    return typeof given === 'string' && /^-?\d+$/.test(given.trim()) ? Number(given) : given;
  }, z.number().int().min(min).max(max).default(fallback));
  return describe(schema, section, help, 'N');
}

function text(section: string, help: string, value: string, fallback = '') {
  return describe(z.preprocess(emptyAsAbsent, z.string().max(4096).default(fallback)), section, help, value);
}

function choice<const T extends readonly [string, ...string[]]>(
  section: string,
  help: string,
  values: T,
  fallback: T[number],
) {
  const schema = z.preprocess(emptyAsAbsent, z.enum(values).default(fallback as never));
  return describe(schema, section, help, values.join('|'));
}

/** What a flag or a variable writes with commas between; a config file may have a list. */
function splitAtCommas(raw: unknown): unknown {
  const given = emptyAsAbsent(raw);
  if (typeof given !== 'string') return given;
  return given
    .split(',')
    .map((item) => item.trim())
    .filter(Boolean);
}

function list(section: string, help: string, value: string) {
  const schema = z.preprocess(splitAtCommas, z.array(z.string().max(4096)).max(1000).default([]));
  return describe(schema, section, help, value);
}

const modelEntry = z.strictObject({
  name: z.string().min(1).max(256),
  path: z.string().min(1).max(4096),
  precision: z.enum(['auto', 'f32', 'f16', 'bf16', 'w4a16', 'w4a8', 'w4a32', 'w8a8', 'none']).optional(),
  kv: z.enum(['auto', 'f32', 'f16', 'bf16', 'int8']).optional(),
  context: z.int().min(0).max(16_777_216).optional(),
  'max-sequences': z.int().min(0).max(4096).optional(),
  'kv-tokens': z.int().min(0).max(1_000_000_000).optional(),
  'chat-template': z.string().min(1).max(4096).optional(),
});
/** A model beside the default one: `NAME`, `NAME=PATH`, or in the config file a mapping with options of its own. */
export type ModelEntry = string | z.infer<typeof modelEntry>;

function modelList(section: string, help: string) {
  const schema = z.preprocess(
    splitAtCommas,
    z
      .array(z.union([z.string().min(1).max(4096), modelEntry]))
      .max(1000)
      .optional(),
  );
  return describe(schema, section, help, 'NAME[=PATH],...');
}

const server = 'Server';
const model = 'Model';
const engine = 'Engine';
const limits = 'Limits';
const access = 'Access';

export const settingsSchema = z.strictObject({
  host: text(server, 'address to listen on', 'ADDRESS', '127.0.0.1'),
  port: whole(server, 'port to listen on; 0 takes any free one', 8080, 0, 65535),
  basePath: text(server, 'path in front of every route, for a reverse proxy', 'PATH'),
  trustProxy: flag(server, 'believe X-Forwarded-* (only behind a proxy of yours)', false),
  tlsCert: text(server, 'certificate chain in PEM; with --tls-key the server speaks HTTPS', 'FILE'),
  tlsKey: text(server, 'private key in PEM', 'FILE'),
  drainSeconds: whole(server, 'how long running answers may take after SIGTERM', 30, 0, 3600),
  keepAliveSeconds: whole(server, 'idle time after which a stream gets a comment', 10, 1, 15),
  heartbeatSeconds: whole(server, 'write a space this often into long non-streamed answers; 0 = never', 0, 0, 300),
  lenient: flag(server, 'log unsupported request fields instead of refusing them', false),
  logLevel: choice(server, 'what to log', ['fatal', 'error', 'warn', 'info', 'debug', 'silent'], 'info'),
  logFormat: choice(server, 'one clear line for people, JSON for machines', ['auto', 'text', 'json'], 'auto'),

  model: text(model, 'folder of a model or a .gguf file (default: the model that ships with Hearth)', 'PATH'),
  modelName: text(model, 'name that clients use (default: the folder’s name)', 'NAME'),
  moreModels: modelList(
    model,
    'further models, loaded on first use; all = every pulled one, which is the default without --model',
  ),
  modelIdleSeconds: whole(
    model,
    'unload a model unused for so long, but not the default one; 0 = never',
    900,
    0,
    864_000,
  ),
  modelLoadSeconds: whole(model, 'how long a request waits for its model to be loaded', 300, 1, 3600),
  shape: text(model, 'serve random weights of a shape, to measure speed', 'NAME'),
  precision: choice(
    model,
    'arithmetic of the weights',
    ['auto', 'f32', 'f16', 'bf16', 'w4a16', 'w4a8', 'w4a32', 'w8a8', 'none'],
    'auto',
  ),
  visionPrecision: choice(
    model,
    'arithmetic of the vision tower; auto = as the model, or as its file where that has 4 bits',
    ['auto', 'f32', 'f16', 'bf16', 'w8a8'],
    'auto',
  ),
  group: whole(model, 'group size of quantised weights', 128, 32, 128),
  kv: choice(model, 'precision of the KV pool', ['auto', 'f32', 'f16', 'bf16', 'int8'], 'auto'),
  headBits: whole(model, 'bits of the output head; 0 = default', 0, 0, 16),
  context: whole(model, 'longest prompt plus answer in tokens; 0 = the model’s', 0, 0, 16_777_216),
  maxSequences: whole(model, 'requests in one step; 0 = default', 0, 0, 4096),
  kvTokens: whole(model, 'tokens in the KV pool; 0 = what fits', 0, 0, 1_000_000_000),
  prefixCache: flag(model, 'keep prompts for requests that begin alike', true),
  hostKvMb: whole(
    model,
    'MiB of host memory for prefixes that the KV pool has no room for; 0 = none, -1 = a quarter of what is free, up to 4096, on a GPU with memory of its own',
    -1,
    -1,
    16_777_216,
  ),
  chatTemplate: text(model, 'Jinja file used instead of the model’s own template', 'FILE'),
  seed: whole(model, 'seed of random weights (--shape)', 0, 0, 4_294_967_295),

  device: choice(engine, 'where to compute', ['auto', 'cpu', 'cuda'], 'auto'),
  threads: whole(
    engine,
    'CPU threads; 0 = one a performance core, at most a container’s CPU limit, one less than all of 8 CPUs or more',
    0,
    0,
    1024,
  ),
  promptThreads: whole(
    engine,
    'CPU threads that compute prompts and steps of 8 sequences or more, at least as many as --threads; 0 = as many, or efficiency cores too where --threads is not given',
    0,
    0,
    1024,
  ),
  profile: text(engine, 'force a device profile', 'NAME'),
  memoryLimitMb: whole(engine, 'most memory that all models together may take; 0 = no limit', 0, 0, 16_777_216),
  prefillChunk: whole(engine, 'tokens of a prompt in one step; 0 = by device', 0, 0, 1_048_576),
  engineLibrary: text(
    engine,
    'libhearth.so to load (default: the one built here, else that of the platform package)',
    'FILE',
  ),

  queueRequests: whole(limits, 'requests that may wait', 512, 1, 1_000_000),
  queueTokens: whole(limits, 'prompt tokens that may wait', 2_097_152, 1, 2_147_483_647),
  bodyLimitMb: whole(limits, 'largest request body', 64, 1, 1024),
  templateTimeoutMs: whole(limits, 'longest time a chat template may take', 2000, 10, 60_000),
  maxChoices: whole(limits, 'largest n of a request', 16, 1, 128),
  maxImages: whole(limits, 'images in one request', 20, 0, 1000),
  maxImageMb: whole(limits, 'bytes of one encoded image', 20, 1, 1024),
  maxImagePixels: whole(limits, 'pixels of one image', 50_000_000, 1, 1_000_000_000),

  apiKey: list(access, 'keys that clients must send, comma-separated', 'KEY,...'),
  apiKeyFile: text(access, 'file with one key and its limits a line, read again when it changes', 'FILE'),
  adminKey: list(access, 'keys that may also load and unload models, comma-separated', 'KEY,...'),
  requestsPerMinute: whole(access, 'requests a key may make in a minute; 0 = no limit', 0, 0, 1_000_000),
  tokensPerMinute: whole(
    access,
    'tokens of prompts and answers a key may use in a minute; 0 = no limit',
    0,
    0,
    1_000_000_000,
  ),
  auth: flag(access, 'ask for keys when listening beyond loopback', true),
  allowedHosts: list(access, 'further Host names to answer (IP literals and this machine’s names pass)', 'NAME,...'),
  corsOrigins: list(access, 'origins of web pages that may call the API; * = any', 'ORIGIN,...'),
  allowImageUrls: list(access, 'hosts from which image URLs are fetched; * = any public one', 'HOST,...'),
});

export type Settings = z.infer<typeof settingsSchema>;
type SettingName = keyof Settings & string;

const shape = settingsSchema.shape;
const names = Object.keys(shape) as SettingName[];

export const flagOf = (name: string) => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
export const variableOf = (name: string) => `HEARTH_${flagOf(name).replaceAll('-', '_').toUpperCase()}`;
const isSwitch = (name: SettingName) => settingMeta.get(shape[name])?.value === undefined;

const byFlag = new Map<string, SettingName>(names.map((name) => [flagOf(name), name]));

export interface ParsedArguments {
  settings: Settings;
  help: boolean;
  /** Where each value came from, for `--help`-like questions and logs. */
  sources: Partial<Record<SettingName, 'flag' | 'environment' | 'file'>>;
}

/** Reads flags, environment and config file into settings. Throws UsageError with one line. */
export function readSettings(argv: readonly string[], env: Record<string, string | undefined>): ParsedArguments {
  const flags = readFlags(argv);
  const environment = readEnvironment(env);
  const configFile = flags.config ?? env['HEARTH_CONFIG'];
  const file = configFile ? readConfigFile(configFile) : {};
  const sources: ParsedArguments['sources'] = {};
  for (const name of Object.keys(file) as SettingName[]) sources[name] = 'file';
  for (const name of Object.keys(environment) as SettingName[]) sources[name] = 'environment';
  for (const name of Object.keys(flags.values) as SettingName[]) sources[name] = 'flag';
  const parsed = settingsSchema.safeParse({ ...file, ...environment, ...flags.values }, { error: settingInWords });
  if (!parsed.success) throw new UsageError(firstProblem(parsed.error, sources));
  checkTogether(parsed.data);
  return { settings: parsed.data, help: flags.help, sources };
}

function readFlags(argv: readonly string[]) {
  const values: Record<string, unknown> = {};
  let help = false;
  let config: string | undefined;
  for (let at = 0; at < argv.length; at++) {
    const argument = argv[at]!;
    if (argument === '--help' || argument === '-h') {
      help = true;
      continue;
    }
    const match = /^--([a-z][a-z0-9-]*)(?:=(.*))?$/s.exec(argument);
    if (!match) throw new UsageError(`unexpected argument '${argument.slice(0, 80)}'; see --help`);
    const [, word, inline] = match as unknown as [string, string, string | undefined];
    const take = () => {
      const next = inline ?? argv[++at];
      if (next === undefined) throw new UsageError(`option --${word} needs a value; see --help`);
      // A shell writes one for a variable that is not set, and the default in its place would be a surprise.
      if (next === '') throw new UsageError(`option --${word} has an empty value; leave it out for the default`);
      return next;
    };
    if (word === 'config') config = take();
    else Object.assign(values, readFlag(word, inline, take));
  }
  return { values, help, config };
}

function readFlag(word: string, inline: string | undefined, take: () => string): Record<string, unknown> {
  const name = byFlag.get(word);
  if (name) return { [name]: isSwitch(name) ? (inline ?? true) : take() };
  const negated = word.startsWith('no-') ? byFlag.get(word.slice(3)) : undefined;
  if (negated && isSwitch(negated) && inline === undefined) return { [negated]: false };
  throw new UsageError(`unknown option --${word.slice(0, 80)}; see --help`);
}

function readEnvironment(env: Record<string, string | undefined>): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  for (const name of names) {
    const value = env[variableOf(name)];
    if (value !== undefined && value !== '') values[name] = value;
  }
  return values;
}

/** YAML or JSON whose keys are the flags' names. */
function readConfigFile(path: string): Record<string, unknown> {
  let document: unknown;
  try {
    document = parseYaml(readFileSync(path, 'utf8'));
  } catch (error) {
    const reason = error instanceof Error ? error.message.split('\n')[0] : 'unreadable';
    throw new UsageError(`config file ${path}: ${reason}`);
  }
  if (document === null || document === undefined) return {};
  if (typeof document !== 'object' || Array.isArray(document))
    throw new UsageError(`config file ${path}: not a mapping`);
  const values: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(document)) {
    const name = byFlag.get(key);
    if (!name) throw new UsageError(`config file ${path}: unknown setting '${key.slice(0, 80)}'`);
    values[name] = value;
  }
  return values;
}

function firstProblem(error: z.ZodError, sources: ParsedArguments['sources']): string {
  const issue = error.issues[0]!;
  const name = String(issue.path[0] ?? '');
  const source = sources[name as SettingName];
  const called = source === 'environment' ? variableOf(name) : source === 'file' ? flagOf(name) : `--${flagOf(name)}`;
  return `${called}: ${issue.message}`;
}

function checkTogether(settings: Settings): void {
  if (Boolean(settings.tlsCert) !== Boolean(settings.tlsKey)) {
    throw new UsageError('--tls-cert and --tls-key belong together');
  }
  if (settings.model && settings.shape) throw new UsageError('--model and --shape exclude each other');
  if (settings.basePath && !/^(\/[A-Za-z0-9._~-]+)+$/.test(settings.basePath)) {
    throw new UsageError('--base-path: must look like /prefix, without a slash at its end');
  }
  // Either would be compared with what browsers send, and never match.
  const noOrigin = settings.corsOrigins.find((origin) => !/^(?:\*|null|[a-z][a-z0-9+.-]*:\/\/[^/\s]+)$/i.test(origin));
  if (noOrigin) throw new UsageError(`--cors-origins: '${noOrigin}' is no origin such as https://app.example`);
  const noHost = settings.allowedHosts.find((name) => !/^(?:\*|[^\s:/]+)$/.test(name) && isIP(name) === 0);
  if (noHost) throw new UsageError(`--allowed-hosts: '${noHost}' must be a name without scheme and port`);
  if (![32, 64, 128].includes(settings.group)) throw new UsageError('--group: must be 32, 64 or 128');
  if (![0, 4, 8, 16].includes(settings.headBits)) throw new UsageError('--head-bits: must be 0, 4, 8 or 16');
}

/** Text of `hearth serve --help`. */
export function settingsHelp(): string {
  const sections = new Map<string, string[]>();
  for (const name of names) {
    const meta = settingMeta.get(shape[name])!;
    const fallback = settingsSchema.parse({})[name];
    const shown = isSwitch(name)
      ? fallback === true
        ? `--no-${flagOf(name)}`
        : `--${flagOf(name)}`
      : `--${flagOf(name)} ${meta.value}`;
    const note =
      isSwitch(name) || fallback === '' || fallback === undefined || (Array.isArray(fallback) && !fallback.length)
        ? ''
        : ` [${fallback}]`;
    const help = isSwitch(name) && fallback === true ? `do not: ${meta.help}` : meta.help;
    const lines = sections.get(meta.section) ?? [];
    lines.push(
      shown.length > 30 ? `  ${shown}\n${' '.repeat(34)}${help}${note}` : `  ${shown.padEnd(32)}${help}${note}`,
    );
    sections.set(meta.section, lines);
  }
  const body = [...sections].map(([title, lines]) => `${title}:\n${lines.join('\n')}`).join('\n\n');
  return (
    `${body}\n\n  ${'--config FILE'.padEnd(32)}YAML or JSON with these names as keys\n` +
    '\nEach option can also be set in the environment (--max-images is HEARTH_MAX_IMAGES) or in the config file.\n' +
    'A flag wins over the environment, the environment over the file. HEARTH_MODELS names the folder of pulled models\n' +
    '(default ~/.cache/hearth/models).\n'
  );
}
