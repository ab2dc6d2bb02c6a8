// What is said of a command line that parseArgs of node:util cannot read.

/**
 * parseArgs' message of what it met, and where the options are listed; null for any other error. What it says of
 * arguments that begin with a dash is left out: whoever mistypes an option does not mean one.
 */
export function unreadableOptions(error: unknown, command = ''): string | null {
  if (!(error instanceof Error) || !String((error as { code?: string }).code).startsWith('ERR_PARSE_ARGS')) return null;
  const [first = ''] = error.message.split(/\. To specify a positional argument/);
  return `${first.charAt(0).toLowerCase()}${first.slice(1)}; see hearth ${command} --help`;
}
