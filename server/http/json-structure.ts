// What a JSON body costs to parse is not its bytes but its structure: 50 MB of text take milliseconds, 50 MB of brackets or
// of fields with names of their own 20 seconds, in which nobody else is served. So large bodies are measured first.

import { errors } from '../errors.ts';

// By what each costs to parse and to validate: up to 0.5 µs a unit.
const numberCost = 1;
const stringCost = 4;
const partCost = 10;
const costMax = 1_500_000;

export const quote = 0x22;
export const backslash = 0x5c;
const costOf = new Uint8Array(256);
costOf[0x2c] = numberCost; // a comma: one more of whatever it is
for (const opening of '{[:') costOf[opening.charCodeAt(0)] = partCost;

/**
 * Refuses JSON that would hold up everyone for seconds: of more than 1,500,000 numbers, 300,000 strings, 100,000 fields or
 * 136,000 objects without any in one array, or a mixture. What is no JSON at all is left to the parser.
 */
export function refuseIntricate(json: Buffer): void {
  if (json.length * partCost <= costMax) return;
  let cost = 0;
  for (let at = 0; at < json.length; at++) {
    const byte = json[at]!;
    if (byte === quote) {
      cost += stringCost;
      at = endOfString(json, at + 1);
      if (at < 0) return;
    } else cost += costOf[byte]!;
    if (cost > costMax) throw errors.intricate();
  }
}

/** The quote that ends a string which begins at `begin`; -1 when there is none. */
export function endOfString(json: Buffer, begin: number): number {
  const first = json.indexOf(quote, begin);
  if (first < 0 || json[first - 1] !== backslash) return first;
  for (let at = begin; at < json.length; at++) {
    if (json[at] === backslash) at++;
    else if (json[at] === quote) return at;
  }
  return -1;
}
