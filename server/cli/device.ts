// Memory and bandwidth of the device that would serve, as the engine's doctor sees it.

import { z } from 'zod';
import { UsageError } from '../config.ts';
import { doctor } from '../engine/native/engine.ts';
import { builtLibrary } from './jobs.ts';

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
  const report = reportSchema.safeParse(doctor(builtLibrary(), {}));
  if (!report.success) throw new UsageError('the device does not say its bandwidth: give --memory and --bandwidth');
  const { name, memory_bytes: memoryBytes, bandwidth_gb_s: bandwidthGbS } = report.data.devices[0]!;
  return { name, memoryBytes, bandwidthGbS };
}
