// hearth <command>: finds the command and turns its outcome into an exit code.

import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readSettings, UsageError } from '../config.ts';
import { benchBinary } from '../engine/native/library.ts';
import { EngineError } from '../engine/port.ts';
import { HubError } from '../models/hub-error.ts';
import { isModel, resolveModel } from '../models/local.ts';
import { runDoctor } from './doctor.ts';
import { wrapped } from './terminal.ts';
import { unreadableOptions } from './usage.ts';
import { version } from './version.ts';

type Command = { help: string; run: (argv: string[]) => Promise<number> };

const commands: Record<string, Command> = {
  serve: { help: 'serve a model over the OpenAI API', run: runServe },
  bench: { help: 'measure the engine (options of hearth-bench)', run: runBench },
  doctor: { help: 'show devices, instruction sets, kernels and why', run: runDoctor },
  verify: {
    help: 'check every kernel on this device and write a report',
    ...later(() => import('./verify.ts')),
  },
  chat: { help: 'talk with a model in the terminal', ...later(() => import('./chat.ts')) },
  list: {
    help: 'show models here and in the catalogue; --fits plans for this device',
    ...later(() => import('./list.ts')),
  },
  pull: { help: 'bring a model from the hub', ...later(() => import('./pull.ts')) },
  rm: { help: 'delete a pulled model', ...later(() => import('./rm.ts')) },
  quantize: { help: 'float weights to 4 or 8 bits (AWQ, SmoothQuant)', ...later(() => import('./quantize.ts')) },
  convert: { help: 'pack weights ahead of time for a device', ...later(() => import('./convert.ts')) },
  eval: { help: 'perplexity, and the distance from another model', ...later(() => import('./eval.ts')) },
};

/** A command in a file of its own, loaded when it is called; it prints its own help. */
function later(load: () => Promise<{ help: string; run: (argv: string[]) => Promise<number> }>): Pick<Command, 'run'> {
  return {
    run: async (argv) => {
      const command = await load();
      if (argv.includes('--help') || argv.includes('-h')) {
        process.stdout.write(`${wrapped(command.help)}\n`);
        return 0;
      }
      return command.run(argv);
    },
  };
}

async function runServe(argv: string[]): Promise<number> {
  await pullFirst(argv);
  // Loaded here, so that the other commands start without the server.
  const { serve } = await import('../main.ts');
  await serve({ argv, env: process.env, out: process.stdout });
  return 0;
}

/** `--model NAME` of the catalogue, not here yet: pulled before the server starts. */
async function pullFirst(argv: string[]): Promise<void> {
  const { settings } = readSettings(argv, process.env);
  if (!settings.model || isModel(settings.model)) return;
  const { catalogue, pullWithProgress } = await import('./pull.ts');
  const found = resolveModel(settings.model, catalogue());
  if (found && 'pull' in found) await pullWithProgress(found.pull.repo, found.pull.name);
}

function runBench(argv: string[]): Promise<number> {
  if (!existsSync(benchBinary))
    throw new UsageError(`${benchBinary} is not built: run npm start once, or cmake --build`);
  const child = spawn(benchBinary, argv, { stdio: 'inherit' });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (code, signal) => resolve(signal ? 1 : (code ?? 1)));
  });
}

function usage(): string {
  const lines = Object.entries(commands).map(([name, { help }]) => `  ${name.padEnd(10)}${help}`);
  return `hearth <command> [options]

${lines.join('\n')}

hearth <command> --help shows a command's options, hearth --version what this is.

Examples:
  hearth serve                       the model that ships, on http://127.0.0.1:8080
  hearth chat qwen3-0.6b             brings it from the hub first
  hearth list --fits                 what this device can hold, and how fast
`;
}

/**
 * Output that cannot be written. A server goes on without its log: a full disk must not end what people wait for. Who has
 * read enough of a list (`hearth list | head`) closes the pipe, and that is no failure; everything else is.
 */
function mindLostOutput(name: string | undefined): void {
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', ({ code }: NodeJS.ErrnoException) => {
      if (name === 'serve') return;
      if (code !== 'EPIPE' && stream === process.stdout) process.stderr.write(`hearth: cannot write: ${code}\n`);
      process.exit(code === 'EPIPE' ? 0 : 1);
    });
  }
}

async function main(argv: string[]): Promise<number> {
  const [name, ...rest] = argv;
  if (name === '--version') {
    process.stdout.write(`hearth ${version()}\n`);
    return 0;
  }
  if (name === 'help' && rest[0]) return main([rest[0], '--help']);
  if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
    process.stdout.write(wrapped(usage()));
    return name === undefined ? 2 : 0;
  }
  const command = Object.hasOwn(commands, name) ? commands[name] : undefined;
  if (!command) throw new UsageError(`unknown command '${name.slice(0, 80)}'; see hearth --help`);
  return command.run(rest);
}

/** A device that is lost is no fault of the program's: what happened in one line, and no stack. */
const lostDevice = (error: unknown) =>
  error instanceof EngineError && error.code === 'device'
    ? `the device was lost, and the server with it: ${error.message.replace(/\s*\n\s*/g, ' ')}`
    : null;

/** What the engine refuses to a command is for its caller to put right; a server's start has its own words for that. */
const refusal = (error: unknown, command: string | undefined) =>
  error instanceof EngineError && error.code !== 'internal' && command !== 'serve' ? error.message : null;

/** What the system says of a file or a folder (HEARTH_MODELS, a disk that is full or only read): it names it and the reason. */
const fileProblem = (error: unknown) =>
  error instanceof Error && 'syscall' in error && 'path' in error ? error.message : null;

mindLostOutput(process.argv[2]);
try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  const plain = unreadableOptions(error, process.argv[2]) ?? refusal(error, process.argv[2]) ?? fileProblem(error);
  const known = error instanceof UsageError || error instanceof HubError || plain !== null;
  const message = plain ?? (known ? (error as Error).message : lostDevice(error));
  process.stderr.write(`hearth: ${message ?? (error instanceof Error ? error.stack : error)}\n`);
  process.exitCode = known ? 2 : 1;
}
