// Being told to stop, once.

/** A terminal's Ctrl-C and a service manager's SIGTERM reach every process of the group, and npm and scripts/start.mjs
    pass theirs on as well: what comes so soon after the first is the same one. */
const echoMs = 1000;

/** Calls `stop` on the first of the signals. A later one ends the process at once. Returns what ends the listening. */
export function onStop(signals: readonly NodeJS.Signals[], stop: (signal: NodeJS.Signals) => void): () => void {
  let begin: number | null = null;
  const end = () => {
    for (const signal of signals) process.removeListener(signal, received);
  };
  function received(signal: NodeJS.Signals): void {
    if (begin === null) {
      begin = performance.now();
      stop(signal);
    } else if (performance.now() - begin > echoMs) {
      end();
      process.kill(process.pid, signal);
    }
  }
  for (const signal of signals) process.on(signal, received);
  return end;
}
