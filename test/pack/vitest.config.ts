import { defineConfig } from 'vitest/config';

// npm run test:pack: installs a package from the registry's dependencies, so it needs a network and minutes.
export default defineConfig({
  test: { include: ['test/pack/**/*.test.ts'], testTimeout: 60_000, hookTimeout: 300_000 },
});
