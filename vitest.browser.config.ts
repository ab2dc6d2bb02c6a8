import { defineConfig } from 'vitest/config';

// npm run test:browser: needs Debian's Chromium (apt-get install -y chromium).
export default defineConfig({
  test: {
    include: ['test/browser/**/*.test.ts'],
    globalSetup: './test/browser/setup.mjs',
    testTimeout: 30_000,
    hookTimeout: 30_000,
    fileParallelism: false,
  },
});
