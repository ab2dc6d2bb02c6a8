// What an empty conversation offers: the ways of asking that people would not guess.
import { currentModel } from '../api/models';
import { draft, notice, pictures } from './composer';
import { openExamples } from './examples';
import { focusComposer } from './focus';
import { Icon, type IconName } from './icons';

interface Starter {
  icon: IconName;
  title: string;
  text: string;
  vision: boolean;
  start: () => void;
}

const write = (text: string, hint = ''): void => {
  draft.value = text;
  notice.value = pictures.value.length === 0 ? hint : '';
  focusComposer();
};

const starters: Starter[] = [
  {
    icon: 'picture',
    title: 'Several pictures',
    text: 'Add two or three, ask what differs',
    vision: true,
    start: () => write('What is different between these pictures?', 'Add two or more pictures, then send.'),
  },
  {
    icon: 'edit',
    title: 'By example',
    text: 'A few pictures with answers, then yours',
    vision: true,
    start: () => openExamples(),
  },
  {
    icon: 'check',
    title: 'Step by step',
    text: 'Let it list, count and conclude',
    vision: true,
    start: () => write('How many objects are there? Think step by step.', 'Add a picture, then send.'),
  },
  {
    icon: 'send',
    title: 'Tell a story',
    text: 'No picture needed',
    vision: false,
    start: () => write('Tell me a story about a little cat.'),
  },
];

export function Starters() {
  const vision = currentModel()?.vision !== false;
  return (
    <section class="welcome">
      <h1>What shall we look at?</h1>
      <p>Everything stays on this server. Drop pictures anywhere, or just write.</p>
      <div class="starters">
        {starters
          .filter((starter) => vision || !starter.vision)
          .map((starter) => (
            <button type="button" key={starter.title} class="starter" onClick={starter.start}>
              <Icon name={starter.icon} />
              <strong>{starter.title}</strong>
              <span>{starter.text}</span>
            </button>
          ))}
      </div>
    </section>
  );
}
