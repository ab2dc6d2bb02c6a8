// Where the API is: next to the page, whatever path prefix a proxy put in front.
import { settings } from '../state/settings';

export const apiUrl = (path: string): string => new URL(path, document.baseURI).toString();

/** An error the server explained; `status` 0 means that it could not be reached. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string | null,
    message: string,
  ) {
    super(message);
  }
}

/** fetch with the key, whose failures are ApiErrors that a person can read. */
export async function call(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (settings.value.apiKey) headers.set('authorization', `Bearer ${settings.value.apiKey}`);
  let response: Response;
  try {
    response = await fetch(apiUrl(path), { ...init, headers });
  } catch (error) {
    if ((error as Error).name === 'AbortError') throw error;
    throw new ApiError(0, null, 'The server cannot be reached. Is it still running?');
  }
  if (!response.ok) throw await explain(response);
  return response;
}

async function explain(response: Response): Promise<ApiError> {
  const body = (await response.json().catch(() => null)) as {
    error?: { message?: string; code?: string | null };
  } | null;
  const message = body?.error?.message ?? `The server answered ${response.status} ${response.statusText}.`;
  return new ApiError(response.status, body?.error?.code ?? null, message);
}
