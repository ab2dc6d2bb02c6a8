// Tool calls and reasoning out of text, in every family's format and however the text is cut.

import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { callParser } from '../../server/chat/calls.ts';
import { type CallFormat, familyOf } from '../../server/chat/families.ts';
import { type OutputDelta, type OutputParser, PlainParser } from '../../server/chat/output.ts';
import { ReasoningParser } from '../../server/chat/reasoning.ts';

const names = new Set(['get_weather', 'f']);

interface Result {
  content: string;
  reasoning: string;
  calls: Array<{ name: string; arguments: string }>;
}

function run(parser: OutputParser, pieces: readonly string[], cut = false): Result {
  const out: OutputDelta[] = [];
  for (const piece of pieces) parser.push(piece, out);
  parser.finish(out, cut);
  const result: Result = { content: '', reasoning: '', calls: [] };
  const ids = new Set<string>();
  for (const delta of out) {
    if (delta.type === 'content') result.content += delta.text;
    else if (delta.type === 'reasoning') result.reasoning += delta.text;
    else if (delta.type === 'call') {
      expect(delta.index).toBe(result.calls.length);
      ids.add(delta.id);
      result.calls.push({ name: delta.name, arguments: '' });
    } else result.calls[delta.index]!.arguments += delta.text;
  }
  expect(ids.size).toBe(result.calls.length);
  return result;
}

const parse = (format: CallFormat, text: string, callsMax = 128, cut = false) => {
  const whole = run(callParser(format, { names, callsMax }), [text], cut);
  // However the text comes in pieces, the result is the same.
  expect(run(callParser(format, { names, callsMax }), [...text], cut)).toEqual(whole);
  return whole;
};

const paris = { name: 'get_weather', arguments: '{"city": "Paris", "n": {"a": [1, "}{"]}}' };
const empty = { name: 'f', arguments: '{}' };

describe('tool calls', () => {
  const json = '{"name": "get_weather", "arguments": {"city": "Paris", "n": {"a": [1, "}{"]}}}';
  const cases: Array<[CallFormat, string, Result['calls'], string]> = [
    ['hermes', `<tool_call>\n${json}\n</tool_call>`, [paris], ''],
    [
      'hermes',
      `I will look.\n<tool_call>\n${json}\n</tool_call>\n<tool_call>\n{"name": "f"}\n</tool_call>`,
      [paris, empty],
      'I will look.',
    ],
    [
      'hermes',
      `<tool_call>{"arguments": {"x": 1}, "name": "f"}</tool_call>`,
      [{ name: 'f', arguments: '{"x": 1}' }],
      '',
    ],
    [
      'hermes',
      `<tool_call>{"name": "f", "arguments": "{\\"x\\": \\"\\\\n\\"}"}</tool_call>`,
      [{ name: 'f', arguments: '{"x": "\\n"}' }],
      '',
    ],
    ['hermes', `<tool_call>{"name": "f", "arguments": null}</tool_call>`, [empty], ''],
    // No JSON string: small models write line feeds as they are. The client gets what the model wrote.
    ['hermes', `<tool_call>{"name": "f", "arguments": "a\nb"}</tool_call>`, [{ name: 'f', arguments: '"a\nb"' }], ''],
    ['llama', `{"name": "f", "parameters": "\\q"}`, [{ name: 'f', arguments: '"\\q"' }], ''],
    // Cut by max_tokens within the end mark.
    ['hermes', `Ok.\n<tool_call>\n${json}\n</tool_ca`, [paris], 'Ok.'],
    [
      'deepseek',
      '<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{"y": 2}\n```<｜tool▁ca',
      [{ name: 'f', arguments: '{"y": 2}' }],
      '',
    ],
    ['hermes', 'No call, but 1 < 2 and <tool', [], 'No call, but 1 < 2 and <tool'],
    ['hermes', '  spaced answer \n', [], '  spaced answer \n'],
    ['llama', '{"name": "get_weather", "parameters": {"city": "Paris", "n": {"a": [1, "}{"]}}}', [paris], ''],
    [
      'llama',
      '<|python_tag|>{"name": "f", "parameters": {}}; {"name": "f", "parameters": {"y": 2}}',
      [empty, { name: 'f', arguments: '{"y": 2}' }],
      '',
    ],
    ['llama', '{"name": "Bob", "age": 5}', [], '{"name": "Bob", "age": 5}'],
    ['llama', '{not json', [], '{not json'],
    ['llama', 'See {"name": "f"}', [], 'See {"name": "f"}'],
    ['mistral', `[TOOL_CALLS][${json}, {"name": "f", "arguments": {}}]`, [paris, empty], ''],
    ['mistral', '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris", "n": {"a": [1, "}{"]}}', [paris], ''],
    [
      'mistral',
      'Sure. [TOOL_CALLS]f{}[TOOL_CALLS]f[ARGS]{"y": 2}',
      [empty, { name: 'f', arguments: '{"y": 2}' }],
      'Sure.',
    ],
    [
      'deepseek',
      '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{"city": "Paris", "n": {"a": [1, "}{"]}}\n```<｜tool▁call▁end｜>\n' +
        '<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
      [paris, empty],
      '',
    ],
    [
      'deepseek',
      'Ok.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"y": 2}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
      [{ name: 'f', arguments: '{"y": 2}' }],
      'Ok.',
    ],
  ];
  for (const [format, text, calls, content] of cases) {
    it(`${format}: ${text.slice(0, 60)}`, () => {
      expect(parse(format, text)).toEqual({ content, reasoning: '', calls });
    });
  }

  describe('cut by max_tokens before the name is known', () => {
    const before = 'Let me look.';
    for (const [format, call] of [
      ['hermes', '<tool_call>\n{"name": "get_weather", "arguments": {}}\n</tool_call>'],
      ['llama', '<|python_tag|>{"name": "get_weather", "parameters": {}}'],
      ['mistral', '[TOOL_CALLS][{"name": "get_weather", "arguments": {}}]'],
      ['mistral', '[TOOL_CALLS]get_weather[ARGS]{}'],
      ['deepseek', '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{}\n```'],
    ] as const) {
      it(`${format}: ${call.slice(0, 30)} leaves no markup at any place`, () => {
        for (let length = 3; length < call.length; length++) {
          // Two letters and fewer begin much else than a mark.
          if (/><｜?$/.test(call.slice(0, length))) continue;
          const said = parse(format, `${before}\n${call.slice(0, length)}`, 128, true);
          expect([length, said.content]).toEqual([length, before]);
          expect(said.calls.length).toBeLessThanOrEqual(1);
          expect(parse(format, `${before}\n${call.slice(0, length)}`, 0, true)).toEqual({
            content: before,
            reasoning: '',
            calls: [],
          });
        }
      });

      it(`${format}: ${call.slice(0, 30)} is text where the model itself ended`, () => {
        const name = call.indexOf('get_w');
        const text = `${before} ${call.slice(0, name + 5)}`;
        const { content, calls } = parse(format, text);
        expect(content.length).toBeGreaterThan(before.length);
        expect(calls).toEqual([]);
      });
    }

    it('a bare object is left out when it can only become a call of a function that is offered', () => {
      for (const text of ['{"na', '{"name": "get_wea', '{ "name" :', '{"type": "function", "name": "f']) {
        expect([text, parse('llama', text, 128, true).content]).toEqual([text, '']);
      }
      for (const text of ['{"name": "Bo', '{"age": 5', '{"name": "get_x', '{"type": "object"']) {
        expect([text, parse('llama', text, 128, true).content]).toEqual([text, text]);
      }
      const second = '{"name": "f", "parameters": {}}; {"na';
      expect(parse('llama', second, 128, true)).toEqual({ content: '', reasoning: '', calls: [empty] });
    });

    it('what only looks like a mark stays, and so does white space', () => {
      for (const text of ['1 <', 'a </', 'x [T', 'end \n', 'a <table']) {
        expect(parse('hermes', text, 128, true).content).toBe(text);
      }
    });
  });

  it('gives at most as many calls as are wanted, and no markup with none', () => {
    const text = `Hm.<tool_call>${json}</tool_call><tool_call>{"name": "f"}</tool_call>`;
    expect(parse('hermes', text, 1).calls).toEqual([paris]);
    expect(parse('hermes', text, 0)).toEqual({ content: 'Hm.', reasoning: '', calls: [] });
  });

  it('streams arguments before the call is complete', () => {
    const parser = callParser('hermes', { names, callsMax: 9 });
    const out: OutputDelta[] = [];
    parser.push('<tool_call>{"name": "f", "arguments": {"text": "a long te', out);
    expect(out).toMatchObject([
      { type: 'call', index: 0, name: 'f' },
      { type: 'arguments', index: 0, text: '{"text": "a long te' },
    ]);
  });

  it('any arguments come through any cut unchanged', () => {
    fc.assert(
      fc.property(
        fc.dictionary(fc.string(), fc.jsonValue()),
        fc.array(fc.nat(200), { maxLength: 8 }),
        (value, cuts) => {
          const text = JSON.stringify(value);
          const written = {
            hermes: `<tool_call>\n{"name": "f", "arguments": ${text}}\n</tool_call>`,
            llama: `{"name": "f", "parameters": ${text}}`,
            mistral: `[TOOL_CALLS]f[ARGS]${text}`,
            deepseek: `<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>${text}<｜tool▁call▁end｜><｜tool▁calls▁end｜>`,
          };
          for (const [format, whole] of Object.entries(written)) {
            const at = [0, ...cuts.map((cut) => cut % whole.length).sort((a, b) => a - b), whole.length];
            const pieces = at.slice(1).map((end, index) => whole.slice(at[index], end));
            const { calls } = run(callParser(format as CallFormat, { names, callsMax: 9 }), pieces);
            expect(calls).toEqual([{ name: 'f', arguments: text }]);
          }
        },
      ),
      { numRuns: 300 },
    );
  });
});

describe('reasoning', () => {
  const tags = { open: '<think>', close: '</think>' };
  const think = (text: string, inside = false, cut = false) => {
    const make = () => new ReasoningParser(new PlainParser(), tags, inside);
    const whole = run(make(), [text], cut);
    expect(run(make(), [...text], cut)).toEqual(whole);
    return [whole.reasoning, whole.content];
  };

  it('is taken out of the answer, with its white space', () => {
    expect(think('<think>\nLet me see.\n\nYes.\n</think>\n\nIt is 4.')).toEqual(['Let me see.\n\nYes.', 'It is 4.']);
    expect(think('hm\n</think>\n\nok', true)).toEqual(['hm', 'ok']);
    expect(think('<think>\n\n</think>\n\nok')).toEqual(['', 'ok']);
  });

  it('is found only at the beginning, and may never end', () => {
    expect(think('No <think> here</think>')).toEqual(['', 'No <think> here</think>']);
    expect(think('<think>cut off')).toEqual(['cut off', '']);
    expect(think('  <th')).toEqual(['', '  <th']);
  });

  it('leaves no half tag when it is cut', () => {
    expect(think('<think>hm\n</thi', false, true)).toEqual(['hm', '']);
    expect(think('hm </', true, true)).toEqual(['hm </', '']);
    expect(think('\n<thin', false, true)).toEqual(['', '\n']);
    expect(think(' <t', false, true)).toEqual(['', ' <t']);
  });

  it('goes before calls', () => {
    const parser = new ReasoningParser(callParser('hermes', { names, callsMax: 9 }), tags, true);
    const result = run(parser, [...'I need f.</think>\n<tool_call>{"name": "f"}</tool_call>']);
    expect(result).toEqual({ content: '', reasoning: 'I need f.', calls: [empty] });
  });
});

describe('families', () => {
  const cases = readFileSync(
    new URL('../fixtures/chat-templates/cases-huggingface-jinja-e2e.jsonl', import.meta.url),
    'utf8',
  )
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as { name: string; chat_template: string });

  for (const [name, calls, reasoning] of [
    ['HuggingFaceH4/zephyr-7b-gemma-v0.1', null, false],
    ['NousResearch/Hermes-2-Pro-Llama-3-8B (JSON Schema)', 'hermes', false],
    ['Qwen/Qwen2.5-7B-Instruct', 'hermes', false],
    ['Qwen/Qwen3-0.6B', 'hermes', true],
    ['meta-llama/Llama-3.1-8B-Instruct', 'llama', false],
    ['mistralai/Mistral-Nemo-Instruct-2407', 'mistral', false],
    ['deepseek-ai/DeepSeek-R1', 'deepseek', true],
    ['zai-org/GLM-5.1', null, true],
  ] as const) {
    it(`${name}: ${calls}`, () => {
      const family = familyOf(cases.find((one) => one.name === name)!.chat_template);
      expect([family.calls, family.reasoning !== null]).toEqual([calls, reasoning]);
    });
  }

  it('without a template there are none', () => {
    expect(familyOf(null)).toEqual({ calls: null, reasoning: null });
  });
});
