// Where a message is written: text, pictures from anywhere, send and stop.
import { signal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import { currentModel } from '../api/models';
import { send, stop, streaming } from '../state/conversations';
import { isPicture, readPicture } from '../state/pictures';
import type { Picture, Piece } from '../state/tree';
import { fineFingers, focusComposer, focusSoon, offerComposer } from './focus';
import { IconButton } from './icons';

export const draft = signal('');
export const pictures = signal<Picture[]>([]);
export const notice = signal('');
/** Pictures that are being read: they belong to the message, which therefore waits for them. */
const reading = signal(0);

/** Adds files to the message being written; what is no picture is said, not dropped in silence. */
export async function addFiles(files: Iterable<File>): Promise<void> {
  notice.value = '';
  // A copy: the browser empties its own list when the event is over or the input is cleared.
  for (const file of [...files]) {
    if (!isPicture(file)) {
      notice.value = `${file.name} is not a picture.`;
      continue;
    }
    reading.value++;
    try {
      const picture = await readPicture(file);
      pictures.value = [...pictures.value, picture];
    } catch (error) {
      notice.value = (error as Error).message;
    } finally {
      reading.value--;
    }
  }
}

function submit(): void {
  const text = draft.value.trim();
  if (streaming.value || reading.value > 0 || (!text && pictures.value.length === 0)) return;
  if (pictures.value.length > 0 && currentModel()?.vision === false) {
    notice.value = 'This model cannot see pictures. Choose one that can, or remove them.';
    return;
  }
  const pieces: Piece[] = pictures.value.map((picture) => ({ picture }));
  if (text) pieces.push({ text });
  draft.value = '';
  pictures.value = [];
  notice.value = '';
  send(pieces);
  offerComposer();
}

function stopByButton(event: MouseEvent): void {
  // The second half of a double click on Send comes here.
  if (event.detail > 1) return;
  stop();
  offerComposer();
}

function hint(): string {
  if (reading.value > 0) return 'Reading pictures…';
  return streaming.value ? 'Escape stops' : 'Enter sends, Shift+Enter makes a line';
}

export function Composer() {
  const area = useRef<HTMLTextAreaElement>(null);
  useEffect(() => {
    const element = area.current;
    if (!element) return;
    element.style.height = 'auto';
    element.style.height = `${Math.min(element.scrollHeight, 240)}px`;
  }, [draft.value]);
  useEffect(offerComposer, []);
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        submit();
      }}
    >
      {notice.value && (
        <p class="notice" role="alert">
          {notice.value}
        </p>
      )}
      <Previews />
      <label class="hidden" for="composer">
        Message
      </label>
      <textarea
        id="composer"
        ref={area}
        rows={1}
        value={draft.value}
        dir="auto"
        placeholder="Ask, or drop pictures here"
        onInput={(event) => (draft.value = event.currentTarget.value)}
        onPaste={(event) => {
          const files = [...(event.clipboardData?.files ?? [])];
          if (files.length > 0) {
            event.preventDefault();
            addFiles(files);
          }
        }}
        onKeyDown={(event) => {
          if (event.key === 'Enter' && !event.shiftKey && !event.isComposing && fineFingers()) {
            event.preventDefault();
            submit();
          }
        }}
      />
      <div class="row">
        <FileButton label="Add pictures" icon="picture" />
        <FileButton label="Take a picture" icon="camera" capture />
        <span class={`hint ${reading.value > 0 ? 'urgent' : ''}`}>{hint()}</span>
        {streaming.value ? (
          <IconButton class="send" icon="stop" label="Stop" onClick={stopByButton} />
        ) : (
          <IconButton
            class="send"
            icon="send"
            label="Send"
            disabled={reading.value > 0 || (!draft.value.trim() && pictures.value.length === 0)}
            onClick={submit}
          />
        )}
      </div>
    </form>
  );
}

function FileButton({
  label,
  icon,
  capture = false,
}: {
  label: string;
  icon: 'picture' | 'camera';
  capture?: boolean;
}) {
  const input = useRef<HTMLInputElement>(null);
  return (
    <>
      <input
        ref={input}
        type="file"
        accept="image/*,.avif,.tif,.tiff,.bmp"
        multiple={!capture}
        capture={capture ? 'environment' : undefined}
        hidden
        aria-label={label}
        onChange={(event) => {
          addFiles(event.currentTarget.files ?? []);
          event.currentTarget.value = '';
          focusComposer();
        }}
      />
      <IconButton
        icon={icon}
        label={label}
        class={capture ? 'touch-only' : ''}
        onClick={() => input.current?.click()}
      />
    </>
  );
}

function Previews() {
  if (pictures.value.length === 0) return null;
  return (
    <ul class="previews" aria-label="Pictures to send">
      {pictures.value.map((picture, index) => (
        <li key={picture.url.slice(-40) + index}>
          <img src={picture.url} alt={picture.name} />
          <IconButton
            icon="close"
            label={`Remove ${picture.name}`}
            onClick={() => {
              pictures.value = pictures.value.filter((other) => other !== picture);
              focusSoon(
                () =>
                  document.querySelector(`.previews li:nth-child(${index + 1}) button`) ??
                  document.querySelector('.previews li:last-child button') ??
                  document.getElementById('composer'),
              );
            }}
          />
        </li>
      ))}
    </ul>
  );
}
