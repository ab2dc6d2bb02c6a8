// In-context examples: pictures with the answers they should get, then the picture in question. They teach a pattern
// without a word of instruction.
import { signal } from '@preact/signals';
import { useRef, useState } from 'preact/hooks';
import { send, streaming } from '../state/conversations';
import { isPicture, readPicture } from '../state/pictures';
import type { Picture, Piece } from '../state/tree';
import { focusSoon, offerComposer } from './focus';
import { IconButton } from './icons';
import { useModal } from './modal';

interface Example {
  picture: Picture | null;
  answer: string;
}

const open = signal(false);
const examples = signal<Example[]>([]);
const question = signal<Picture | null>(null);

export function openExamples(): void {
  if (examples.value.length === 0)
    examples.value = [
      { picture: null, answer: '' },
      { picture: null, answer: '' },
    ];
  open.value = true;
}

const set = (index: number, changes: Partial<Example>): void => {
  examples.value = examples.value.map((example, at) => (at === index ? { ...example, ...changes } : example));
};

function submit(): void {
  const pieces: Piece[] = [];
  for (const { picture, answer } of examples.value)
    if (picture) pieces.push({ picture }, { text: `${answer.trim()}\n` });
  if (question.value) pieces.push({ picture: question.value });
  open.value = false;
  question.value = null;
  send(pieces);
  offerComposer();
}

export function ExamplesDialog() {
  return open.value && <Dialog />;
}

function Dialog() {
  const complete =
    question.value !== null &&
    examples.value.every(({ picture, answer }) => picture && answer.trim()) &&
    !streaming.value;
  return (
    <dialog class="panel examples" aria-labelledby="examples-title" ref={useModal(() => (open.value = false))}>
      <header class="row">
        <h2 id="examples-title">Teach by example</h2>
        <IconButton icon="close" label="Close" onClick={() => (open.value = false)} />
      </header>
      <p>Give each picture the answer you would like. The model continues the pattern for the last one.</p>
      <ol>
        {examples.value.map((example, index) => (
          <li key={index} class="row">
            <PictureSlot
              label={`Example ${index + 1}`}
              picture={example.picture}
              onPick={(picture) => set(index, { picture })}
            />
            <span aria-hidden="true">→</span>
            <input
              type="text"
              aria-label={`Answer for example ${index + 1}`}
              placeholder={index === 0 ? 'e.g. red' : 'e.g. blue'}
              value={example.answer}
              onInput={(event) => set(index, { answer: event.currentTarget.value })}
            />
            <IconButton
              icon="trash"
              label={`Remove example ${index + 1}`}
              disabled={examples.value.length < 2}
              onClick={() => {
                examples.value = examples.value.filter((_, at) => at !== index);
                const row = Math.min(index, examples.value.length - 1) + 1;
                focusSoon(() => document.querySelector(`.examples li:nth-child(${row}) .slot`));
              }}
            />
          </li>
        ))}
        <li class="row question">
          <PictureSlot
            label="The picture in question"
            picture={question.value}
            onPick={(picture) => (question.value = picture)}
          />
          <span aria-hidden="true">→</span>
          <span class="muted">the model answers</span>
        </li>
      </ol>
      <div class="row end">
        <button
          type="button"
          class="button"
          onClick={() => (examples.value = [...examples.value, { picture: null, answer: '' }])}
        >
          Add an example
        </button>
        <button type="button" class="button primary" disabled={!complete} onClick={submit}>
          Ask
        </button>
      </div>
    </dialog>
  );
}

function PictureSlot({
  label,
  picture,
  onPick,
}: {
  label: string;
  picture: Picture | null;
  onPick: (picture: Picture) => void;
}) {
  const input = useRef<HTMLInputElement>(null);
  const [problem, setProblem] = useState('');
  const take = async (files: FileList | undefined | null) => {
    const file = files?.[0];
    if (!file) return;
    try {
      if (!isPicture(file)) throw new Error(`${file.name} is not a picture.`);
      onPick(await readPicture(file));
      setProblem('');
    } catch (error) {
      setProblem((error as Error).message);
    }
  };
  return (
    <>
      <input
        ref={input}
        type="file"
        accept="image/*"
        hidden
        aria-label={label}
        onChange={(event) => take(event.currentTarget.files)}
      />
      <button
        type="button"
        class="slot"
        aria-label={picture ? `${label}: ${picture.name}. Change` : `${label}: choose a picture`}
        onClick={() => input.current?.click()}
        onDragOver={(event) => event.preventDefault()}
        onDrop={(event) => {
          event.preventDefault();
          event.stopPropagation();
          take(event.dataTransfer?.files);
        }}
      >
        {problem ? (
          <span class="error" role="alert">
            {problem}
          </span>
        ) : picture ? (
          <img src={picture.url} alt="" />
        ) : (
          <span>{label}</span>
        )}
      </button>
    </>
  );
}
