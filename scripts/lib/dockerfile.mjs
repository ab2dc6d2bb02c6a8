// A Dockerfile as data: its stages and their steps, with ARG and ENV put in. Parsing is dockerfile-ast's; types stand in
// dockerfile.d.mts.
import { DockerfileParser } from 'dockerfile-ast';

/** `${NAME}` and `$NAME` of `values`; an unknown one is left for the shell. */
const substitute = (text, values) =>
  text.replace(/\$(?:\{(\w+)\}|(\w+))/g, (whole, braced, bare) => values[braced ?? bare] ?? whole);

const unquote = (text) => text.replace(/^(["'])(.*)\1$/s, '$2');

/** Pairs of ENV: NAME=value, quoted or not, several on a line. */
const pairs = (instruction) =>
  instruction.getProperties().map((property) => [property.getName(), property.getValue() ?? undefined]);

function readStep(instruction, values) {
  const keyword = instruction.getKeyword();
  const all = instruction.getArguments().map((argument) => substitute(argument.getValue(), values));
  const flags = Object.fromEntries(
    (instruction.getFlags?.() ?? []).map((flag) => [flag.getName(), flag.getValue() ?? '']),
  );
  const text = instruction.getRawArgumentsContent() ?? '';
  const list = /\[.*\]\s*$/s.exec(text)?.[0];
  const json = keyword !== 'RUN' && list !== undefined;
  return { keyword, flags, args: json ? JSON.parse(list) : all.map(unquote), json, text };
}

/**
 * @param {string} source text of a Dockerfile
 * @param {Record<string, string>} buildArguments as `docker build --build-arg` would give them
 * @returns {import('./dockerfile.mjs').Stage[]}
 */
export function readDockerfile(source, buildArguments = {}) {
  const globals = {};
  const stages = [];
  for (const instruction of DockerfileParser.parse(source).getInstructions()) {
    const keyword = instruction.getKeyword();
    const stage = stages.at(-1);
    if (keyword === 'FROM') {
      const base = substitute(instruction.getImage() ?? '', globals);
      stages.push({ name: instruction.getBuildStage() ?? '', base, steps: [], values: {} });
    } else if (keyword === 'ARG') {
      const property = instruction.getProperty();
      const name = property?.getName() ?? '';
      const given = buildArguments[name] ?? property?.getValue() ?? globals[name];
      if (given !== undefined) (stage?.values ?? globals)[name] = unquote(given);
    } else if (keyword === 'ENV') {
      const values = Object.fromEntries(
        pairs(instruction).map(([name, value]) => [name, substitute(value ?? '', stage.values)]),
      );
      Object.assign(stage.values, values);
      stage.steps.push({ keyword, flags: {}, args: [], json: false, text: '', values });
    } else stage.steps.push({ ...readStep(instruction, stage.values), arguments: { ...stage.values } });
  }
  return stages;
}
