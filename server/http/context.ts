// What every route gets: built once by the composition root or by a test, never global.

import type { Render } from '../chat/prompt.ts';
import type { ImageDecoder } from '../images/decoder.ts';
import type { Admission } from './admission.ts';
import type { Lifecycle } from './lifecycle.ts';
import type { Metrics } from './metrics.ts';
import type { RateLimits } from './rate-limits.ts';
import type { KeepAlive } from './sse.ts';

/** The settings that routes read; config.ts has their meaning and defaults. */
export interface HttpSettings {
  basePath: string;
  trustProxy: boolean;
  lenient: boolean;
  bodyLimitMb: number;
  maxChoices: number;
  maxImages: number;
  keepAliveSeconds: number;
  heartbeatSeconds: number;
  allowedHosts: readonly string[];
  corsOrigins: readonly string[];
  queueRequests: number;
  queueTokens: number;
}

export interface AppContext {
  lifecycle: Lifecycle;
  settings: HttpSettings;
  render: Render;
  images: ImageDecoder;
  metrics: Metrics;
  admission: Admission;
  limits: RateLimits;
  keepAlive: KeepAlive;
}

/** Unread bytes after which a stream is cancelled: a slow reader never slows the engine. */
export const unreadBytesMax = 1024 * 1024;
