// What /v1/models says of each model, Hearth's extra fields included.
import { signal } from '@preact/signals';
import { settings, update } from '../state/settings';
import { type ApiError, call } from './base';

export interface ModelCard {
  id: string;
  context: number | null;
  vision: boolean;
  precision: string | null;
  device: string | null;
}

interface WireModel {
  id: string;
  max_model_len?: number;
  capabilities?: { vision?: boolean };
  precision?: string;
  device?: string;
}

export type Connection = 'connecting' | 'ready' | 'unreachable' | 'key' | 'loading';

export const models = signal<ModelCard[]>([]);
export const connection = signal<Connection>('connecting');
export const connectionMessage = signal('');

/** A server that does not say in this time what it serves is as good as gone. */
const patienceMs = 10_000;

/** Asks the server what it serves; keeps `connection` true to what came back. */
export async function refreshModels(): Promise<void> {
  try {
    const body = (await (await call('v1/models', { signal: AbortSignal.timeout(patienceMs) })).json()) as {
      data: WireModel[];
    };
    models.value = body.data.map((model) => ({
      id: model.id,
      context: model.max_model_len ?? null,
      vision: model.capabilities?.vision ?? false,
      precision: model.precision ?? null,
      device: model.device ?? null,
    }));
    if (!models.value.some((model) => model.id === settings.value.model)) update({ model: models.value[0]?.id ?? '' });
    connection.value = models.value.length > 0 ? 'ready' : 'loading';
  } catch (error) {
    const { status, message } = error as ApiError;
    connection.value = status === 401 ? 'key' : status === 503 ? 'loading' : 'unreachable';
    connectionMessage.value = message;
  }
}

export const currentModel = (): ModelCard | undefined =>
  models.value.find((model) => model.id === settings.value.model);
