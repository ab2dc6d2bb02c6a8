// One message: its pictures, its text, how fast it came, and what can be done with it.
import { Fragment } from 'preact';
import { useLayoutEffect, useRef, useState } from 'preact/hooks';
import { conversation, retry, send, showBranch, streaming } from '../state/conversations';
import { type AnswerStats, type Message, type Picture, type Piece, picturesOf, siblings, textOf } from '../state/tree';
import { announce } from './announcer';
import { focusSoon, offerComposer } from './focus';
import { IconButton } from './icons';
import { copyText, Markdown } from './markdown';
import { openPicture } from './viewer';

const endings: Record<string, string> = {
  length: 'Ended at the token limit.',
  stopped: 'Stopped.',
  left: 'Broken off: the page was left before it was complete.',
  content_filter: 'Ended by a filter.',
};

const endingOf = (message: Message): string | undefined =>
  message.finish === 'stop' && !textOf(message)
    ? 'The model ended its answer without a word.'
    : endings[message.finish!];

export function MessageView({ message }: { message: Message }) {
  const [editing, setEditing] = useState(false);
  const live = streaming.value?.message === message.id;
  return (
    <article
      class={`message ${message.role}`}
      data-message={message.id}
      aria-label={message.role === 'user' ? 'You' : 'Answer'}
      aria-busy={live}
    >
      {message.role === 'user' ? (
        editing ? (
          <Editor message={message} close={() => setEditing(false)} />
        ) : (
          <UserBody message={message} />
        )
      ) : (
        <AnswerBody message={message} live={live} />
      )}
      {!editing && !live && <Actions message={message} edit={() => setEditing(true)} />}
    </article>
  );
}

/** Text as it is, pictures that follow one another together. */
function runsOf(pieces: Piece[]): Array<string | Picture[]> {
  const runs: Array<string | Picture[]> = [];
  for (const piece of pieces) {
    const last = runs.at(-1);
    if ('text' in piece) {
      if (piece.text) runs.push(piece.text);
    } else if (Array.isArray(last)) last.push(piece.picture);
    else runs.push([piece.picture]);
  }
  return runs;
}

function UserBody({ message }: { message: Message }) {
  const many = picturesOf(message).length > 1;
  let index = 0;
  return (
    <div class="bubble">
      {runsOf(message.pieces).map((run, key) =>
        typeof run === 'string' ? (
          <p key={key} class="plain" dir="auto">
            {run}
          </p>
        ) : (
          <div key={key} class="thumbnails">
            {run.map((picture) => {
              const label = many ? `Picture ${++index}` : 'Picture';
              return <Thumbnail key={label} picture={picture} label={label} />;
            })}
          </div>
        ),
      )}
    </div>
  );
}

function Thumbnail({ picture, label }: { picture: Picture; label: string }) {
  return (
    <button
      type="button"
      class="thumbnail"
      onClick={() => openPicture(picture)}
      aria-label={`${label}: ${picture.name}. Show larger`}
    >
      <img src={picture.url} alt={`${label}: ${picture.name}`} />
    </button>
  );
}

function AnswerBody({ message, live }: { message: Message; live: boolean }) {
  const text = textOf(message);
  return (
    <div class="answer">
      {message.reasoning && (
        <details class="reasoning" open={live && !text}>
          <summary>{live && !text ? 'Thinking…' : 'Thoughts'}</summary>
          <Markdown text={message.reasoning} live={live} />
        </details>
      )}
      {live && !text && !message.reasoning && (
        <span class="waiting" role="status" aria-label="Waiting for the first token" />
      )}
      <Markdown text={text} live={live} />
      {message.error && (
        <p class="error" role="alert">
          {message.error}
        </p>
      )}
      {message.finish && endingOf(message) && <p class="ending">{endingOf(message)}</p>}
    </div>
  );
}

/** A message without words gets a place for some. */
const editable = (pieces: Piece[]): Piece[] =>
  pieces.some((piece) => 'text' in piece) ? pieces : [...pieces, { text: '' }];

/** With the white space that parted the old text from the picture behind it: that is nothing one edits. */
const ended = (text: string, old: string, last: boolean): string =>
  text.trim() && text.trim() + (last ? '' : (/\s*$/.exec(old)?.[0] ?? ''));

/** Texts can be typed into where they stand among the pictures. */
function Editor({ message, close }: { message: Message; close: () => void }) {
  const pieces = editable(message.pieces);
  const [texts, setTexts] = useState(() => pieces.map((piece) => ('text' in piece ? piece.text.trimEnd() : '')));
  const element = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => element.current?.querySelector('textarea')?.focus(), []);
  const cancel = () => {
    close();
    focusSoon(() => document.querySelector(`[data-message="${message.id}"] [aria-label="Edit and branch"]`));
  };
  const edited = pieces
    .map((piece, at) =>
      'text' in piece ? { text: ended(texts[at] ?? '', piece.text, at === pieces.length - 1) } : piece,
    )
    .filter((piece) => !('text' in piece) || piece.text);
  const submit = () => {
    close();
    offerComposer();
    send(edited, message.parent);
  };
  const parts = pieces.flatMap((piece, at) => ('text' in piece ? [at] : []));
  return (
    <div class="editor" ref={element}>
      <div class="thumbnails">
        {pieces.map((piece, at) =>
          'picture' in piece ? (
            <Thumbnail key={at} picture={piece.picture} label="Picture" />
          ) : (
            <EditedText
              key={at}
              id={`edit-${message.id}-${at}`}
              label={`Edit your message${parts.length > 1 ? `, part ${parts.indexOf(at) + 1} of ${parts.length}` : ''}`}
              text={texts[at] ?? ''}
              change={(text) => setTexts(texts.map((other, index) => (index === at ? text : other)))}
              cancel={cancel}
            />
          ),
        )}
      </div>
      <div class="row end">
        <button type="button" class="button" onClick={cancel}>
          Cancel
        </button>
        <button
          type="button"
          class="button primary"
          disabled={edited.length === 0 || streaming.value !== null}
          onClick={submit}
        >
          Send as a new branch
        </button>
      </div>
    </div>
  );
}

interface EditedTextProps {
  id: string;
  label: string;
  text: string;
  change: (text: string) => void;
  cancel: () => void;
}

function EditedText({ id, label, text, change, cancel }: EditedTextProps) {
  return (
    <>
      <label class="hidden" for={id}>
        {label}
      </label>
      <textarea
        id={id}
        value={text}
        rows={Math.min(12, text.split('\n').length + 1)}
        onInput={(event) => change(event.currentTarget.value)}
        dir="auto"
        onKeyDown={(event) => {
          if (event.key !== 'Escape' || event.isComposing) return;
          event.preventDefault();
          cancel();
        }}
      />
    </>
  );
}

function Actions({ message, edit }: { message: Message; edit: () => void }) {
  const [copied, setCopied] = useState(false);
  const busy = streaming.value !== null;
  const copy = async () => {
    await copyText(textOf(message));
    setCopied(true);
    announce('Copied.');
    setTimeout(() => setCopied(false), 1500);
  };
  return (
    <div class="actions">
      <Branches message={message} />
      <IconButton icon={copied ? 'check' : 'copy'} label={copied ? 'Copied' : 'Copy'} onClick={copy} />
      {message.role === 'user' && <IconButton icon="edit" label="Edit and branch" disabled={busy} onClick={edit} />}
      {message.role === 'assistant' && (
        <IconButton
          icon="retry"
          label="Try again"
          disabled={busy}
          onClick={() => {
            retry(message);
            offerComposer();
          }}
        />
      )}
      {message.stats && <Stats stats={message.stats} />}
    </div>
  );
}

function Branches({ message }: { message: Message }) {
  const open = conversation.value;
  const all = open ? siblings(open, message) : [];
  if (all.length < 2) return null;
  const index = all.findIndex((other) => other.id === message.id);
  const walk = (step: -1 | 1) => {
    const wanted = all[index + step];
    showBranch(message, step);
    // Another message stands there now, with buttons of its own; at either end only the way back is left.
    const button = (name: string) =>
      document.querySelector(`[data-message="${wanted?.id}"] .branches button[aria-label="${name}"]:enabled`);
    const names = ['Previous version', 'Next version'];
    if (step > 0) names.reverse();
    focusSoon(() => button(names[0] ?? '') ?? button(names[1] ?? ''));
  };
  return (
    <span class="branches">
      <IconButton icon="left" label="Previous version" disabled={index === 0} onClick={() => walk(-1)} />
      <span>
        <span class="hidden">Version </span>
        {index + 1}/{all.length}
      </span>
      <IconButton icon="right" label="Next version" disabled={index === all.length - 1} onClick={() => walk(1)} />
    </span>
  );
}

function Stats({ stats }: { stats: AnswerStats }) {
  const parts = [
    stats.tokensPerSecond > 0
      ? `${stats.tokensPerSecond < 20 ? stats.tokensPerSecond.toFixed(1) : Math.round(stats.tokensPerSecond).toLocaleString('en')} tokens/s`
      : '',
    `first token ${stats.firstTokenMs < 1000 ? `${Math.round(stats.firstTokenMs)} ms` : `${(stats.firstTokenMs / 1000).toFixed(1)} s`}`,
    stats.promptTokens > 0
      ? `${stats.promptTokens.toLocaleString('en')} in${stats.cachedTokens > 0 ? ` (${stats.cachedTokens.toLocaleString('en')} cached)` : ''}`
      : '',
    `${stats.completionTokens.toLocaleString('en')} out`,
  ];
  return (
    <span class="stats">
      {parts.filter(Boolean).map((part, index) => (
        <Fragment key={part}>
          {index > 0 && ' · '}
          <span>{part}</span>
        </Fragment>
      ))}
    </span>
  );
}
