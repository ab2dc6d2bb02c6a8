// The conversations of this browser: open, rename, export, delete.
import { signal } from '@preact/signals';
import { useState } from 'preact/hooks';
import { conversations, openId, remove, rename } from '../state/conversations';
import { type Conversation, path, textOf } from '../state/tree';
import { focusComposer } from './composer';
import { IconButton } from './icons';

export const sidebarOpen = signal(false);

function startNew(): void {
  openId.value = null;
  sidebarOpen.value = false;
  focusComposer();
}

export function Sidebar() {
  return (
    <>
      {sidebarOpen.value && (
        <button type="button" class="scrim" aria-label="Close the list" onClick={() => (sidebarOpen.value = false)} />
      )}
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
        {conversations.value.length === 0 && <p class="muted">Conversations stay in this browser.</p>}
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
  if (renaming) {
    return (
      <li>
        <input
          type="text"
          aria-label="Title"
          value={entry.title}
          ref={(element) => element?.select()}
          onBlur={(event) => {
            rename(entry.id, event.currentTarget.value);
            setRenaming(false);
          }}
          onKeyDown={(event) => event.key === 'Enter' && event.currentTarget.blur()}
        />
      </li>
    );
  }
  return (
    <li class={open ? 'open' : ''}>
      <button
        type="button"
        class="entry"
        aria-current={open ? 'page' : undefined}
        onDblClick={() => setRenaming(true)}
        onClick={() => {
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
            onClick={() => confirm(`Delete “${entry.title || 'Untitled'}”?`) && remove(entry.id)}
          />
        </span>
      )}
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
