// Bytes to events, with records made by hand after the layout in hearth.h.

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { readRecords } from '../../server/engine/native/records.ts';
import type { EngineError, EngineEvent } from '../../server/engine/port.ts';

interface RecordFields {
  type: number;
  request?: number;
  flags?: number;
  token?: number;
  reason?: number;
  logprob?: number;
  index?: number;
  bytes?: Uint8Array;
  text?: string;
  top?: Array<{ token: number; logprob: number; bytes: Uint8Array }>;
  values?: number[];
}

function makeRecord(fields: RecordFields): Buffer {
  const { bytes = new Uint8Array(0), text = '', top = [], values = [] } = fields;
  const textBytes = Buffer.from(text);
  const topBytes = Buffer.concat(
    top.map((entry) => {
      const head = Buffer.alloc(12);
      head.writeInt32LE(entry.token, 0);
      head.writeFloatLE(entry.logprob, 4);
      head.writeUInt32LE(entry.bytes.length, 8);
      return Buffer.concat([head, entry.bytes]);
    }),
  );
  const unaligned = 48 + bytes.length + textBytes.length + topBytes.length;
  const valuesAt = Math.ceil(unaligned / 4) * 4;
  const size = Math.ceil((valuesAt + values.length * 4) / 8) * 8;
  const record = Buffer.alloc(size, 0xee);
  record.writeUInt32LE(size, 0);
  record.writeUInt16LE(fields.type, 4);
  record.writeUInt16LE(fields.flags ?? 0, 6);
  record.writeUInt32LE(fields.request ?? 1, 8);
  record.writeInt32LE(fields.token ?? -1, 12);
  record.writeUInt32LE(fields.reason ?? 0, 16);
  record.writeFloatLE(fields.logprob ?? Number.NaN, 20);
  record.writeUInt32LE(fields.index ?? 0, 24);
  record.writeUInt32LE(bytes.length, 28);
  record.writeUInt32LE(textBytes.length, 32);
  record.writeUInt32LE(top.length, 36);
  record.writeUInt32LE(topBytes.length, 40);
  record.writeUInt32LE(values.length, 44);
  record.set(bytes, 48);
  record.set(textBytes, 48 + bytes.length);
  record.set(topBytes, 48 + bytes.length + textBytes.length);
  values.forEach((value, at) => {
    record.writeFloatLE(value, valuesAt + at * 4);
  });
  return record;
}

function read(...records: Buffer[]) {
  const events: Array<[number, EngineEvent]> = [];
  const notices: unknown[] = [];
  const failures: EngineError[] = [];
  const results: unknown[] = [];
  const all = Buffer.concat(records);
  readRecords(all, all.length, {
    event: (request, event) => events.push([request, event]),
    notice: (_request, notice) => notices.push(notice),
    failed: (_request, error) => failures.push(error),
    result: (_request, result) => results.push(result),
  });
  return { events, notices, failures, results };
}

const json = (value: unknown) => Buffer.from(JSON.stringify(value));

describe('records', () => {
  it('tokens, with and without log-probabilities', () => {
    const hedgehog = Buffer.from('🦔');
    const top = [
      { token: 7, logprob: -0.5, bytes: hedgehog },
      { token: 9, logprob: -2, bytes: Buffer.from([0xf0]) },
    ];
    const plain = makeRecord({ type: 1, request: 3, token: 5, text: 'é' });
    const full = makeRecord({
      type: 1,
      request: 4,
      token: 7,
      flags: 1,
      logprob: -0.5,
      bytes: hedgehog,
      text: '🦔',
      top,
    });
    const { events } = read(plain, full);
    expect(events).toEqual([
      [3, { type: 'token', token: 5, text: 'é', special: false }],
      [
        4,
        {
          type: 'token',
          token: 7,
          text: '🦔',
          special: true,
          logprob: { token: 7, logprob: -0.5, bytes: new Uint8Array(hedgehog) },
          top: top.map((entry) => ({ ...entry, bytes: new Uint8Array(entry.bytes) })),
        },
      ],
    ]);
  });

  it('prompt tokens, embeddings at an odd offset, acceptance, notices', () => {
    const { events, notices } = read(
      makeRecord({ type: 6, index: 12 }),
      makeRecord({ type: 2, index: 1, token: 8, logprob: -1.5, bytes: Buffer.from('abc') }),
      makeRecord({ type: 3, text: 'x', values: [1.5, -2] }),
      makeRecord({ type: 5, text: '{"stage":"weights","done":1,"total":2}' }),
    );
    expect(events.map(([, event]) => event)).toEqual([
      { type: 'accepted', promptTokens: 12 },
      { type: 'prompt', index: 1, logprob: { token: 8, logprob: -1.5, bytes: new Uint8Array([97, 98, 99]) }, top: [] },
      { type: 'embedding', values: Float32Array.from([1.5, -2]) },
    ]);
    expect(notices).toEqual([{ stage: 'weights', done: 1, total: 2 }]);
  });

  it('finishes, with usage, held-back text, errors and results', () => {
    const usage = { prompt_tokens: 5, cached_tokens: 4, completion_tokens: 2, queue_ms: 0.5, stop: 'END' };
    const tooLong = { status: 13, message: '{"prompt_tokens":9,"context":8}' };
    const { events, failures, results } = read(
      makeRecord({ type: 4, reason: 1, bytes: json(usage), text: 'tail' }),
      makeRecord({ type: 4, reason: 4, bytes: json({ error: tooLong }) }),
      makeRecord({ type: 4, reason: 5, bytes: json({ result: { loss: 1 } }) }),
    );
    expect(events[0]![1]).toMatchObject({
      type: 'finished',
      reason: 'stop',
      text: 'tail',
      stop: 'END',
      usage: { promptTokens: 5, cachedTokens: 4, completionTokens: 2, queueMs: 0.5, imageTokens: 0 },
    });
    expect(failures[0]).toMatchObject({ code: 'context_length_exceeded', detail: { prompt_tokens: 9, context: 8 } });
    expect(results).toEqual([{ loss: 1 }]);
  });

  it('skips types it does not know, and refuses sizes that cannot be', () => {
    expect(read(makeRecord({ type: 99 }), makeRecord({ type: 1, text: 'a' })).events).toHaveLength(1);
    const broken = makeRecord({ type: 1 });
    for (const size of [0, 47, 49, 1 << 20]) {
      broken.writeUInt32LE(size, 0);
      expect(() => read(broken)).toThrow(/a record of/);
    }
  });

  it('reads back any token record', () => {
    const entry = fc.record({
      token: fc.nat(1e6),
      logprob: fc.float({ noNaN: true }),
      bytes: fc.uint8Array({ maxLength: 9 }),
    });
    const token = fc.record({
      token: fc.nat(1e6),
      text: fc.string({ unit: 'grapheme' }),
      bytes: fc.uint8Array(),
      top: fc.array(entry),
    });
    fc.assert(
      fc.property(fc.array(token, { maxLength: 5 }), (tokens) => {
        const { events } = read(...tokens.map((fields) => makeRecord({ type: 1, logprob: -1, ...fields })));
        expect(events.map(([, event]) => event)).toMatchObject(
          tokens.map(({ token, text, bytes, top }) => ({ token, text, logprob: { bytes }, top })),
        );
      }),
    );
  });
});
