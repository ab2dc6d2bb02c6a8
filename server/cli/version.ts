// What this is: the version of package.json.

import { readFileSync } from 'node:fs';
import { z } from 'zod';

export function version(): string {
  const file = new URL('../../package.json', import.meta.url);
  return z.object({ version: z.string() }).parse(JSON.parse(readFileSync(file, 'utf8'))).version;
}
