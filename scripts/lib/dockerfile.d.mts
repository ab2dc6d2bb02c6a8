/** One instruction. values: what an ENV sets; arguments: the ARGs and ENVs that hold for it. */
export interface Step {
  keyword: string;
  flags: Record<string, string>;
  args: string[];
  json: boolean;
  text: string;
  values?: Record<string, string>;
  arguments?: Record<string, string>;
}
export interface Stage {
  name: string;
  base: string;
  steps: Step[];
}
export function readDockerfile(source: string, buildArguments?: Record<string, string>): Stage[];
