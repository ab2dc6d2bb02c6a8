import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts', 'server/**/*.test.ts'],
    // These need a browser, a proxy, a GPU or minutes: they have commands of their own.
    exclude: ['node_modules/**', 'test/browser/**', 'test/proxy/**', 'test/load/**', 'test/bench/**', 'test/pack/**'],
    // For what hangs. A machine with other work may take ten times as long as an idle one.
    testTimeout: 60_000,
    hookTimeout: 60_000,
    maxWorkers: 2,
  },
});
