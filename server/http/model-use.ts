// A request and its model: loaded first where needed, and kept for as long as the request lives.

import type { ModelInfo } from '../engine/port.ts';
import type { AppContext } from './context.ts';
import type { RequestScope } from './scope.ts';

/** The model of a request; it is not unloaded before the request is over. */
export async function useModel(context: AppContext, name: string | undefined, scope: RequestScope): Promise<ModelInfo> {
  const lease = await context.lifecycle.models().acquire(name, scope);
  scope.onEnd(lease.release);
  scope.throwIfAborted();
  return lease.info;
}

/** The same for work that ends with its promise. */
export async function withModel<T>(
  context: AppContext,
  name: string | undefined,
  work: (model: ModelInfo) => Promise<T>,
): Promise<T> {
  const lease = await context.lifecycle.models().acquire(name);
  try {
    return await work(lease.info);
  } finally {
    lease.release();
  }
}
