// npm start: from a fresh clone to a server on http://127.0.0.1:8080. Options after `--` are the server's.
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { root } from './lib/build.mjs';
import { prepare } from './lib/prepare.mjs';

await prepare({ targets: ['hearth', 'hearth-bench'] });
const command = process.argv[2] === 'cli' ? process.argv.slice(3) : ['serve', ...process.argv.slice(2)];
const child = spawn(
  process.execPath,
  ['--import', import.meta.resolve('tsx'), join(root, 'server/cli/main.ts'), ...command],
  {
    stdio: 'inherit',
  },
);
// A terminal sends Ctrl-C to both; a supervisor may send SIGTERM to this process only. Twice is once (server/signals.ts).
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
child.on('exit', (code, signal) => process.exit(signal ? 128 + 15 : (code ?? 1)));
