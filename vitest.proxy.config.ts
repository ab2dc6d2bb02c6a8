import { defineConfig } from 'vitest/config';

// npm run test:proxy: needs Debian's nginx and caddy (apt-get install -y nginx caddy).
export default defineConfig({
  test: { include: ['test/proxy/**/*.test.ts'], testTimeout: 30_000, hookTimeout: 30_000, fileParallelism: false },
});
