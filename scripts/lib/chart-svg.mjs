// Bars as SVG. Every bar carries its name and its figure, so that nothing hangs on a legend or on colours, and text grows
// where the picture is shown small: on a phone 640 units are some 340 pixels.

const themes = {
  light: {
    ground: '#ffffff',
    text: '#221d19',
    muted: '#665d54',
    track: '#efeae3',
    bar: '#b5420f',
    other: '#a89c8e',
    mark: '#221d19',
  },
  dark: {
    ground: '#0d1117',
    text: '#f0ebe5',
    muted: '#ada297',
    track: '#26221e',
    bar: '#ff8a55',
    other: '#7f756b',
    mark: '#f0ebe5',
  },
};
export const schemes = Object.keys(themes);

const width = 640;
const edge = 14;
const barHeight = 22;
const barStep = 29;
const headHeight = 36; // a group's title

const quoted = (text) => text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
const round = (value) => Number(value.toFixed(1));
const text = (x, y, style, words, anchor = 'start') =>
  `<text x="${round(x)}" y="${round(y)}" class="${style}"${anchor === 'start' ? '' : ` text-anchor="${anchor}"`}>${quoted(words)}</text>`;
const rect = (x, y, w, h, style) =>
  `<rect x="${round(x)}" y="${round(y)}" width="${round(w)}" height="${h}" rx="3" class="${style}"/>`;

function styles(colours) {
  const sizes = (body, small, title) =>
    `text{font-size:${body}px}.small,.note{font-size:${small}px}.title{font-size:${title}px}`;
  return [
    `text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;fill:${colours.text}}`,
    `.title,.head,.strong{font-weight:600}.small,.note{fill:${colours.muted}}`,
    `.ground{fill:${colours.ground}}.track{fill:${colours.track}}.bar{fill:${colours.bar}}.other{fill:${colours.other}}`,
    `.mark{stroke:${colours.mark};stroke-width:2.5}.line{stroke:${colours.text};stroke-width:1.5;stroke-dasharray:4 4}`,
    sizes(17, 15, 20),
    `@media(max-width:480px){${sizes(21, 18.5, 23)}}`,
  ].join('');
}

const upright = (x, top, bottom, style) =>
  `<line x1="${round(x)}" x2="${round(x)}" y1="${top}" y2="${bottom}" class="${style}"/>`;

/** One bar at y. Its figure stands behind it, behind its goal, or, where the full length is drawn, behind that. */
function barParts(bar, y, { at, left, full, track }) {
  const middle = y + barHeight / 2 + 6;
  const style = bar.ours ? 'strong' : 'small';
  const behind = track ? full : Math.max(bar.value, bar.goal ?? 0);
  return [
    text(edge, middle, style, bar.name),
    ...(track ? [rect(left, y, at(full) - left, barHeight, 'track')] : []),
    rect(left, y, at(bar.value) - left, barHeight, bar.ours ? 'bar' : 'other'),
    ...(bar.goal ? [upright(at(bar.goal), y - 3, y + barHeight + 3, 'mark')] : []),
    text(at(behind) + 8, middle, style, bar.figure),
  ];
}

/**
 * chart: title, notes (lines under it), labels (units left of the bars), figures (units right of the longest bar), full (the value
 * of a bar of full length), track (whether full length is drawn), line (a value marked behind all bars), groups of bars. A bar:
 * name, value, figure, ours, and a goal where it has one.
 */
export function chartSvg(chart, scheme) {
  const left = edge + chart.labels;
  const at = (value) => left + ((width - left - edge - chart.figures) * value) / chart.full;
  const parts = [text(edge, 34, 'title', chart.title)];
  parts.push(...chart.notes.map((note, line) => text(edge, 63 + 23 * line, 'note', note)));
  let y = 46 + 23 * chart.notes.length;
  for (const { title, bars } of chart.groups) {
    y += headHeight;
    parts.push(text(edge, y - 9, 'head', title));
    parts.push(...bars.flatMap((bar, index) => barParts(bar, y + barStep * index, { ...chart, at, left })));
    if (chart.line) parts.push(upright(at(chart.line), y - 3, y + barStep * bars.length - 4, 'line'));
    y += barStep * bars.length;
  }
  const height = y + 10;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="${quoted(chart.title)}">`,
    `<style>${styles(themes[scheme])}</style>`,
    `<rect width="${width}" height="${height}" rx="10" class="ground"/>`,
    ...parts,
    '</svg>',
    '',
  ].join('\n');
}
