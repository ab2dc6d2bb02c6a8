// The conversations of this browser: open, rename, export, delete.
import { signal } from '@preact/signals';
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { conversations, openId, remove, rename, unkept } from '../state/conversations';
import { type Conversation, path, textOf } from '../state/tree';
import { focusComposer, focusSoon, offerComposer } from './focus';
import { IconButton } from './icons';

/** On a narrow page the list lies over the rest, and the rest is out of reach for as long. */
export const sidebarOpen = signal(false);

export function openSidebar(): void {
  sidebarOpen.value = true;
  focusSoon(() => document.querySelector('.sidebar .brand button'));
}

export function closeSidebar(): void {
  sidebarOpen.value = false;
  focusSoon(() => document.getElementById('sidebar-button'));
}

function useCloseWhenWide(): void {
  useEffect(() => {
    const wide = matchMedia('(min-width: 761px)');
    const close = () => (sidebarOpen.value = false);
    wide.addEventListener('change', close);
    return () => wide.removeEventListener('change', close);
  }, []);
}

function startNew(): void {
  openId.value = null;
  sidebarOpen.value = false;
  focusComposer();
}

export function Sidebar() {
  useCloseWhenWide();
  return (
    <>
      {sidebarOpen.value && <button type="button" class="scrim" aria-label="Close the list" onClick={closeSidebar} />}
      <nav class={`sidebar ${sidebarOpen.value ? 'open' : ''}`} aria-label="Conversations">
        <div class="row brand">
          <img src="./icon.svg" alt="" width="28" height="28" />
          <strong>Hearth</strong>
          <IconButton icon="plus" label="New conversation" onClick={startNew} />
        </div>
        <ul>
          {conversations.value.map((entry) => (
            <Entry key={entry.id} entry={entry} />
          ))}
        </ul>
        {unkept.value ? (
          <p class="error" role="alert">
            This browser does not keep conversations: its storage is full or forbidden. They last as long as this page.
          </p>
        ) : (
          conversations.value.length === 0 && <p class="muted">Conversations stay in this browser.</p>
        )}
        {conversations.value.length > 0 && (
          <button
            type="button"
            class="button quiet"
            onClick={() =>
              save('hearth-conversations.json', 'application/json', JSON.stringify(conversations.value, null, 1))
            }
          >
            Export all
          </button>
        )}
      </nav>
    </>
  );
}

function Entry({ entry }: { entry: Conversation }) {
  const [renaming, setRenaming] = useState(false);
  const open = entry.id === openId.value;
  if (renaming) return <Renaming entry={entry} done={() => setRenaming(false)} />;
  return (
    <li class={open ? 'open' : ''}>
      <button
        type="button"
        class="entry"
        aria-current={open ? 'page' : undefined}
        onDblClick={() => setRenaming(true)}
        dir="auto"
        onClick={(event) => {
          // A keyboard opened it (detail 0): the focus stays, and the next Tab comes to what can be done with it.
          if (event.detail > 0 || sidebarOpen.value) offerComposer();
          openId.value = entry.id;
          sidebarOpen.value = false;
        }}
      >
        {entry.title || 'Untitled'}
      </button>
      {open && (
        <span class="row">
          <IconButton icon="edit" label="Rename" onClick={() => setRenaming(true)} />
          <IconButton
            icon="download"
            label="Export as Markdown"
            onClick={() => save(`${fileName(entry.title)}.md`, 'text/markdown', asMarkdown(entry))}
          />
          <IconButton
            icon="trash"
            label="Delete"
            onClick={() => {
              if (!confirm(`Delete “${entry.title || 'Untitled'}”?`)) return;
              remove(entry.id);
              if (!sidebarOpen.value) offerComposer();
            }}
          />
        </span>
      )}
    </li>
  );
}

function Renaming({ entry, done }: { entry: Conversation; done: () => void }) {
  const input = useRef<HTMLInputElement>(null);
  const ended = useRef(false);
  useLayoutEffect(() => input.current?.select(), []);
  const end = (keep: boolean) => {
    // The browser takes the focus from a field that leaves the page: that comes here a second time.
    if (ended.current) return;
    ended.current = true;
    if (keep) rename(entry.id, input.current?.value ?? '');
    done();
  };
  return (
    <li>
      <input
        type="text"
        aria-label="Title"
        dir="auto"
        defaultValue={entry.title}
        ref={input}
        onBlur={() => end(true)}
        onKeyDown={(event) => {
          if (event.isComposing || (event.key !== 'Enter' && event.key !== 'Escape')) return;
          event.preventDefault();
          end(event.key === 'Enter');
          focusSoon(() => document.querySelector('.sidebar li.open [aria-label="Rename"]'));
        }}
      />
    </li>
  );
}

const fileName = (title: string): string => title.replace(/[^\p{L}\p{N}]+/gu, '-').slice(0, 50) || 'conversation';

function asMarkdown(entry: Conversation): string {
  const parts = path(entry).map((message) => {
    const pictures = message.pieces.flatMap((piece) =>
      'picture' in piece ? [`![${piece.picture.name}](${piece.picture.url})`] : [],
    );
    return `**${message.role === 'user' ? 'You' : (message.model ?? 'Answer')}**\n\n${[...pictures, textOf(message)].join('\n\n')}`;
  });
  return `# ${entry.title}\n\n${parts.join('\n\n')}\n`;
}

function save(name: string, type: string, content: string): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
