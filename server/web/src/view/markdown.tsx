// Streamed Markdown: cut into blocks, each rendered once and kept while its source stays the same, so that a long answer
// costs only its last block per frame. Everything is sanitised before it reaches the page.
import DOMPurify from 'dompurify';
import { marked, type Token } from 'marked';
import { memo } from 'preact/compat';
import { useEffect, useRef } from 'preact/hooks';
import { announce } from './announcer';

/** Brackets that are only escaped hold no formula: `\[sic\]`. */
const displayMath = /^\$\$([^$]+?)\$\$|^\\\[((?=[\s\S]*?[\\^_=+<>][\s\S]*?\\\])[\s\S]+?)\\\]/;

marked.use({
  // HTML in an answer is shown as it was written, like all else a model says: it is text, not a page.
  renderer: { html: ({ text }) => escapeHtml(text) },
  gfm: true,
  breaks: true,
  extensions: [
    // A block starts a line: else every dollar would cut a paragraph in two.
    mathExtension('mathBlock', 'block', /(?<=\n)(\$\$|\\\[)/, displayMath, 'block'),
    mathExtension('mathDisplay', 'inline', /\$\$|\\\[/, displayMath, 'block'),
    mathExtension(
      'mathInline',
      'inline',
      /\$|\\\(/,
      /^\$(?!\s)((?:[^$\n\\]|\\.)+?)(?<!\s)\$(?!\d)|^\\\(([\s\S]+?)\\\)/,
      'inline',
    ),
  ],
});

/** `$…$`, `$$…$$`, `\(…\)` and `\[…\]` become placeholders that enhance() turns into MathML. */
function mathExtension(name: string, level: 'block' | 'inline', start: RegExp, rule: RegExp, look: 'block' | 'inline') {
  return {
    name,
    level,
    start: (source: string) => source.search(start),
    tokenizer(source: string) {
      const match = rule.exec(source);
      return match ? { type: name, raw: match[0], text: (match[1] ?? match[2] ?? '').trim() } : undefined;
    },
    renderer: (token: { text?: string }) => `<span class="math ${look}">${escapeHtml(token.text ?? '')}</span>`,
  };
}

const escapeHtml = (text: string): string =>
  text.replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c] ?? c);

DOMPurify.addHook('afterSanitizeAttributes', (node) => {
  if (node.tagName === 'A') {
    node.setAttribute('target', '_blank');
    node.setAttribute('rel', 'noopener noreferrer');
  }
});

// No pictures from elsewhere: an answer must not make the browser call another machine.
const clean = (html: string): string =>
  DOMPurify.sanitize(html, {
    FORBID_TAGS: ['img', 'style', 'form', 'input', 'iframe', 'svg', 'video', 'audio'],
    FORBID_ATTR: ['style', 'srcset'],
  });

const Block = memo(
  function Block({ source, live }: { source: string; live: boolean }) {
    const element = useRef<HTMLDivElement>(null);
    useEffect(() => {
      if (!live && element.current) enhance(element.current);
    }, [source, live]);
    // Sanitised by DOMPurify: clean() above.
    return (
      <div
        class="block"
        dir="auto"
        ref={element}
        dangerouslySetInnerHTML={{ __html: clean(marked.parse(source, { async: false })) }}
      />
    );
  },
  (before, after) => before.source === after.source && before.live === after.live,
);

/** Renders Markdown; `live` marks text that is still growing. */
export function Markdown({ text, live }: { text: string; live: boolean }) {
  const all = marked.lexer(text);
  const tokens = all.filter(({ type }: Token) => type !== 'space' && type !== 'def');
  // Where links by reference lead is said elsewhere, often at the end.
  const places = all.flatMap(({ type, raw }: Token) => (type === 'def' ? [raw] : [])).join('\n');
  const sourceOf = ({ raw }: Token) => (places && raw.includes('[') ? `${raw}\n\n${places}` : raw);
  return (
    <div class="markdown">
      {tokens.map((token, index) => (
        <Block key={index} source={sourceOf(token)} live={live && index === tokens.length - 1} />
      ))}
    </div>
  );
}

async function enhance(element: HTMLElement): Promise<void> {
  for (const table of element.querySelectorAll('table')) wrapTable(table);
  const codes = [...element.querySelectorAll<HTMLElement>('pre > code')].filter(
    (code) => !code.parentElement?.previousElementSibling?.matches('.code-head'),
  );
  for (const code of codes) addHead(code);
  for (const code of codes) await colour(code);
  for (const math of element.querySelectorAll<HTMLElement>('.math:not(:has(math))')) await typeset(math);
}

async function typeset(math: HTMLElement): Promise<void> {
  const { default: katex } = await import('katex');
  const source = math.textContent ?? '';
  try {
    math.innerHTML = katex.renderToString(source, { output: 'mathml', displayMode: math.classList.contains('block') });
  } catch {
    // No TeX, or more than KaTeX knows: what the model wrote still tells more than nothing.
    const code = document.createElement('code');
    code.textContent = source;
    math.replaceChildren(code);
  }
}

function wrapTable(table: HTMLTableElement): void {
  if (table.parentElement?.classList.contains('table-scroll')) return;
  const scroll = document.createElement('div');
  scroll.className = 'table-scroll';
  scroll.tabIndex = 0;
  scroll.role = 'region';
  scroll.ariaLabel = 'Table';
  table.replaceWith(scroll);
  scroll.append(table);
}

const languageOf = (code: HTMLElement): string =>
  [...code.classList].find((name) => name.startsWith('language-'))?.slice(9) ?? '';

function addHead(code: HTMLElement): void {
  const head = document.createElement('div');
  head.className = 'code-head';
  const label = document.createElement('span');
  label.textContent = languageOf(code) || 'text';
  const copy = document.createElement('button');
  copy.type = 'button';
  copy.textContent = 'Copy';
  copy.addEventListener('click', async () => {
    await copyText(code.textContent ?? '');
    copy.textContent = 'Copied';
    announce('Copied.');
    setTimeout(() => (copy.textContent = 'Copy'), 1500);
  });
  head.append(label, copy);
  code.parentElement?.before(head);
  code.parentElement?.setAttribute('tabindex', '0');
}

async function colour(code: HTMLElement): Promise<void> {
  const { highlight } = await import('./highlight');
  const html = highlight(code.textContent ?? '', languageOf(code));
  if (html !== null) code.innerHTML = html;
}

/** The clipboard needs a secure page; on plain HTTP in a LAN the old way still works. */
export async function copyText(text: string): Promise<void> {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const focused = document.activeElement;
  const area = document.createElement('textarea');
  area.value = text;
  area.className = 'hidden';
  document.body.append(area);
  area.select();
  document.execCommand('copy');
  area.remove();
  if (focused instanceof HTMLElement) focused.focus({ preventScroll: true });
}
