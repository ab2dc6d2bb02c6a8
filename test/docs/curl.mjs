// What `curl` is when an example is run: its options as the examples use them, sent with fetch to HEARTH_DOCS_URL in
// place of the example's host. An option it does not know is an error, an answer that is not 2xx too.
import { readFileSync } from 'node:fs';

const headers = new Headers();
let body;
let url;
const args = process.argv.slice(2);
for (let at = 0; at < args.length; at++) {
  const argument = args[at];
  if (argument === '-H') {
    const [, name, value] = /^([\w-]+): *(.*)$/.exec(args[++at]) ?? [];
    headers.set(name, value);
  } else if (argument === '-d') body = args[++at];
  else if (/^https?:/.test(argument)) url = argument.replace(/^https?:\/\/[^/]+/, process.env.HEARTH_DOCS_URL);
  else if (argument !== '-N' && argument !== '-k') throw new Error(`curl ${argument} is not known here`);
}
if (body === '@-') body = readFileSync(0, 'utf8');
// curl's own default, so that an example without the header fails as it would for a reader.
if (body !== undefined && !headers.has('content-type')) headers.set('content-type', 'application/x-www-form-urlencoded');
const response = await fetch(url, { headers, ...(body === undefined ? {} : { method: 'POST', body }) });
process.stdout.write(`${response.status} ${await response.text()}\n`);
process.exit(response.ok ? 0 : 22);
