// npm run hearth -- <command>: the command line from a clone, built first when that is needed.
process.argv.splice(2, 0, 'cli');
await import('./start.mjs');
