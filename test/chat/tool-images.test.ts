// Pictures in the results of tools: where chat templates show them there, and where the user has to.

import { readFileSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import { buildPrompt, type ContentPart, type Turn } from '../../server/chat/prompt.ts';
import { TemplateRenderer } from '../../server/chat/templates.ts';

const renderer = new TemplateRenderer({ timeoutMs: 5000 });
const render = (source: string, variables: Record<string, unknown>) => renderer.render(source, variables);
afterAll(() => renderer.close());

const known = new Map(
  readFileSync(new URL('../fixtures/chat-templates/cases-huggingface-jinja-e2e.jsonl', import.meta.url), 'utf8')
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as { name: string; chat_template: string })
    .map((one) => [one.name, one.chat_template] as const),
);

const image = { type: 'image' } as const;
const text = (words: string) => ({ type: 'text', text: words }) as const;
const call = (id: string) => ({ id, name: 'shoot', arguments: '{"of":"page"}' });
const ask: Turn = { role: 'user', content: 'Look.' };
const calls = (...ids: string[]): Turn => ({ role: 'assistant', content: null, toolCalls: ids.map(call) });
const result = (id: string, ...content: ContentPart[]): Turn => ({ role: 'tool', content, toolCallId: id });
const shot = result('c1', text('Here, an <IMG>:'), image);

async function prompt(chatTemplate: string, turns: Turn[], placeholder = '<IMG>') {
  const owner = { chatTemplate, specialTokens: {}, imagePlaceholder: placeholder };
  return (await buildPrompt({ turns }, owner, render)).text;
}

describe('templates of models that see', () => {
  it.each([
    [
      'Qwen/Qwen3.5-4B',
      '<|image_pad|>',
      '<tool_response>\nHere, an <IMG>:<|vision_start|><|image_pad|><|vision_end|>\n',
    ],
    [
      'Qwen/Qwen2.5-VL-7B-Instruct',
      '<|image_pad|>',
      'tool\nHere, an <IMG>:<|vision_start|><|image_pad|><|vision_end|>',
    ],
    ['LiquidAI/LFM2.5-VL-450M', '<image>', 'tool\nHere, an <IMG>:<image><|im_end|>'],
  ])('%s shows pictures inside results', async (name, placeholder, expected) => {
    const rendered = await prompt(known.get(name)!, [ask, calls('c1'), shot], placeholder);
    expect(rendered).toContain(expected);
    expect(rendered).not.toContain('[image 1]');
  });

  it('meta-llama/Llama-3.2-11B-Vision-Instruct prints results as JSON: the user shows the picture', async () => {
    const source = known.get('meta-llama/Llama-3.2-11B-Vision-Instruct')!;
    const rendered = await prompt(source, [ask, calls('c1'), shot], '<|image|>');
    expect(rendered).toContain('"Here, an <IMG>:\\n[image 1]"<|eot_id|>');
    expect(rendered).toContain('user<|end_header_id|>\n\n[image 1]<|image|><|eot_id|>');
  });

  it('templates that take only text get the placeholder there', async () => {
    const rendered = await prompt(known.get('Qwen/Qwen3-0.6B')!, [ask, calls('c1'), shot]);
    expect(rendered).toContain('<tool_response>\nHere, an <IMG>:\n<IMG>\n</tool_response>');
  });
});

describe('a template that shows none in results', () => {
  const parts = "{% for p in m.content %}{% if p.type == 'image' %}<IMG>{% else %}{{ p.text }}{% endif %}|{% endfor %}";
  const inResults = (what: string) =>
    `{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% elif m.role == 'tool' %}${what}` +
    `{% else %}${parts}{% endif %}{% endfor %}`;
  const ways = {
    prints: '{{ m.content }}',
    'prints, as JSON,': '{{ m.content | tojson }}',
    'leaves out': "{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}",
    'shows twice': parts + parts,
    refuses: "{{ raise_exception('text only') }}",
    'fails on': '{{ "x" + m.content.trim() }}',
  };

  it.each(Object.entries(ways))('and %s them: the user shows them right behind', async (_, what) => {
    expect(await prompt(inResults(what), [ask, calls('c1'), shot])).toBe(
      '<user>Look.<assistant><tool>Here, an <IMG>:\n[image 1]<user>[image 1]|<IMG>|',
    );
  });

  it('several results of one turn stay together, and the pictures keep their order and get numbers', async () => {
    const turns = [
      ask,
      calls('c1', 'c2', 'c3'),
      result('c1', image, text('first')),
      result('c2', text('none')),
      result('c3', image, image),
      { role: 'assistant', content: 'So.' } as const,
      { role: 'user', content: [image, text('And this?')] } as Turn,
      calls('c4'),
      result('c4', image),
    ];
    expect(await prompt(inResults(ways['leaves out']), turns)).toBe(
      '<user>Look.<assistant><tool>[image 1]\nfirst<tool>none<tool>[image 2]\n[image 3]' +
        '<user>[image 1]|<IMG>|[image 2]|<IMG>|[image 3]|<IMG>|<assistant>So.<user><IMG>|And this?|' +
        '<assistant><tool>[image 4]<user>[image 4]|<IMG>|',
    );
  });

  it('what the user says next has them in front: no two messages of one role', async () => {
    const turns = [ask, calls('c1'), shot, { role: 'user', content: 'And?' } as const];
    expect(await prompt(inResults(ways.prints), turns)).toMatch(/<user>\[image 1\]\|<IMG>\|And\?\|$/);
  });

  it('and wants no system message: both are put right', async () => {
    const source = `{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% endfor %}`;
    const turns: Turn[] = [{ role: 'system', content: 'Be brief.' }, ask, calls('c1'), shot];
    expect(await prompt(source + inResults(ways.refuses), turns)).toMatch(/^<user>Be brief\.\n\nLook\..*<IMG>\|$/s);
  });

  it('and has no tools at all: its own words', async () => {
    const source = `{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}{% endfor %}`;
    await expect(prompt(source, [ask, calls('c1'), shot])).rejects.toThrow('no tools here');
  });
});
