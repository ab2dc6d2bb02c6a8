// What is kept of answered responses stays within its bounds, however conversations share it.

import { describe, expect, it } from 'vitest';
import { ResponseBudget, ResponseStore, responsesMax, SocketMemory } from '../../server/http/response-store.ts';
import type { NamedItem } from '../../server/openai/responses.ts';

const charactersMax = 256 * 1024;
const answer = { output: [] };
let made = 0;
const item = (characters: number): NamedItem => ({
  id: `msg_${made++}`,
  type: 'message',
  role: 'user',
  content: 'x'.repeat(characters),
  phase: undefined,
});
const itemsOf = (store: ResponseStore, id: string) => store.get(id, 'me')?.items ?? [];

it('counts the early turns of conversations whose early responses are forgotten', () => {
  const store = new ResponseStore(new ResponseBudget(charactersMax));
  const conversations: NamedItem[][] = Array.from({ length: 14 }, () => []);
  const ids: string[] = [];
  // Side by side, so that of each only the last turn is kept.
  for (let turn = 0; turn < 4; turn++) {
    for (const conversation of conversations) {
      conversation.push(item(16 * 1024));
      ids.push(`resp_${ids.length}`);
      store.put(ids.at(-1)!, 'me', answer, [...conversation]);
    }
  }
  const kept = new Set(ids.flatMap((id) => [...itemsOf(store, id)]));
  const characters = [...kept].reduce((sum, one) => sum + JSON.stringify(one).length, 0);
  expect(characters).toBeLessThanOrEqual(charactersMax);
  expect(itemsOf(store, ids.at(-1)!)).toHaveLength(4);
});

it('makes room for others when a conversation is deleted', () => {
  const store = new ResponseStore(new ResponseBudget(charactersMax));
  const first = item(100 * 1024);
  store.put('a', 'me', answer, [first]);
  store.put('b', 'me', answer, [first, item(100)]);
  expect([store.delete('a', 'you'), store.delete('a', 'me'), store.delete('b', 'me')]).toEqual([false, true, true]);
  for (const id of ['c', 'd']) store.put(id, 'me', answer, [item(100 * 1024)]);
  expect([itemsOf(store, 'c').length, itemsOf(store, 'd').length]).toEqual([1, 1]);
});

it('keeps so many and no more, what a socket goes on from longer than others', () => {
  const budget = new ResponseBudget();
  const store = new ResponseStore(budget);
  new SocketMemory(store, budget).put('socket', 'me', answer, [item(1)], true);
  for (let at = 0; at < responsesMax; at++) store.put(`resp_${at}`, 'me', answer, [item(1)]);
  expect([store.get('resp_0', 'me'), itemsOf(store, 'resp_1').length]).toEqual([null, 1]);
  expect(itemsOf(store, 'socket')).toHaveLength(1);
});

describe('sockets and HTTP, of one budget,', () => {
  const large = () => [item(60 * 1024)];
  const stage = (sockets: number) => {
    const budget = new ResponseBudget(charactersMax);
    const http = new ResponseStore(budget);
    return { http, sockets: Array.from({ length: sockets }, () => new SocketMemory(http, budget)) };
  };
  const has = (place: Pick<ResponseStore, 'get'>, id: string) => place.get(id, 'me') !== null;

  it('keep no more together than one of them may', () => {
    const { http, sockets } = stage(100);
    for (const [index, socket] of sockets.entries()) {
      socket.put(`own_${index}`, 'me', answer, large(), false);
      http.put(`http_${index}`, 'me', answer, large());
    }
    const kept = sockets.filter((socket, index) => has(socket, `own_${index}`)).length;
    const stored = sockets.filter((_, index) => has(http, `http_${index}`)).length;
    expect(kept + stored).toBe(4);
    expect(has(http, 'http_99')).toBe(true);
  });

  it('forget what was used least recently', () => {
    const { http, sockets } = stage(1);
    for (const id of ['a', 'b']) http.put(id, 'me', answer, large());
    sockets[0]!.put('c', 'me', answer, large(), false);
    sockets[0]!.put('d', 'me', answer, large(), false);
    expect(has(http, 'a')).toBe(true);
    http.put('e', 'me', answer, large());
    expect([has(http, 'a'), has(http, 'b'), has(sockets[0]!, 'c')]).toEqual([true, false, true]);
  });

  it('forget what a socket goes on from last, whichever of the two has it', () => {
    const { http, sockets } = stage(2);
    sockets[0]!.put('own', 'me', answer, large(), false);
    sockets[1]!.put('stored', 'me', answer, large(), true);
    for (let at = 0; at < 20; at++) http.put(`http_${at}`, 'me', answer, large());
    expect([has(sockets[0]!, 'own'), has(sockets[1]!, 'stored'), has(http, 'http_19')]).toEqual([true, true, true]);
    // A later turn takes its place, and goes first where nothing else is left.
    sockets[0]!.put('next', 'me', answer, large(), false);
    for (let at = 20; at < 40; at++) http.put(`http_${at}`, 'me', answer, large());
    expect([has(sockets[0]!, 'own'), has(sockets[0]!, 'next')]).toEqual([false, true]);
    http.put('whale', 'me', answer, [item(200 * 1024)]);
    expect([has(http, 'whale'), has(sockets[1]!, 'stored'), has(sockets[0]!, 'next')]).toEqual([true, false, false]);
    http.put('too large', 'me', answer, [item(300 * 1024)]);
    expect(has(http, 'too large')).toBe(false);
  });

  it('have room again when a socket closes, and what it was still answering is not kept', () => {
    const { http, sockets } = stage(2);
    const [first, second] = sockets as [SocketMemory, SocketMemory];
    for (let at = 0; at < 4; at++) first.put(`own_${at}`, 'me', answer, large(), false);
    first.put('stored', 'me', answer, [item(10)], true);
    first.close();
    first.put('late', 'me', answer, large(), false);
    expect([has(first, 'own_3'), has(first, 'late'), has(http, 'stored')]).toEqual([false, false, true]);
    for (let at = 0; at < 4; at++) second.put(`own_${at}`, 'me', answer, large(), false);
    expect([0, 1, 2, 3].map((at) => has(second, `own_${at}`))).toEqual([true, true, true, true]);
    expect(has(http, 'stored')).toBe(true);
  });

  it('do not see each other’s private responses and items, and share what is stored', () => {
    const { http, sockets } = stage(2);
    const said = { ...item(10), id: 'msg_1' };
    sockets[0]!.put('private', 'me', answer, [said], false);
    for (const other of [http, sockets[1]!]) {
      expect([has(other, 'private'), other.item('msg_1', 'me')]).toEqual([false, null]);
    }
    expect(sockets[0]!.item('msg_1', 'me')).toBe(said);
    sockets[0]!.put('public', 'me', answer, [said], true);
    expect([has(sockets[1]!, 'public'), http.item('msg_1', 'me'), http.item('msg_1', 'you')]).toEqual([
      true,
      said,
      null,
    ]);
    http.delete('public', 'me');
    expect([http.item('msg_1', 'me'), sockets[0]!.item('msg_1', 'me')]).toEqual([null, said]);
  });

  it('count many small ones as what they take', () => {
    const { http } = stage(0);
    for (let at = 0; at < 500; at++) http.put(`r${at}`, 'me', answer, [item(1)]);
    expect(Array.from({ length: 500 }, (_, at) => has(http, `r${at}`)).filter(Boolean).length).toBeLessThan(130);
  });
});
