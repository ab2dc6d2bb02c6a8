// The conversations of this browser and the one that is open; sending, stopping, retrying and editing.
import { computed, effect, signal } from '@preact/signals';
import { ApiError } from '../api/base';
import { streamChat, type WireMessage } from '../api/chat';
import { refreshModels } from '../api/models';
import { deleteConversation, loadConversation, loadConversations, saveConversation } from './database';
import { settings } from './settings';
import { add, type Conversation, change, joined, type Message, type Piece, path, show, siblings } from './tree';

export const conversations = signal<Conversation[]>([]);
export const openId = signal<string | null>(null);
export const conversation = computed(() => conversations.value.find((entry) => entry.id === openId.value) ?? null);
/** The answer that is streaming now, if any. One at a time: this is a page for one person. */
export const streaming = signal<{ conversation: string; message: string; abort: AbortController } | null>(null);

/** Whether this browser has no place for conversations: forbidden by its settings, or full. */
export const unkept = signal(false);

/** Tokens that came closer together than this came in one read: a rate of theirs would say nothing. */
const rateMsMin = 20;

/** So much of an answer is lost at most when the page is left before it is complete. */
const saveMs = 2000;
/** The conversation that this tab shows, for its reload. */
const openKey = 'hearth-open';

const newId = (): string =>
  crypto.randomUUID?.() ?? `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;

export async function restoreConversations(): Promise<void> {
  const stored = await loadConversations().catch(() => {
    unkept.value = true;
    return [];
  });
  conversations.value = stored.map(withEndings).sort((a, b) => b.updatedAt - a.updatedAt);
  reopen();
  otherTabs.onmessage = ({ data }: MessageEvent<Change>) => void follow(data);
}

function reopen(): void {
  try {
    const last = sessionStorage.getItem(openKey);
    if (last && find(last)) openId.value ??= last;
    effect(() => sessionStorage.setItem(openKey, openId.value ?? ''));
  } catch {
    // Storage may be forbidden: a reload then begins with a new conversation.
  }
}

/** An answer without an ending broke off, or another tab is writing it: then its next change says so. */
function withEndings(entry: Conversation): Conversation {
  let ended = entry;
  for (const { id, role, finish } of Object.values(entry.messages))
    if (role === 'assistant' && !finish)
      ended = { ...change(ended, id, { finish: 'left' }), updatedAt: entry.updatedAt };
  return ended;
}

/** Into the list, the latest first. */
function place(changed: Conversation): void {
  const others = conversations.value.filter((entry) => entry.id !== changed.id);
  conversations.value = [changed, ...others].sort((a, b) => b.updatedAt - a.updatedAt);
}

function put(changed: Conversation, save = true): void {
  place(changed);
  if (!save) return;
  saveConversation(changed)
    .then(() => {
      unkept.value = false;
      otherTabs.postMessage({ saved: changed.id });
    })
    .catch(() => (unkept.value = true));
}

type Change = { saved: string } | { deleted: string };
const otherTabs = new BroadcastChannel('hearth');

/** Takes over what another tab did. */
async function follow(done: Change): Promise<void> {
  if ('deleted' in done) return forget(done.deleted);
  const stored = await loadConversation(done.saved).catch(() => undefined);
  if (!stored) return;
  const own = find(done.saved);
  const writing = streaming.value?.conversation === done.saved ? own?.messages[streaming.value.message] : undefined;
  const theirs = writing ? { ...stored, messages: { ...stored.messages, [writing.id]: writing } } : stored;
  if (!own) return place(theirs);
  // What is read here stays in view, unless the other tab went on from it.
  const goesOn = path(theirs).some(({ id }) => id === own.leaf);
  place({ ...joined(own, theirs), leaf: goesOn ? theirs.leaf : own.leaf });
}

const find = (id: string): Conversation | undefined => conversations.value.find((entry) => entry.id === id);

export function remove(id: string): void {
  forget(id);
  deleteConversation(id)
    .then(() => otherTabs.postMessage({ deleted: id }))
    .catch(() => {});
}

function forget(id: string): void {
  if (streaming.value?.conversation === id) stop();
  conversations.value = conversations.value.filter((entry) => entry.id !== id);
  if (openId.value === id) openId.value = null;
}

export function rename(id: string, title: string): void {
  const entry = find(id);
  if (entry && title.trim()) put({ ...entry, title: title.trim() });
}

export function showBranch(message: Message, step: number): void {
  const open = conversation.value;
  if (!open) return;
  const all = siblings(open, message);
  const next = all[all.findIndex((other) => other.id === message.id) + step];
  if (next) put(show(open, next.id));
}

export function stop(): void {
  streaming.value?.abort.abort();
}

/** Sends pieces as the next user message of the open conversation, or of a new one. */
export async function send(pieces: Piece[], parent?: string | null): Promise<void> {
  if (streaming.value) return;
  const open = conversation.value ?? { id: newId(), title: '', updatedAt: Date.now(), messages: {}, leaf: null };
  const message: Message = { id: newId(), parent: parent === undefined ? open.leaf : parent, role: 'user', pieces };
  put(add(open, message));
  openId.value = open.id;
  await answer(open.id, message.id);
}

/** Asks again for the answer to the same message: the new answer becomes a sibling of the old. */
export async function retry(message: Message): Promise<void> {
  const open = conversation.value;
  if (!open || streaming.value || message.parent === null) return;
  await answer(open.id, message.parent);
}

function wireMessages(messages: Message[]): WireMessage[] {
  const wire: WireMessage[] = settings.value.systemPrompt.trim()
    ? [{ role: 'system', content: settings.value.systemPrompt.trim() }]
    : [];
  for (const message of messages) {
    if (message.role === 'assistant') {
      wire.push({
        role: 'assistant',
        content: message.pieces.map((piece) => ('text' in piece ? piece.text : '')).join(''),
      });
    } else if (message.pieces.every((piece) => 'text' in piece)) {
      wire.push({
        role: 'user',
        content: message.pieces.map((piece) => ('text' in piece ? piece.text : '')).join('\n'),
      });
    } else {
      wire.push({
        role: 'user',
        content: message.pieces.map((piece) =>
          'text' in piece
            ? { type: 'text', text: piece.text }
            : { type: 'image_url', image_url: { url: piece.picture.url } },
        ),
      });
    }
  }
  return wire;
}

async function answer(conversationId: string, parent: string): Promise<void> {
  const open = find(conversationId);
  if (!open) return;
  const prompt = path({ ...open, leaf: parent });
  const message: Message = {
    id: newId(),
    parent,
    role: 'assistant',
    pieces: [{ text: '' }],
    model: settings.value.model,
  };
  put(add(open, message));
  const abort = new AbortController();
  streaming.value = { conversation: conversationId, message: message.id, abort };
  const result = new Answer(conversationId, message.id);
  try {
    for await (const event of streamChat(
      settings.value.model,
      wireMessages(prompt),
      settings.value.sampling,
      abort.signal,
    ))
      result.take(event);
    result.end();
  } catch (error) {
    if (abort.signal.aborted) result.end('stopped');
    else {
      result.fail(error instanceof ApiError ? error.message : 'The connection broke off. What had arrived is kept.');
      // Gone, with another model, with other keys? From here on the page says which, and when it is over.
      if (!(error instanceof ApiError) || [0, 401, 404, 503].includes(error.status)) refreshModels();
    }
  } finally {
    streaming.value = null;
  }
}

/** Collects one streamed answer and shows it at most once a frame. */
class Answer {
  private text = '';
  private reasoning = '';
  private finish = 'stop';
  private readonly startedAt = performance.now();
  private firstAt = 0;
  private lastAt = 0;
  private pieces = 0;
  private usage = { promptTokens: 0, cachedTokens: 0, completionTokens: 0 };
  private frame = 0;
  private savedAt = performance.now();

  constructor(
    private readonly conversationId: string,
    private readonly id: string,
  ) {}

  take(event: import('../api/chat').ChatEvent): void {
    if (event.type === 'usage') this.usage = event.usage;
    else if (event.type === 'finish') this.finish = event.reason;
    else {
      this.lastAt = performance.now();
      if (!this.firstAt) this.firstAt = this.lastAt;
      this.pieces += 1;
      if (event.type === 'text') this.text += event.text;
      else this.reasoning += event.text;
      this.frame ||= requestAnimationFrame(() => this.publish());
    }
  }

  end(finish = this.finish): void {
    const tokens = this.usage.completionTokens || this.pieces;
    const decodeMs = this.lastAt - this.firstAt;
    const stats = {
      firstTokenMs: this.firstAt ? this.firstAt - this.startedAt : 0,
      tokensPerSecond: decodeMs >= rateMsMin && tokens > 1 ? ((tokens - 1) * 1000) / decodeMs : 0,
      promptTokens: this.usage.promptTokens,
      cachedTokens: this.usage.cachedTokens,
      completionTokens: tokens,
    };
    this.close({ finish, ...(this.firstAt ? { stats } : {}) });
  }

  fail(error: string): void {
    this.close({ finish: 'error', error });
  }

  private close(changes: Partial<Message>): void {
    cancelAnimationFrame(this.frame);
    this.publish(changes, true);
  }

  private publish(changes: Partial<Message> = {}, save = false): void {
    this.frame = 0;
    const open = find(this.conversationId);
    if (!open) return;
    const due = performance.now() - this.savedAt > saveMs;
    if (due) this.savedAt = performance.now();
    const pieces = [{ text: this.text }];
    put(
      change(open, this.id, { pieces, ...(this.reasoning ? { reasoning: this.reasoning } : {}), ...changes }),
      save || due,
    );
  }
}
