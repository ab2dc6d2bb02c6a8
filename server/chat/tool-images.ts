// Pictures in the results of tools, for chat templates that print a tool's result as text and nothing else.

import type { ContentPart, Prompt, Turn } from './prompt.ts';

export const partsOf = (content: Turn['content']): ContentPart[] =>
  typeof content === 'string' ? [{ type: 'text', text: content }] : (content ?? []);

const isImage = (part: ContentPart) => part.type === 'image';
const imagesIn = ({ content }: Turn) => (Array.isArray(content) ? content.filter(isImage).length : 0);

export const toolsShowImages = (turns: readonly Turn[]) =>
  turns.some((turn) => turn.role === 'tool' && imagesIn(turn) > 0);

/** Whether a prompt has a place for each picture of its conversation: one that a template left out has none. */
export function placesAll(prompt: Prompt, turns: readonly Turn[], placeholder: string): boolean {
  const images = turns.reduce((total, turn) => total + imagesIn(turn), 0);
  return outsideOf(prompt).split(placeholder).length - 1 === images;
}

/** A prompt's text without what people typed. */
function outsideOf({ text, literal }: Prompt): string {
  const bytes = Buffer.from(text);
  const begins = [0, ...literal.map(([, end]) => end)];
  return begins.map((begin, at) => bytes.toString('utf8', begin, literal[at]?.[0] ?? bytes.length)).join('\0');
}

/**
 * The same conversation, its tools' pictures in what the user says right behind the results. Both places have a picture's
 * number, so that the model can tell which result it belongs to.
 */
export function imagesBehindTools(turns: readonly Turn[]): Turn[] {
  const moved: Turn[] = [];
  let waiting: ContentPart[] = [];
  let count = 0;
  const leaveLabel = (part: ContentPart): ContentPart => {
    if (!isImage(part)) return part;
    const label = { type: 'text' as const, text: `[image ${++count}]` };
    waiting.push(label, part);
    return label;
  };
  const show = (turn: Turn) => {
    moved.push({ ...turn, content: [...waiting, ...partsOf(turn.content)] });
    waiting = [];
  };
  for (const turn of turns) {
    if (turn.role === 'tool') {
      moved.push(imagesIn(turn) > 0 ? { ...turn, content: partsOf(turn.content).map(leaveLabel) } : turn);
    } else if (waiting.length > 0 && turn.role === 'user') {
      show(turn);
    } else {
      if (waiting.length > 0) show({ role: 'user', content: null });
      moved.push(turn);
    }
  }
  if (waiting.length > 0) show({ role: 'user', content: null });
  return moved;
}
