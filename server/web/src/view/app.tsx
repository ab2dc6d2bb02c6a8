// The page: conversations at the side, one open in the middle, status on demand.
import { signal } from '@preact/signals';
import { useEffect, useLayoutEffect, useRef } from 'preact/hooks';
import { connection, connectionMessage, currentModel, models, refreshModels } from '../api/models';
import { conversation, streaming } from '../state/conversations';
import { settings, update } from '../state/settings';
import { path, textOf } from '../state/tree';
import { addFiles, Composer } from './composer';
import { ExamplesDialog } from './examples';
import { IconButton } from './icons';
import { MessageView } from './message';
import { ApiKeyField, SettingsDialog, settingsOpen } from './settings';
import { Sidebar, sidebarOpen } from './sidebar';
import { Starters } from './starters';
import { StatusPanel, statusOpen } from './status';
import { PictureViewer } from './viewer';

const dropping = signal(false);
const atEnd = signal(true);

export function App() {
  usePolling();
  useDropAnywhere();
  return (
    <div class={`app ${statusOpen.value ? 'with-status' : ''}`}>
      <a class="skip" href="#composer">
        Skip to the message
      </a>
      <Sidebar />
      <main class="main">
        <Header />
        <ConnectionNotice />
        <Thread />
        <Composer />
      </main>
      {statusOpen.value && <StatusPanel />}
      <SettingsDialog />
      <ExamplesDialog />
      <PictureViewer />
      <Announcer />
      {dropping.value && (
        <div class="drop" aria-hidden="true">
          Drop pictures anywhere
        </div>
      )}
    </div>
  );
}

/** The whole page takes dropped pictures. */
function useDropAnywhere(): void {
  useEffect(() => {
    const over = (event: DragEvent) => {
      event.preventDefault();
      dropping.value = event.dataTransfer?.types.includes('Files') ?? false;
    };
    const leave = (event: DragEvent) => {
      if (!event.relatedTarget) dropping.value = false;
    };
    const drop = (event: DragEvent) => {
      event.preventDefault();
      dropping.value = false;
      addFiles(event.dataTransfer?.files ?? []);
    };
    document.addEventListener('dragover', over);
    document.addEventListener('dragleave', leave);
    document.addEventListener('drop', drop);
    return () => {
      document.removeEventListener('dragover', over);
      document.removeEventListener('dragleave', leave);
      document.removeEventListener('drop', drop);
    };
  }, []);
}

/** Until the server is ready its state is asked for every two seconds; a model may be loading. */
function usePolling(): void {
  useEffect(() => {
    const timer = setInterval(
      () => connection.value !== 'ready' && connection.value !== 'key' && refreshModels(),
      2000,
    );
    return () => clearInterval(timer);
  }, []);
}

function Header() {
  const model = currentModel();
  const facts = model
    ? [
        model.vision ? 'sees pictures' : 'text only',
        model.context ? `${model.context.toLocaleString('en')} tokens` : '',
        model.precision,
        model.device,
      ]
    : [];
  return (
    <header class="header">
      <IconButton class="narrow-only" icon="menu" label="Conversations" onClick={() => (sidebarOpen.value = true)} />
      <label class="hidden" for="model">
        Model
      </label>
      <select
        id="model"
        value={settings.value.model}
        onChange={(event) => update({ model: event.currentTarget.value })}
      >
        {models.value.map((entry) => (
          <option key={entry.id} value={entry.id}>
            {entry.id}
          </option>
        ))}
      </select>
      <span class="facts">{facts.filter(Boolean).join(' · ')}</span>
      <IconButton
        icon="chart"
        label="Status"
        pressed={statusOpen.value}
        onClick={() => (statusOpen.value = !statusOpen.value)}
      />
      <IconButton icon="settings" label="Settings" onClick={() => (settingsOpen.value = true)} />
    </header>
  );
}

function ConnectionNotice() {
  const state = connection.value;
  if (state === 'ready' || state === 'connecting') return null;
  return (
    <div class="connection" role="status">
      {state === 'key' && (
        <>
          <p>{settings.value.apiKey ? 'The server does not know this key.' : 'This server asks for a key.'}</p>
          <ApiKeyField />
        </>
      )}
      {state === 'loading' && <p>The model is loading. This page goes on by itself when it is ready.</p>}
      {state === 'unreachable' && <p>{connectionMessage.value}</p>}
    </div>
  );
}

function Thread() {
  const element = useRef<HTMLDivElement>(null);
  const open = conversation.value;
  const messages = open ? path(open) : [];
  const toEnd = (behavior: ScrollBehavior = 'auto') =>
    element.current?.scrollTo({ top: element.current.scrollHeight, behavior });
  useLayoutEffect(() => {
    if (atEnd.value) toEnd();
  });
  useLayoutEffect(() => {
    atEnd.value = true;
    toEnd();
  }, [open?.id, messages.length]);
  return (
    <div
      class="thread"
      ref={element}
      tabIndex={-1}
      onScroll={({ currentTarget: { scrollHeight, scrollTop, clientHeight } }) =>
        (atEnd.value = scrollHeight - scrollTop - clientHeight < 60)
      }
    >
      <div class="column">
        {messages.length === 0 ? (
          <Starters />
        ) : (
          messages.map((message) => <MessageView key={message.id} message={message} />)
        )}
      </div>
      {!atEnd.value && messages.length > 0 && (
        <IconButton
          class="to-end"
          icon="down"
          label="To the end"
          onClick={() => {
            atEnd.value = true;
            toEnd('smooth');
          }}
        />
      )}
    </div>
  );
}

/** Screen readers hear an answer once, when it is complete, instead of every token. */
function Announcer() {
  const last = useRef('');
  const open = conversation.value;
  const answer = open ? path(open).at(-1) : undefined;
  if (!streaming.value && answer?.role === 'assistant' && answer.finish)
    last.current = textOf(answer) || (answer.error ?? '');
  return (
    <div class="hidden" aria-live="polite">
      {streaming.value ? '' : last.current}
    </div>
  );
}
