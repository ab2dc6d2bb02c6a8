// @ts-check
// What Jinja makes of an undefined value where @huggingface/jinja throws: filters take it for an empty text, list or
// mapping, loops over it end at once, and ~ joins nothing. Chat templates count on it (`{{ system_message | trim }}`).
// The filters that choose and map take none, too, for an empty list (`{{ tools | selectattr(…) }}` without tools).
// A loop over a text ends at once: templates that look for pictures in every message's parts begin one
// (`{% for part in message['content'] %}{% if part['type'] == 'image' %}`), and no character is what they look for.
import { parse, tokenize } from '@huggingface/jinja';

/** @typedef {{ type: string, value?: unknown, [key: string]: unknown }} Node */

const emptyOf = {
  text: ['trim', 'upper', 'lower', 'title', 'capitalize', 'replace', 'indent', 'string', 'int', 'float'],
  list: ['length', 'list', 'join', 'reverse', 'sort', 'unique'],
  listOfNone: ['map', 'select', 'reject', 'selectattr', 'rejectattr'],
  mapping: ['items', 'dictsort'],
};
const defaults = { text: "''", list: '[]', listOfNone: '[], true', mapping: '{}' };

/** @param {string} name @returns {keyof typeof emptyOf | undefined} */
const kindOf = (name) => /** @type {(keyof typeof emptyOf)[]} */ (Object.keys(emptyOf)).find((kind) => emptyOf[kind].includes(name));

/** `node | default(…)`. @param {unknown} node @param {keyof typeof defaults} kind */
function orEmpty(node, kind) {
  const [expression] = /** @type {Node[]} */ (/** @type {unknown} */ (parse(tokenize(`{{ _ | default(${defaults[kind]}) }}`)).body));
  return { ...expression, operand: node };
}

/** `[] if node is string else node`, undefined values aside. @param {unknown} node */
function loopable(node) {
  const [choice] = /** @type {Node[]} */ (/** @type {unknown} */ (parse(tokenize('{{ [] if _ is string else _ }}')).body));
  const condition = /** @type {Node} */ (/** @type {Node} */ (choice)['condition']);
  return { ...choice, condition: { ...condition, operand: node }, falseExpr: orEmpty(node, 'list') };
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
    if (iterable.type === 'SelectExpression') iterable['lhs'] = loopable(iterable['lhs']);
    else node['iterable'] = loopable(iterable);
  }
}

/** Changes a parsed template in place. @param {unknown} node */
export function amendUndefined(node) {
  if (typeof node !== 'object' || node === null) return;
  const children = node instanceof Map ? [...node].flat() : Object.values(node);
  for (const child of children) amendUndefined(child);
  if ('type' in node) amend(/** @type {Node} */ (node));
}
