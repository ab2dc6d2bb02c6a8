// A conversation is a tree: editing or retrying a message adds a sibling, and `leaf` says which branch is shown.
// Pure functions: each returns a new conversation.

export interface Picture {
  name: string;
  /** data: URL, already scaled to what is worth sending. */
  url: string;
}

export interface AnswerStats {
  firstTokenMs: number;
  tokensPerSecond: number;
  promptTokens: number;
  cachedTokens: number;
  completionTokens: number;
}

/** Pieces of a user's message in the order they were given. */
export type Piece = { text: string } | { picture: Picture };

export interface Message {
  id: string;
  parent: string | null;
  role: 'user' | 'assistant';
  pieces: Piece[];
  reasoning?: string;
  /** Assistant only: why it ended, 'error' included; absent while it streams. */
  finish?: string;
  error?: string;
  model?: string;
  stats?: AnswerStats;
}

export interface Conversation {
  id: string;
  title: string;
  updatedAt: number;
  messages: Record<string, Message>;
  leaf: string | null;
}

export const textOf = (message: Message): string =>
  message.pieces.map((piece) => ('text' in piece ? piece.text : '')).join('');
export const picturesOf = (message: Message): Picture[] =>
  message.pieces.flatMap((piece) => ('picture' in piece ? [piece.picture] : []));

/** From the first message to the leaf. */
export function path(conversation: Conversation): Message[] {
  const messages: Message[] = [];
  for (let id = conversation.leaf; id !== null; ) {
    const message: Message | undefined = conversation.messages[id];
    if (!message) break;
    messages.unshift(message);
    id = message.parent;
  }
  return messages;
}

/** Messages with the same parent, oldest first (insertion order). */
export const siblings = (conversation: Conversation, message: Message): Message[] =>
  Object.values(conversation.messages).filter((other) => other.parent === message.parent);

export function add(conversation: Conversation, message: Message): Conversation {
  const title = conversation.title || (message.role === 'user' ? titleOf(message) : '');
  return {
    ...conversation,
    title,
    updatedAt: Date.now(),
    messages: { ...conversation.messages, [message.id]: message },
    leaf: message.id,
  };
}

export function change(conversation: Conversation, id: string, changes: Partial<Message>): Conversation {
  const message = conversation.messages[id];
  if (!message) return conversation;
  return {
    ...conversation,
    updatedAt: Date.now(),
    messages: { ...conversation.messages, [id]: { ...message, ...changes } },
  };
}

const complete = (message: Message | undefined): boolean => !!message?.finish && message.finish !== 'left';

/** Both tabs' messages of one conversation. Of one that both have `mine` is taken, unless only theirs is complete. */
export function joined(theirs: Conversation, mine: Conversation): Conversation {
  const messages = { ...theirs.messages };
  for (const message of Object.values(mine.messages))
    if (complete(message) || !complete(messages[message.id])) messages[message.id] = message;
  return { ...mine, messages };
}

/** Shows another branch: the newest leaf below `id`. */
export function show(conversation: Conversation, id: string): Conversation {
  let leaf = id;
  for (;;) {
    const children = Object.values(conversation.messages).filter((message) => message.parent === leaf);
    const newest = children.at(-1);
    if (!newest) return { ...conversation, leaf };
    leaf = newest.id;
  }
}

function titleOf(message: Message): string {
  const text = textOf(message).trim().replace(/\s+/g, ' ');
  if (!text) return picturesOf(message).length > 1 ? 'Pictures' : 'A picture';
  return text.length > 60 ? `${text.slice(0, 57).trimEnd()}…` : text;
}
