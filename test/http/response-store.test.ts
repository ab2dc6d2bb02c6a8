// What is kept of answered responses stays within its bounds, however conversations share it.

import { expect, it } from 'vitest';
import { ResponseStore, responsesMax } from '../../server/http/response-store.ts';
import type { Item } from '../../server/openai/responses.ts';

const charactersMax = 256 * 1024;
const item = (characters: number): Item => ({ type: 'message', role: 'user', content: 'x'.repeat(characters) }) as Item;
const itemsOf = (store: ResponseStore, id: string) => store.get(id, 'me')?.items ?? [];

it('counts the early turns of conversations whose early responses are forgotten', () => {
  const store = new ResponseStore(charactersMax);
  const conversations: Item[][] = Array.from({ length: 14 }, () => []);
  const ids: string[] = [];
  // Side by side, so that of each only the last turn is kept.
  for (let turn = 0; turn < 4; turn++) {
    for (const conversation of conversations) {
      conversation.push(item(16 * 1024));
      ids.push(`resp_${ids.length}`);
      store.put(ids.at(-1)!, 'me', {}, [...conversation]);
    }
  }
  const kept = new Set(ids.flatMap((id) => [...itemsOf(store, id)]));
  const characters = [...kept].reduce((sum, one) => sum + JSON.stringify(one).length, 0);
  expect(characters).toBeLessThanOrEqual(charactersMax);
  expect(itemsOf(store, ids.at(-1)!)).toHaveLength(4);
});

it('makes room for others when a conversation is deleted', () => {
  const store = new ResponseStore(charactersMax);
  const first = item(100 * 1024);
  store.put('a', 'me', {}, [first]);
  store.put('b', 'me', {}, [first, item(100)]);
  expect([store.delete('a', 'you'), store.delete('a', 'me'), store.delete('b', 'me')]).toEqual([false, true, true]);
  for (const id of ['c', 'd']) store.put(id, 'me', {}, [item(100 * 1024)]);
  expect([itemsOf(store, 'c').length, itemsOf(store, 'd').length]).toEqual([1, 1]);
});

it('keeps so many and no more', () => {
  const store = new ResponseStore();
  for (let at = 0; at <= responsesMax; at++) store.put(`resp_${at}`, 'me', {}, [item(1)]);
  expect([store.get('resp_0', 'me'), itemsOf(store, 'resp_1').length]).toEqual([null, 1]);
});
