// What a person sees while something is prepared: one line a stage, with the time it took.
const tty = process.stdout.isTTY && process.stderr.isTTY && !process.env.NO_COLOR;
const paint = (code, text) => (tty ? `\u001b[${code}m${text}\u001b[0m` : text);
export const dim = (text) => paint(2, text);
export const green = (text) => paint(32, text);
export const red = (text) => paint(31, text);

export const seconds = (ms) => (ms < 950 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

/** Prints the line of a stage when it is done: `✓ engine built   12.3 s`. Not on stdout: a command's --json goes there. */
export function stageDone(text, startedAt) {
  console.error(`${green('✓')} ${text.padEnd(56)} ${dim(seconds(performance.now() - startedAt))}`);
}

/** Ends the process with one message that says what is wrong and what to do. */
export function fail(message, code = 2) {
  console.error(`${red('✗')} ${message}`);
  process.exit(code);
}
