// @ts-check
// Renders chat templates on a thread of its own, so that a slow or hostile one can be stopped. Plain JavaScript:
// a worker then starts in milliseconds, without the TypeScript loader.
import { readlinkSync } from 'node:fs';
import { parentPort } from 'node:worker_threads';
import { Template } from '@huggingface/jinja';
import { amendUndefined } from './undefined-values.mjs';

const outputLengthMax = 256 * 1024 * 1024;
/** By the keys that templates.ts gives. @type {Map<number, Template | Error>} */
const templates = new Map();

/** @param {number} key @param {string | undefined} source */
function compiled(key, source) {
  if (source !== undefined) {
    if (key === 0) templates.clear();
    try {
      const template = new Template(source);
      amendUndefined(template.parsed);
      templates.set(key, template);
    } catch (error) {
      templates.set(key, new Error(`it cannot be parsed: ${error instanceof Error ? error.message : 'unknown error'}`));
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
    const text = compiled(key, source).render(variables);
    if (text.length > outputLengthMax) throw new Error('the rendered prompt is too long');
    parentPort?.postMessage({ id, text });
  } catch (error) {
    parentPort?.postMessage({ id, error: error instanceof Error ? error.message : 'unknown error' });
  }
});

// Loading takes longer than most templates: the deadline of the first job begins here.
parentPort?.postMessage({ ready: true, thread: ownThread() });
