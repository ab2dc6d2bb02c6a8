// docs/measured.json as text: figures, Markdown tables, and sentences with figures in braces. A row's parts are explained
// in the file itself ("about").

const least = (figure) => (Array.isArray(figure) ? figure[0] : figure);
const most = (figure) => (Array.isArray(figure) ? figure[1] : figure);
// A unit stands once, behind the range: 83–84 %.
export const each = (figure, write) => {
  if (!Array.isArray(figure)) return write(figure);
  const [unit] = /\D*$/.exec(write(figure[1]));
  return `${write(figure[0]).slice(0, -unit.length || undefined)}–${write(figure[1])}`;
};

const space = '\u00a0'; // keeps a figure and its unit on one line in narrow cells
const plain = (value) => value.toLocaleString('en-US', { maximumFractionDigits: 3 });
const times = (value) => `${Number.isInteger(value) ? value.toFixed(1) : value}×`;
const percent = (value) => `${Number((value * 100).toFixed(1))}${space}%`;
const withUnit = (unit) => (value) => (unit === '×' ? times(value) : `${plain(value)}${unit ? space + unit : ''}`);

const unitOf = (table, row) => row.unit ?? table.unit;
/** The share of the limit: measured, or the figure over the limit. */
export const reachedOf = ({ reached, limit, measured }) => reached ?? (limit ? least(measured) / limit : undefined);
export const limitOf = (row) => row.limit ?? (row.reached ? least(row.measured) / least(row.reached) : undefined);
const ratioOf = ({ ratio, measured, peer }) => ratio ?? (peer && measured ? least(measured) / peer : undefined);

const figureOf = (row, name) =>
  ({ reached: reachedOf, ratio: ratioOf })[name]?.(row) ?? row[name === 'most' ? 'measured' : name];

/** Of each goal: yes, no, or in part where rounds fall on both sides of it. */
function verdicts(row) {
  return Object.entries(row.goal ?? {}).map(([name, goal]) => {
    const figure = figureOf(row, name);
    const [good, bad] =
      name === 'most' ? [most(figure) <= goal, least(figure) > goal] : [least(figure) >= goal, most(figure) < goal];
    return good ? 'yes' : bad ? 'no' : 'in\u00a0part';
  });
}
export const isMissed = (row) => verdicts(row).some((verdict) => verdict !== 'yes');

function met(row) {
  const all = verdicts(row);
  if (all.length === 0) return '';
  if (!isMissed(row)) return 'yes';
  return all.every((verdict) => verdict === 'no') ? '**no**' : '**in\u00a0part**';
}

/** How much of a missed goal for the figure itself was reached: never all of it. */
const part = (row) => percent(Math.min(0.99, Math.round((100 * least(row.measured)) / row.goal.measured) / 100));

function goalText(table, row) {
  const texts = {
    measured: withUnit(row.unit ?? (table.unit === 'tok/s' ? '' : table.unit)),
    most: (goal) => `≤ ${withUnit(unitOf(table, row))(goal)}`,
    reached: percent,
    ratio: times,
  };
  return Object.entries(row.goal ?? {})
    .map(([name, goal]) => texts[name](goal))
    .join(', ');
}

const shown = (figure, write) => (figure === undefined ? '' : each(figure, write));

/** One figure of a row as text. In a table whose heading says tok/s the unit is left out. */
export function textOf(table, row, name = 'measured') {
  const write = withUnit(unitOf(table, row) === 'tok/s' ? '' : unitOf(table, row));
  switch (name) {
    case 'reached':
      return shown(reachedOf(row), (value) => percent(Math.round(value * 1000) / 1000));
    case 'ratio':
      return shown(ratioOf(row), (value) => times(Number(value.toPrecision(3))));
    case 'goal':
      return goalText(table, row);
    case 'part':
      return part(row);
    case 'met':
      return met(row);
    case 'measured':
    case 'limit':
    case 'peer':
      return shown(row[name], write);
    default:
      throw new Error(`a row has no ${name}`);
  }
}

const headings = (table) => ({
  measured: table.unit === 'tok/s' ? 'Hearth, tok/s' : 'Hearth',
  limit: 'limit',
  reached: 'of the limit',
  peer: table.peer,
  ratio: 'ratio',
  goal: 'goal',
  met: 'met',
});

const markdown = (head, alignment, rows) =>
  [head, alignment, ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');

const commands = ({ command }) =>
  [command]
    .flat()
    .map((one) => `\`${one}\``)
    .join(', ');

/** A table under its machine, command and date. */
export function tableText(table) {
  const columns = table.columns.filter((name) => table.rows.some((row) => textOf(table, row, name)));
  return [
    `${table.machine[0].toUpperCase()}${table.machine.slice(1)}. ${commands(table)} (${table.date}).`,
    '',
    markdown(
      ['', ...columns.map((name) => headings(table)[name])],
      ['---', ...columns.map((name) => (name === 'met' ? '---' : '---:'))],
      table.rows.map((row) => [
        row.what.replace('… ', `…${space}`),
        ...columns.map((name) => textOf(table, row, name)),
      ]),
    ),
  ].join('\n');
}

export function rowOf(data, path) {
  const [name, id] = path.split('.');
  const table = data.tables[name];
  const row = table?.rows.find((candidate) => candidate.id === id);
  if (!row) throw new Error(`docs/measured.json has no row ${path}`);
  return { table, row };
}

const inBraces = /\{([^}]+)\}/g;

/** A sentence with {table.row.figure} replaced; without a figure's name, by what was measured. */
export const fill = (data, sentence) =>
  sentence.replace(inBraces, (_, path) => {
    const { table, row } = rowOf(data, path);
    return textOf(table, row, path.split('.')[2]);
  });

/** Rows whose goal is missed and that no sentence of "missed" names: none, or the file hides something. */
export function unspoken(data) {
  const spoken = new Set(
    [...data.missed.join().matchAll(inBraces)].map((match) => match[1].split('.').slice(0, 2).join('.')),
  );
  return Object.entries(data.tables).flatMap(([name, { rows }]) =>
    rows.filter((row) => isMissed(row) && !spoken.has(`${name}.${row.id}`)).map((row) => `${name}.${row.id}`),
  );
}

export const missedText = (data) => data.missed.map((sentence) => `- ${fill(data, sentence)}`).join('\n');

export const readmeText = (data) =>
  [
    markdown(
      ['', 'Hearth', 'beside it'],
      ['---', '---', '---'],
      data.readme.map((cells) => cells.map((cell) => fill(data, cell))),
    ),
    '',
    fill(data, data.readme_missed),
  ].join('\n');
