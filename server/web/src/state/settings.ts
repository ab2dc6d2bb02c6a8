// What the person chose, kept in this browser only.
import { effect, signal } from '@preact/signals';

export interface Sampling {
  temperature?: number | undefined;
  topP?: number | undefined;
  topK?: number | undefined;
  minP?: number | undefined;
  maxTokens?: number | undefined;
  seed?: number | undefined;
  repetitionPenalty?: number | undefined;
}

export interface Settings {
  model: string;
  apiKey: string;
  systemPrompt: string;
  theme: 'auto' | 'light' | 'dark';
  sampling: Sampling;
}

const storageKey = 'hearth-settings';
const defaults: Settings = { model: '', apiKey: '', systemPrompt: '', theme: 'auto', sampling: {} };

function stored(): Settings {
  try {
    return { ...defaults, ...(JSON.parse(localStorage.getItem(storageKey) ?? '{}') as Partial<Settings>) };
  } catch {
    return defaults;
  }
}

export const settings = signal<Settings>(stored());
export const update = (change: Partial<Settings>): void => {
  settings.value = { ...settings.value, ...change };
};

/** Keeps storage and the page's theme true to the settings. */
export function keepSettings(): void {
  // Another tab changed them: what this one keeps next must not undo that.
  addEventListener('storage', ({ key }) => {
    if (key === storageKey) settings.value = stored();
  });
  effect(() => {
    document.documentElement.dataset.theme = settings.value.theme;
    try {
      localStorage.setItem(storageKey, JSON.stringify(settings.value));
    } catch {
      // Storage may be full or forbidden: the settings then last as long as the page.
    }
  });
}
