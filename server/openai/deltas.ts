// What parsers give (chat/output.ts), in this folder's own words: wire mappings import nothing of ours.

export type OutputDelta =
  | { type: 'content'; text: string }
  | { type: 'reasoning'; text: string }
  | { type: 'call'; index: number; id: string; name: string }
  | { type: 'arguments'; index: number; text: string };
