// hearth list: what is here, what the catalogue offers, and with --fits what this device can hold and how fast.

import { parseArgs } from 'node:util';
import { UsageError } from '../config.ts';
import { bestFit, type CatalogueEntry } from '../models/catalogue.ts';
import { localModels, modelsFolder } from '../models/local.ts';
import { catalogue } from './pull.ts';
import { bold, bytes, dim, table, wrapped } from './terminal.ts';

export const help = `hearth list [--fits] [--json]

Shows the models on this machine and the catalogue of checkpoints that Hearth can serve.

  --fits             add what this device can hold: precision, context, roofline tokens a second
  --memory GB        --fits for this much memory instead of the device's
  --bandwidth GB/S   --fits for this bandwidth instead of the device's
  --json             print as JSON

Environment: HEARTH_MODELS for the folder of pulled models.

Examples:
  hearth list --fits
  hearth list --fits --memory 8 --bandwidth 256     (an RTX 4070 Laptop)`;

interface DeviceNumbers {
  memoryBytes: number;
  bandwidthGbS: number;
  name: string;
}

/** Memory and bandwidth of the device that would serve; `ask` is the engine's doctor. */
async function deviceNumbers(values: { memory?: string; bandwidth?: string }): Promise<DeviceNumbers> {
  const given = { memory: positive('--memory', values.memory), bandwidth: positive('--bandwidth', values.bandwidth) };
  if (given.memory && given.bandwidth) {
    return {
      memoryBytes: given.memory * 2 ** 30,
      bandwidthGbS: given.bandwidth,
      name: `${given.memory} GB, ${given.bandwidth} GB/s`,
    };
  }
  const { describeDevice } = await import('./device.ts');
  const device = await describeDevice();
  return {
    memoryBytes: given.memory ? given.memory * 2 ** 30 : device.memoryBytes,
    bandwidthGbS: given.bandwidth ?? device.bandwidthGbS,
    name: device.name,
  };
}

function positive(option: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (!(value > 0)) throw new UsageError(`${option} takes a positive number, not ${text}`);
  return value;
}

const short = (count: number): string =>
  count >= 1e9 ? `${(count / 1e9).toFixed(1)} B` : `${Math.round(count / 1e6)} M`;

const headOf = (device: DeviceNumbers | null) => [
  ...['name', 'parameters', 'vision'],
  ...(device ? ['fits as', 'tokens of KV', 'tokens/s'] : ['context', 'gated', 'licence']),
];

function catalogueRow(entry: CatalogueEntry, device: DeviceNumbers | null): string[] {
  const row = [entry.name, short(entry.parameters), entry.vision ? 'yes' : ''];
  if (!device) return [...row, entry.context.toLocaleString('en'), entry.gated ? 'yes' : '', entry.licence];
  const fit = bestFit(entry, device);
  if (!fit) return [...row, 'does not fit', '', ''];
  return [
    ...row,
    `${fit.precision} ${bytes(fit.weights)}`,
    fit.contextTokens.toLocaleString('en'),
    fit.tokensPerSecond.toFixed(fit.tokensPerSecond < 20 ? 1 : 0),
  ];
}

export async function run(args: string[]): Promise<number> {
  const { values } = parseArgs({
    args,
    options: {
      fits: { type: 'boolean' },
      memory: { type: 'string' },
      bandwidth: { type: 'string' },
      json: { type: 'boolean' },
    },
  });
  const entries = catalogue();
  const local = localModels();
  const fits = values.fits || values.memory !== undefined || values.bandwidth !== undefined;
  const device = fits ? await deviceNumbers(values) : null;
  if (values.json) {
    const offered = entries.map((entry) => ({ ...entry, fit: device ? bestFit(entry, device) : undefined }));
    console.log(JSON.stringify({ folder: modelsFolder(), device, local, catalogue: offered }));
    return 0;
  }
  console.log(bold('On this machine'));
  console.log(
    table(
      ['name', 'size', 'where'],
      local.map(({ name, path, bytes: size }) => [name, bytes(size), path]),
    ),
  );
  console.log(`\n${bold('Catalogue')} ${dim('(hearth pull NAME)')}`);
  console.log(
    table(
      headOf(device),
      entries.map((entry) => catalogueRow(entry, device)),
    ),
  );
  const note = device
    ? `For ${device.name}: ${bytes(device.memoryBytes)}, ${Math.round(device.bandwidthGbS)} GB/s. tokens/s is the roofline (bytes ÷ bandwidth), of which 60–95 % is reached. hearth list shows licences and contexts.`
    : 'Shapes and licences as their makers publish them, not checked from here.';
  console.log(dim(`\n${wrapped(note)}`));
  return 0;
}
