// abi.ts says what hearth.h says: every function, its parameters in order, the statuses and the ABI number.

import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { abiNumber, prototypes, status } from '../../server/engine/native/abi.ts';

const header = readFileSync(new URL('../../engine-native/include/hearth.h', import.meta.url), 'utf8');
const normal = (text: string) =>
  text
    .replace(/\s+/g, ' ')
    .replace(/ ?\* ?/g, ' *')
    .trim();

it('prototypes are the header’s, word for word, and all of them', () => {
  const declared = [...header.matchAll(/^HEARTH_API ([^;]+);/gm)].map((match) => normal(match[1]!)).sort();
  expect(Object.values(prototypes).map(normal).sort()).toEqual(declared);
});

it('statuses and the ABI number are the header’s', () => {
  const values = [...header.matchAll(/^ {2}HEARTH_(\w+) = (\d+)/gm)].map(
    (match) => [match[1]!, Number(match[2])] as const,
  );
  const inHeader = Object.fromEntries(
    values.slice(
      0,
      values.findIndex(([name]) => name.startsWith('RECORD_')),
    ),
  );
  expect({ ...status }).toEqual(inHeader);
  expect(header).toContain(`#define HEARTH_ABI ${abiNumber}u`);
});
