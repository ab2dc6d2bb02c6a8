// @ts-check
// What Jinja makes of an undefined value where @huggingface/jinja throws: filters take it for an empty text, list or
// mapping, loops over it end at once, and ~ joins nothing. Chat templates count on it (`{{ system_message | trim }}`).
import { parse, tokenize } from '@huggingface/jinja';

/** @typedef {{ type: string, value?: unknown, [key: string]: unknown }} Node */

const emptyOf = {
  text: ['trim', 'upper', 'lower', 'title', 'capitalize', 'replace', 'indent', 'string', 'int', 'float'],
  list: ['length', 'list', 'join', 'reverse', 'sort', 'unique', 'map', 'select', 'reject', 'selectattr', 'rejectattr'],
  mapping: ['items', 'dictsort'],
};
const literals = { text: "''", list: '[]', mapping: '{}' };

/** @param {string} name @returns {keyof typeof emptyOf | undefined} */
const kindOf = (name) => /** @type {(keyof typeof emptyOf)[]} */ (Object.keys(emptyOf)).find((kind) => emptyOf[kind].includes(name));

/** `node | default(…)`. @param {unknown} node @param {keyof typeof literals} kind */
function orEmpty(node, kind) {
  const [expression] = /** @type {Node[]} */ (/** @type {unknown} */ (parse(tokenize(`{{ _ | default(${literals[kind]}) }}`)).body));
  return { ...expression, operand: node };
}

/** @param {Node} node */
function amend(node) {
  if (node.type === 'FilterExpression') {
    const filter = /** @type {Node} */ (node['filter']);
    const name = /** @type {Node} */ (filter.type === 'CallExpression' ? filter['callee'] : filter).value;
    const kind = kindOf(String(name));
    if (kind) node['operand'] = orEmpty(node['operand'], kind);
  } else if (node.type === 'BinaryExpression' && /** @type {Node} */ (node['operator']).value === '~') {
    node['left'] = orEmpty(node['left'], 'text');
    node['right'] = orEmpty(node['right'], 'text');
  } else if (node.type === 'For') {
    const iterable = /** @type {Node} */ (node['iterable']);
    if (iterable.type === 'SelectExpression') iterable['lhs'] = orEmpty(iterable['lhs'], 'list');
    else node['iterable'] = orEmpty(iterable, 'list');
  }
}

/** Changes a parsed template in place. @param {unknown} node */
export function amendUndefined(node) {
  if (typeof node !== 'object' || node === null) return;
  const children = node instanceof Map ? [...node].flat() : Object.values(node);
  for (const child of children) amendUndefined(child);
  if ('type' in node) amend(/** @type {Node} */ (node));
}
