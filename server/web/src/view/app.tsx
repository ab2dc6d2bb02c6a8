// The page: conversations at the side, one open in the middle, status on demand.
import { signal } from '@preact/signals';
import { useEffect, useLayoutEffect, useRef } from 'preact/hooks';
import { connection, connectionMessage, currentModel, models, refreshModels } from '../api/models';
import { conversation, stop } from '../state/conversations';
import { settings, update } from '../state/settings';
import { path } from '../state/tree';
import { Announcer } from './announcer';
import { addFiles, Composer } from './composer';
import { ExamplesDialog } from './examples';
import { focusSoon } from './focus';
import { IconButton } from './icons';
import { MessageView } from './message';
import { ApiKeyField, SettingsDialog, settingsOpen } from './settings';
import { closeSidebar, openSidebar, Sidebar, sidebarOpen } from './sidebar';
import { Starters } from './starters';
import { closeStatus, StatusPanel, statusOpen } from './status';
import { PictureViewer } from './viewer';

const dropping = signal(false);
const atEnd = signal(true);

export function App() {
  usePolling();
  useDropAnywhere();
  useEscape();
  useTitle();
  return (
    <div class={`app ${statusOpen.value ? 'with-status' : ''}`}>
      <a class="skip" href="#composer">
        Skip to the message
      </a>
      <Sidebar />
      <main class="main" inert={sidebarOpen.value}>
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

/** Escape takes away what lies over the page, else it stops the answer. Dialogs close by themselves. */
function useEscape(): void {
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (event.key !== 'Escape' || event.defaultPrevented || event.isComposing) return;
      if (document.querySelector('dialog[open]')) return;
      if (sidebarOpen.value) closeSidebar();
      else if (statusOpen.value && document.activeElement?.closest('.status, #status-button')) closeStatus();
      else stop();
    };
    document.addEventListener('keydown', onKey);
    return () => document.removeEventListener('keydown', onKey);
  }, []);
}

/** Until the server is ready its state is asked for every two seconds; a model may be loading. */
function usePolling(): void {
  useEffect(() => {
    let asking = false;
    const timer = setInterval(async () => {
      if (asking || connection.value === 'ready' || connection.value === 'key') return;
      asking = true;
      await refreshModels();
      asking = false;
    }, 2000);
    return () => clearInterval(timer);
  }, []);
}

/** Tabs side by side are told apart by what is talked about in them. */
function useTitle(): void {
  const title = conversation.value?.title;
  useEffect(() => {
    document.title = title ? `${title} · Hearth` : 'Hearth';
  }, [title]);
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
      <IconButton class="narrow-only" id="sidebar-button" icon="menu" label="Conversations" onClick={openSidebar} />
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
        id="status-button"
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
      {state === 'unreachable' && <p>{connectionMessage.value} This page goes on by itself when it answers again.</p>}
    </div>
  );
}

function Thread() {
  const element = useRef<HTMLElement>(null);
  const open = conversation.value;
  const messages = open ? path(open) : [];
  const column = useRef<HTMLDivElement>(null);
  const top = useRef(0);
  const toEnd = (behavior: ScrollBehavior = 'auto') => {
    if (!element.current) return;
    element.current.scrollTo({ top: element.current.scrollHeight, behavior });
    top.current = element.current.scrollTop;
  };
  useLayoutEffect(() => {
    if (!element.current || !column.current) return;
    // Also for what grows by itself: code and formulas are dressed after they are drawn, blocks measured when they are seen.
    const observer = new ResizeObserver(() => atEnd.peek() && toEnd());
    observer.observe(element.current);
    observer.observe(column.current);
    return () => observer.disconnect();
  }, []);
  useLayoutEffect(() => {
    if (atEnd.value) toEnd();
  });
  useLayoutEffect(() => {
    atEnd.value = messages.length > 0;
    if (atEnd.value) toEnd();
    else element.current?.scrollTo({ top: 0 });
  }, [open?.id, messages.length]);
  const onScroll = ({ currentTarget: { scrollHeight, scrollTop, clientHeight } }: { currentTarget: HTMLElement }) => {
    // Only who scrolls up leaves the end: it also moves away by itself.
    if (scrollHeight - scrollTop - clientHeight < 60) atEnd.value = messages.length > 0;
    else if (scrollTop < top.current) atEnd.value = false;
    top.current = scrollTop;
  };
  return (
    <section
      class={`thread ${atEnd.value ? 'pinned' : ''}`}
      ref={element}
      aria-label="Conversation"
      tabIndex={messages.length > 0 ? 0 : -1}
      onScroll={onScroll}
    >
      <div class="column" ref={column}>
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
            toEnd(matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth');
            focusSoon(() => element.current);
          }}
        />
      )}
    </section>
  );
}
