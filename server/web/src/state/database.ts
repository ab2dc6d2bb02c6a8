// Conversations in IndexedDB: they hold pictures, for which localStorage is too small. Everything stays in this browser.
import { type Conversation, joined } from './tree';

const open = (): Promise<IDBDatabase> =>
  new Promise((resolve, reject) => {
    const request = indexedDB.open('hearth', 1);
    request.onupgradeneeded = () => request.result.createObjectStore('conversations', { keyPath: 'id' });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

let database: Promise<IDBDatabase> | null = null;

async function run<T>(mode: IDBTransactionMode, body: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> {
  database ??= open();
  const store = (await database).transaction('conversations', mode).objectStore('conversations');
  return new Promise((resolve, reject) => {
    const request = body(store);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

export const loadConversations = (): Promise<Conversation[]> =>
  run('readonly', (store) => store.getAll() as IDBRequest<Conversation[]>);
export const loadConversation = (id: string): Promise<Conversation | undefined> =>
  run('readonly', (store) => store.get(id) as IDBRequest<Conversation | undefined>);

/** Keeps what another tab has added to the same conversation: read and written in one transaction. */
export async function saveConversation(conversation: Conversation): Promise<void> {
  database ??= open();
  const transaction = (await database).transaction('conversations', 'readwrite');
  const store = transaction.objectStore('conversations');
  const before = store.get(conversation.id) as IDBRequest<Conversation | undefined>;
  before.onsuccess = () => store.put(before.result ? joined(before.result, conversation) : conversation);
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error);
  });
}

export const deleteConversation = (id: string): Promise<unknown> => run('readwrite', (store) => store.delete(id));
