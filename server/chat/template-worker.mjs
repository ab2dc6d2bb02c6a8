// @ts-check
// Renders chat templates on a thread of its own, so that a slow or hostile one can be stopped. Plain JavaScript:
// a worker then starts in milliseconds, without the TypeScript loader.
import { parentPort } from 'node:worker_threads';
import { Template } from '@huggingface/jinja';

const templatesMax = 32;
const outputLengthMax = 256 * 1024 * 1024;
/** @type {Map<string, Template>} */
const templates = new Map();

/** @param {string} source */
function compiled(source) {
  let template = templates.get(source);
  if (!template) {
    template = new Template(source);
    if (templates.size >= templatesMax) templates.delete(/** @type {string} */ (templates.keys().next().value));
    templates.set(source, template);
  }
  return template;
}

parentPort?.on('message', ({ id, source, variables }) => {
  try {
    const text = compiled(source).render(variables);
    if (text.length > outputLengthMax) throw new Error('the rendered prompt is too long');
    parentPort?.postMessage({ id, text });
  } catch (error) {
    parentPort?.postMessage({ id, error: error instanceof Error ? error.message : 'unknown error' });
  }
});

// Loading takes longer than most templates: the deadline of the first job begins here.
parentPort?.postMessage({ ready: true });
