// What an engine's refusal means to a client.

import { EngineError } from '../engine/port.ts';
import { ApiError, errors } from '../errors.ts';
import { ClientGone } from './scope.ts';

const number = (value: unknown) => (typeof value === 'number' ? value : 0);

/** Names of the wire where the engine has another. */
const wireNames: Record<string, string> = { stop_tokens: 'stop_token_ids', include_stop: 'include_stop_str_in_output' };

/** The field that an engine's message is about: it begins with the name in quotes, or speaks of the prompt. */
function fieldOf(message: string, promptField: string): string | null {
  if (message.startsWith('the prompt ')) return promptField;
  const name = /^"([a-z_]+)" /.exec(message)?.[1];
  return name === undefined ? null : (wireNames[name] ?? name);
}

/** `promptField` is the field of the request that holds what the engine counts. */
export function toApiError(error: unknown, promptField = 'messages'): ApiError {
  if (error instanceof ApiError) return error;
  if (!(error instanceof EngineError)) return errors.internal();
  switch (error.code) {
    case 'invalid':
      return errors.invalid(error.message, fieldOf(error.message, promptField));
    case 'unsupported':
      return errors.invalid(error.message, null, 'unsupported_value');
    case 'not_found':
      return errors.notFound(error.message, 'model_not_found', 'model');
    case 'context_length_exceeded': {
      const { prompt_tokens, context, requested } = error.detail;
      return errors.contextLength(number(prompt_tokens), number(context), number(requested), promptField);
    }
    case 'busy':
      return errors.queueFull(1);
    case 'cancelled':
    case 'closed':
      return errors.shuttingDown();
    case 'corrupt':
      return errors.modelDamaged(error.message);
    case 'device':
      return errors.engineDead();
    default:
      return errors.internal();
  }
}

/** Whether an error is ours to log: everything that became a 500, and a dead engine. */
export function isOurFault(error: unknown): boolean {
  return !(error instanceof ClientGone) && toApiError(error).status >= 500 && !(error instanceof ApiError);
}
