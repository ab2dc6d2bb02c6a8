// Writes what docs/measured.json says into docs/charts/*.svg and between the "measured:" comments of README.md and
// docs/performance.md.
//   node scripts/charts.mjs            writes them
//   node scripts/charts.mjs --check    fails and names what is stale; --data FILE: by another file than docs/measured.json
//   node scripts/charts.mjs --import FILE   takes the H200's figures from a scripts/gpu/engine.sh run first
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { root } from './lib/build.mjs';
import { chartSvg, schemes } from './lib/chart-svg.mjs';
import { each, fill, limitOf, missedText, readmeText, rowOf, tableText, textOf, unspoken } from './lib/measured.mjs';

const read = (name) => readFileSync(join(root, name), 'utf8');
const least = (figure) => (Array.isArray(figure) ? figure[0] : figure);

// ---- Charts ----------------------------------------------------------------------------------------------------------

function decodeChart(data) {
  const rows = [1, 2, 4, 8, 16, 32, 64].map((count) => ({ count, ...rowOf(data, `h200.7b-${count}`) }));
  return {
    title: 'Decode: Llama-2-7B, 4 bits, one H200',
    notes: ['tok/s of all sequences together, and how much of', 'the limit that is (full length: the memory’s speed)'],
    alt: fill(
      data,
      'Decode on one H200, Llama-2-7B at 4 bits, tok/s: one sequence {h200.7b-1} against llama.cpp {h200.7b-1.peer}, {h200.7b-1.reached} of the limit; 64 sequences {h200.7b-64} against {h200.7b-64.peer}, {h200.7b-64.reached} of the limit.',
    ),
    labels: 96,
    figures: 305,
    full: 1,
    track: true,
    groups: rows.map(({ count, table, row }) => {
      const limit = limitOf(row);
      const share = (figure) => each(figure, (value) => `${Math.round((100 * value) / limit)}\u00a0%`);
      return {
        title: `${count} sequence${count > 1 ? 's' : ''}`,
        bars: [
          {
            name: 'Hearth',
            ours: true,
            value: least(row.measured) / limit,
            figure: `${textOf(table, row)} · ${share(row.measured)}`,
          },
          { name: 'llama.cpp', value: row.peer / limit, figure: `${textOf(table, row, 'peer')} · ${share(row.peer)}` },
        ],
      };
    }),
  };
}

function prefillChart(data) {
  const rows = [128, 512, 2048].map((count) => ({ count, ...rowOf(data, `h200.7b-p${count}`) }));
  const longest = Math.max(...rows.flatMap(({ row }) => [least(row.measured), ...Object.values(row.others)]));
  const bar = (name, value) => ({ name, value, figure: value.toLocaleString('en-US') });
  return {
    title: 'Prompts: Llama-2-7B, one H200, tok/s',
    notes: ['4 bits, except Transformers: FP16', 'mark: the goal'],
    alt: fill(
      data,
      'Reading prompts on one H200, Llama-2-7B, tok/s: 2,048 tokens {h200.7b-p2048} against llama.cpp {h200.7b-p2048.peer}; 128 tokens {h200.7b-p128} against {h200.7b-p128.peer}.',
    ),
    labels: 130,
    figures: 195,
    full: longest,
    groups: rows.map(({ count, table, row }) => ({
      title: `${count.toLocaleString('en-US')} tokens`,
      bars: [
        { name: 'Hearth', ours: true, value: least(row.measured), figure: textOf(table, row), goal: row.goal.measured },
        ...Object.entries(row.others).map(([name, value]) => bar(name, value)),
        bar('llama.cpp', row.peer),
      ],
    })),
  };
}

function cpuChart(data) {
  const machines = [
    ['amx', 'Xeon, AMX'],
    ['turin', 'EPYC Turin'],
    ['milan', 'EPYC Milan'],
  ];
  const phases = [
    ['decode', 'Decode, 1 sequence'],
    ['p128', 'Prompt of 128'],
    ['p512', 'Prompt of 512'],
    ['b8', '8 sequences'],
  ];
  const bars = (id) =>
    machines.map(([machine, name]) => {
      const { table, row } = rowOf(data, `${machine}.${id}`);
      return { name, ours: true, value: least(row.ratio), figure: textOf(table, row, 'ratio'), goal: row.goal.ratio };
    });
  return {
    title: 'Two cores: Hearth ÷ llama.cpp',
    notes: ['Llama-1.1B, 4 bits at equal bytes, in turns', 'dashed line: llama.cpp; mark: the goal'],
    alt: fill(
      data,
      'Hearth ÷ llama.cpp on two cores, Xeon with AMX / EPYC Turin / EPYC Milan: decode {amx.decode.ratio} / {turin.decode.ratio} / {milan.decode.ratio}, a prompt of 512 {amx.p512.ratio} / {turin.p512.ratio} / {milan.p512.ratio}.',
    ),
    labels: 150,
    figures: 110,
    full: Math.max(
      ...machines.flatMap(([machine]) => phases.map(([id]) => least(rowOf(data, `${machine}.${id}`).row.ratio))),
    ),
    line: 1,
    groups: phases.map(([id, title]) => ({ title, bars: bars(id) })),
  };
}

const charts = { 'h200-decode': decodeChart, 'h200-prefill': prefillChart, 'cpu-ratio': cpuChart };

// ---- Pages -----------------------------------------------------------------------------------------------------------

/** GitHub shows the picture of its own theme; other viewers that of the system's. */
function picture(data, name, folder) {
  const file = (scheme) => `${folder}/${name}-${scheme}.svg`;
  return [
    '<picture>',
    `  <source media="(prefers-color-scheme: dark)" srcset="${file('dark')}">`,
    `  <img width="640" alt="${charts[name](data).alt}" src="${file('light')}">`,
    '</picture>',
  ].join('\n');
}

function block(data, what, page) {
  const [kind, name] = what.split(' ');
  if (kind === 'table') return tableText(data.tables[name]);
  if (kind === 'chart') return picture(data, name, page === 'README.md' ? 'docs/charts' : 'charts');
  if (kind === 'missed') return missedText(data);
  if (kind === 'readme') return readmeText(data);
  throw new Error(`${page}: nothing is called "measured: ${what}"`);
}

const filled = (data, page) =>
  read(page).replace(
    /(<!-- measured: (.+?) -->\n).*?(<!-- \/measured -->)/gs,
    (_, begin, what, end) => `${begin}\n${block(data, what, page)}\n\n${end}`,
  );

/** File → what it should hold. */
function outputs(data) {
  const hidden = unspoken(data);
  if (hidden.length > 0) throw new Error(`missed goals that "missed" does not name: ${hidden.join(', ')}`);
  const svgs = Object.entries(charts).flatMap(([name, chart]) =>
    schemes.map((scheme) => [`docs/charts/${name}-${scheme}.svg`, chartSvg(chart(data), scheme)]),
  );
  return new Map([...svgs, ...['README.md', 'docs/performance.md'].map((page) => [page, filled(data, page)])]);
}

// ---- A run of scripts/gpu/engine.sh ----------------------------------------------------------------------------------

// A row's "from" names its line: {"row": "7b", "phase": "decode", "batch": 1, "prompt": 128}.
function takeRun(text, lines) {
  const measurements = lines
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  const found = (from) =>
    measurements.findLast((line) => Object.entries(from).every(([key, value]) => line[key] === value));
  const round = (value, digits) => Number(value.toPrecision(digits));
  return text.replace(/^ +\{"id": .*"from": .*$/gm, (line) => {
    const row = JSON.parse(line.replace(/,$/, ''));
    const now = found(row.from);
    if (!now) return line;
    row.measured = now.tokens_per_second ? Math.round(now.tokens_per_second) : round(now.ms, 3);
    const reached = now.fraction_of_limit ?? now.fraction_of_matrix;
    if (reached) row.reached = round(reached, 3);
    return line.replace(/\{.*\}/, JSON.stringify(row).replace(/([:,])(?=["{[\d])/g, '$1 '));
  });
}

function main() {
  const options = { check: { type: 'boolean' }, import: { type: 'string' }, data: { type: 'string' } };
  const { values } = parseArgs({ options });
  const file = values.data ?? join(root, 'docs/measured.json');
  if (values.import) writeFileSync(file, takeRun(readFileSync(file, 'utf8'), readFileSync(values.import, 'utf8')));
  const stale = [...outputs(JSON.parse(readFileSync(file, 'utf8')))].filter(
    ([name, text]) => !existsSync(join(root, name)) || read(name) !== text,
  );
  if (!values.check) return stale.forEach(write);
  if (stale.length === 0) return;
  console.error(`not as ${file} says: ${stale.map(([name]) => name).join(', ')}; run  node scripts/charts.mjs`);
  process.exitCode = 1;
}

function write([name, text]) {
  mkdirSync(dirname(join(root, name)), { recursive: true });
  writeFileSync(join(root, name), text);
  console.log(name);
}

main();
