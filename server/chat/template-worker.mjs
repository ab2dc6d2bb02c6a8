// @ts-check
// Renders chat templates on a thread of its own, so that a slow or hostile one can be stopped. Plain JavaScript:
// a worker then starts in milliseconds, without the TypeScript loader.
import { readlinkSync } from 'node:fs';
import { parentPort } from 'node:worker_threads';
import { Template } from '@huggingface/jinja';
import { amendUndefined } from './undefined-values.mjs';

const outputLengthMax = 256 * 1024 * 1024;
/** By the keys that templates.ts gives. @type {Map<number, Template | Fault>} */
const templates = new Map();

/** Why no text came of a job, and in what way; templates.ts says which there are. */
class Fault extends Error {
  /** @param {'refused' | 'broken'} fault @param {unknown} cause */
  constructor(fault, cause) {
    super(cause instanceof Error ? cause.message : String(cause));
    this.fault = fault;
  }
}

/** What templates refuse a conversation with, in place of the library's own, whose errors look like any other. */
const refusal = {
  name: 'hearth_refuse',
  /** @param {unknown} message */
  raise(message) {
    throw new Fault('refused', message);
  },
};

/** The library lets nobody declare its names again, so a parsed template calls ours. @param {unknown} node */
function renameRefusals(node) {
  if (typeof node !== 'object' || node === null) return;
  if ('type' in node && node.type === 'Identifier' && 'value' in node && node.value === 'raise_exception')
    node.value = refusal.name;
  for (const child of node instanceof Map ? [...node].flat() : Object.values(node)) renameRefusals(child);
}

/** @param {number} key @param {string | undefined} source */
function compiled(key, source) {
  if (source !== undefined) {
    if (key === 0) templates.clear();
    try {
      const template = new Template(source);
      amendUndefined(template.parsed);
      renameRefusals(template.parsed);
      templates.set(key, template);
    } catch (error) {
      templates.set(key, new Fault('broken', error));
    }
  }
  const template = templates.get(key);
  if (!(template instanceof Template)) throw template ?? new Error('the template is not known');
  return template;
}

/** Where the system counts this thread's processor time. */
function ownThread() {
  try {
    return `/proc/${readlinkSync('/proc/thread-self')}`;
  } catch {
    return null;
  }
}

parentPort?.on('message', ({ id, key, source, variables }) => {
  try {
    const text = compiled(key, source).render({ ...variables, [refusal.name]: refusal.raise });
    if (text.length > outputLengthMax) throw new Error('the rendered prompt is too long');
    parentPort?.postMessage({ id, text });
  } catch (error) {
    const fault = error instanceof Fault ? error.fault : 'failed';
    parentPort?.postMessage({ id, error: error instanceof Error ? error.message : 'unknown error', fault });
  }
});

// Loading takes longer than most templates: the deadline of the first job begins here.
parentPort?.postMessage({ ready: true, thread: ownThread() });
