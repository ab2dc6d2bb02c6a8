// System prompt, sampling, key and theme. An empty field means the model's own default.
import { signal } from '@preact/signals';
import { refreshModels } from '../api/models';
import { type Sampling, type Settings, settings, update } from '../state/settings';
import { IconButton } from './icons';
import { useModal } from './modal';

export const settingsOpen = signal(false);

interface NumberField {
  key: keyof Sampling;
  label: string;
  min: number;
  max: number;
  step: number;
  help: string;
}

const fields: NumberField[] = [
  { key: 'temperature', label: 'Temperature', min: 0, max: 2, step: 0.1, help: '0 always takes the likeliest token' },
  { key: 'topP', label: 'Top p', min: 0, max: 1, step: 0.05, help: 'share of probability to draw from' },
  { key: 'topK', label: 'Top k', min: 0, max: 1000, step: 1, help: 'how many tokens to draw from; 0 is all' },
  { key: 'minP', label: 'Min p', min: 0, max: 1, step: 0.01, help: 'leave out tokens below this share of the best' },
  { key: 'repetitionPenalty', label: 'Repetition penalty', min: 0.5, max: 2, step: 0.05, help: '1 is none' },
  { key: 'maxTokens', label: 'Longest answer', min: 1, max: 131072, step: 1, help: 'in tokens' },
  { key: 'seed', label: 'Seed', min: 0, max: 4294967295, step: 1, help: 'the same seed gives the same answer' },
];

const setSampling = (key: keyof Sampling, text: string): void => {
  update({ sampling: { ...settings.value.sampling, [key]: text === '' ? undefined : Number(text) } });
};

export function SettingsDialog() {
  return settingsOpen.value && <Dialog />;
}

function Dialog() {
  const close = () => (settingsOpen.value = false);
  return (
    <dialog class="panel" aria-labelledby="settings-title" ref={useModal(close)}>
      <header class="row">
        <h2 id="settings-title">Settings</h2>
        <IconButton icon="close" label="Close" onClick={close} />
      </header>
      <label class="field">
        <span>System prompt</span>
        <textarea
          rows={3}
          value={settings.value.systemPrompt}
          onInput={(event) => update({ systemPrompt: event.currentTarget.value })}
        />
      </label>
      <div class="grid">
        {fields.map(({ key, label, min, max, step, help }) => (
          <label class="field" key={key}>
            <span>{label}</span>
            <input
              type="number"
              min={min}
              max={max}
              step={step}
              value={settings.value.sampling[key] ?? ''}
              placeholder="default"
              aria-describedby={`help-${key}`}
              onInput={(event) => setSampling(key, event.currentTarget.value)}
            />
            <small id={`help-${key}`}>{help}</small>
          </label>
        ))}
      </div>
      <ApiKeyField />
      <label class="field">
        <span>Theme</span>
        <select
          value={settings.value.theme}
          onChange={(event) => update({ theme: event.currentTarget.value as Settings['theme'] })}
        >
          <option value="auto">as the system</option>
          <option value="light">light</option>
          <option value="dark">dark</option>
        </select>
      </label>
      <div class="row end">
        <button type="button" class="button" onClick={() => update({ sampling: {}, systemPrompt: '' })}>
          Back to defaults
        </button>
        <button type="button" class="button primary" onClick={close}>
          Done
        </button>
      </div>
    </dialog>
  );
}

export function ApiKeyField() {
  return (
    <label class="field">
      <span>API key</span>
      <input
        type="password"
        autocomplete="off"
        value={settings.value.apiKey}
        placeholder="only when the server asks for one"
        onChange={(event) => {
          update({ apiKey: event.currentTarget.value.trim() });
          refreshModels();
        }}
      />
      <small>kept in this browser, sent to this server only</small>
    </label>
  );
}
