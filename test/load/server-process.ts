// A real server in a process of its own, and what it takes: memory and descriptors from /proc.

import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const main = fileURLToPath(new URL('../../server/cli/main.ts', import.meta.url));

export interface Sample {
  /** Seconds since the first. */
  at: number;
  residentMib: number;
  descriptors: number;
}

export class ServerProcess {
  readonly samples: Sample[] = [];
  /** Lines of the log at level error or worse. */
  readonly problems: string[] = [];
  /** Lines of its standard error, which are also shown. */
  readonly errors: string[] = [];
  /** The exit code, or the signal that ended it. */
  readonly exited: Promise<number | string | null>;
  readonly #child: ChildProcess;
  #url = '';
  #begin = 0;

  constructor(argv: readonly string[]) {
    this.#child = spawn(
      process.execPath,
      ['--import', 'tsx', main, 'serve', '--port', '0', '--log-format', 'json', ...argv],
      {
        stdio: ['ignore', 'pipe', 'pipe'],
      },
    );
    this.exited = new Promise((resolve) => this.#child.once('close', (code, signal) => resolve(signal ?? code)));
    // However this process ends, the server does not outlive it.
    process.once('exit', () => this.#child.kill('SIGKILL'));
    createInterface({ input: this.#child.stderr! }).on('line', (line) => {
      this.errors.push(line);
      process.stderr.write(`${line}\n`);
    });
    createInterface({ input: this.#child.stdout! }).on('line', (line) => this.#read(line));
  }

  get url(): string {
    return this.#url;
  }

  #read(line: string): void {
    const entry = line.startsWith('{') ? (JSON.parse(line) as Record<string, unknown>) : { level: 50 };
    if (entry['stage'] === 'listening') this.#url = String(entry['detail']);
    if (Number(entry['level']) >= 50) this.problems.push(line.slice(0, 500));
  }

  /** Resolves when requests can be served. */
  async ready(): Promise<void> {
    let gone = false;
    void this.exited.then(() => {
      gone = true;
    });
    while (!this.#url || !(await fetch(`${this.#url}/health`)).ok) {
      if (gone) throw new Error('the server ended before it was ready');
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  sample(): Sample {
    const { pid } = this.#child;
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    const now = performance.now() / 1000;
    this.#begin ||= now;
    const sample = {
      at: now - this.#begin,
      residentMib: Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)![1]) / 1024,
      descriptors: readdirSync(`/proc/${pid}/fd`).length,
    };
    this.samples.push(sample);
    return sample;
  }

  get pid(): number {
    return this.#child.pid!;
  }

  /** As the kernel does when memory is short. */
  kill(): void {
    this.#child.kill('SIGKILL');
  }

  stop(): void {
    this.#child.kill('SIGTERM');
  }
}

/** Least-squares slope of a column, an hour. The first quarter is warming up and left out. */
export function slopePerHour(samples: readonly Sample[], read: (sample: Sample) => number): number {
  const kept = samples.slice(Math.floor(samples.length / 4));
  const meanAt = kept.reduce((sum, { at }) => sum + at, 0) / kept.length;
  const mean = kept.reduce((sum, sample) => sum + read(sample), 0) / kept.length;
  const spread = kept.reduce((sum, { at }) => sum + (at - meanAt) ** 2, 0);
  const together = kept.reduce((sum, sample) => sum + (sample.at - meanAt) * (read(sample) - mean), 0);
  return spread === 0 ? 0 : (together / spread) * 3600;
}
