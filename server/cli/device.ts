// Memory and bandwidth of the device that would serve, as the engine's doctor sees it.

import { existsSync } from 'node:fs';
import { z } from 'zod';
import { UsageError } from '../config.ts';
import { doctor } from '../engine/native/engine.ts';
import { defaultLibrary } from '../engine/native/library.ts';

export interface DeviceSummary {
  name: string;
  memoryBytes: number;
  bandwidthGbS: number;
}

const reportSchema = z.object({
  devices: z
    .array(z.object({ name: z.string(), memory_bytes: z.number(), bandwidth_gb_s: z.number().positive() }))
    .min(1),
});

/** The first device of the doctor's report: the one that `--device auto` takes. */
export async function describeDevice(): Promise<DeviceSummary> {
  const library = process.env.HEARTH_ENGINE_LIBRARY || defaultLibrary;
  if (!existsSync(library)) throw new UsageError(`${library} is not built: run npm start once`);
  const report = reportSchema.safeParse(doctor(library, {}));
  if (!report.success) throw new UsageError('the device does not say its bandwidth: give --memory and --bandwidth');
  const { name, memory_bytes: memoryBytes, bandwidth_gb_s: bandwidthGbS } = report.data.devices[0]!;
  return { name, memoryBytes, bandwidthGbS };
}
