// Deltas as output items and as the events of a Responses stream.

import type { OutputDelta } from './deltas.ts';
import type { NamedItem, ResponseRequest } from './responses.ts';

type Reasoning = {
  id: string;
  type: 'reasoning';
  summary: [];
  content: Array<{ type: 'reasoning_text'; text: string }>;
};
type TextPart = { type: 'output_text'; text: string; annotations: []; logprobs: [] };
type Message = { id: string; type: 'message'; status: string; role: 'assistant'; content: TextPart[] };
type Call = { id: string; type: 'function_call'; status: string; call_id: string; name: string; arguments: string };
export type OutputItem = Reasoning | Message | Call;

export interface ResponseEvent {
  type: string;
  sequence_number: number;
  [key: string]: unknown;
}

export interface ResponseIdentity {
  id: string;
  createdAt: number;
  model: string;
}

export interface ResponseUsage {
  promptTokens: number;
  cachedTokens: number;
  completionTokens: number;
  reasoningTokens: number;
}

type Status = 'in_progress' | 'completed' | 'incomplete' | 'failed';

/** Builds one response. Events are emitted as it grows; `response()` is what a client gets without streaming. */
export class ResponseWriter {
  readonly output: OutputItem[] = [];
  readonly #identity: ResponseIdentity;
  readonly #request: ResponseRequest;
  readonly #emit: (event: ResponseEvent) => void;
  readonly #newId: (prefix: string) => string;
  #sequence = 0;
  #open = false;
  #usage: ResponseUsage | null = null;

  constructor(
    identity: ResponseIdentity,
    request: ResponseRequest,
    newId: (prefix: string) => string,
    emit: (event: ResponseEvent) => void = () => {},
  ) {
    this.#identity = identity;
    this.#request = request;
    this.#newId = newId;
    this.#emit = emit;
  }

  begin(): void {
    this.#send('response.created', { response: this.response('in_progress') });
    this.#send('response.in_progress', { response: this.response('in_progress') });
  }

  delta(delta: OutputDelta): void {
    if (delta.type === 'content') return this.#text(delta.text);
    if (delta.type === 'reasoning') return this.#reasoning(delta.text);
    if (delta.type === 'call') {
      const call = { call_id: delta.id, name: delta.name, arguments: '', status: 'in_progress' };
      this.#add({ id: this.#newId('fc_'), type: 'function_call', ...call });
      return;
    }
    const call = this.output.at(-1) as Call;
    call.arguments += delta.text;
    this.#send('response.function_call_arguments.delta', { ...this.#place(), delta: delta.text });
  }

  /** Ends the last item and the response. */
  finish(length: boolean, usage: ResponseUsage): void {
    this.#end(length ? 'incomplete' : 'completed');
    this.#usage = usage;
    const status = length ? 'incomplete' : 'completed';
    this.#send(`response.${status}`, { response: this.response(status) });
  }

  fail(message: string, code: string): void {
    this.#end('incomplete');
    this.#send('response.failed', { response: { ...this.response('failed'), error: { code, message } } });
  }

  response(status: Status) {
    const request = this.#request;
    const usage = this.#usage;
    return {
      id: this.#identity.id,
      object: 'response' as const,
      created_at: this.#identity.createdAt,
      status,
      background: false,
      error: null,
      incomplete_details: status === 'incomplete' ? { reason: 'max_output_tokens' } : null,
      instructions: request.instructions ?? null,
      max_output_tokens: request.max_output_tokens ?? null,
      metadata: request.metadata ?? {},
      model: this.#identity.model,
      output: structuredClone(this.output),
      parallel_tool_calls: request.parallel_tool_calls ?? true,
      previous_response_id: request.previous_response_id ?? null,
      reasoning: { effort: request.reasoning?.effort ?? null, summary: null },
      store: request.store ?? true,
      temperature: request.temperature ?? null,
      text: { format: request.text?.format ?? { type: 'text' } },
      tool_choice: request.tool_choice ?? 'auto',
      tools: (request.tools ?? []).map((tool) => ({ ...tool, strict: tool.strict ?? false })),
      top_p: request.top_p ?? null,
      truncation: 'disabled',
      usage: usage && {
        input_tokens: usage.promptTokens,
        input_tokens_details: { cached_tokens: usage.cachedTokens },
        output_tokens: usage.completionTokens,
        output_tokens_details: { reasoning_tokens: usage.reasoningTokens },
        total_tokens: usage.promptTokens + usage.completionTokens,
      },
    };
  }

  /** The output as the input of a later turn. */
  asItems(): NamedItem[] {
    return structuredClone(this.output) as unknown as NamedItem[];
  }

  #text(text: string): void {
    let message = this.#current('message');
    if (!message) {
      message = this.#add({
        id: this.#newId('msg_'),
        type: 'message',
        status: 'in_progress',
        role: 'assistant',
        content: [],
      });
      const part: TextPart = { type: 'output_text', text: '', annotations: [], logprobs: [] };
      this.#send('response.content_part.added', { ...this.#place(), content_index: 0, part: { ...part } });
      message.content.push(part);
    }
    message.content[0]!.text += text;
    this.#send('response.output_text.delta', { ...this.#place(), content_index: 0, delta: text, logprobs: [] });
  }

  #reasoning(text: string): void {
    let item = this.#current('reasoning');
    if (!item) {
      item = this.#add({ id: this.#newId('rs_'), type: 'reasoning', summary: [], content: [] });
      const part = { type: 'reasoning_text' as const, text: '' };
      this.#send('response.content_part.added', { ...this.#place(), content_index: 0, part: { ...part } });
      item.content.push(part);
    }
    item.content[0]!.text += text;
    this.#send('response.reasoning_text.delta', { ...this.#place(), content_index: 0, delta: text });
  }

  #current<T extends OutputItem['type']>(type: T): Extract<OutputItem, { type: T }> | null {
    const last = this.#open ? this.output.at(-1) : undefined;
    return last?.type === type ? (last as Extract<OutputItem, { type: T }>) : null;
  }

  #add<T extends OutputItem>(item: T): T {
    this.#end('completed');
    this.output.push(item);
    this.#open = true;
    this.#send('response.output_item.added', { output_index: this.output.length - 1, item: structuredClone(item) });
    return item;
  }

  #end(status: string): void {
    if (!this.#open) return;
    this.#open = false;
    const item = this.output.at(-1)!;
    const place = this.#place();
    if (item.type === 'message') {
      const part = item.content[0]!;
      this.#send('response.output_text.done', { ...place, content_index: 0, text: part.text, logprobs: [] });
      this.#send('response.content_part.done', { ...place, content_index: 0, part: { ...part } });
    } else if (item.type === 'reasoning') {
      const part = item.content[0]!;
      this.#send('response.reasoning_text.done', { ...place, content_index: 0, text: part.text });
      this.#send('response.content_part.done', { ...place, content_index: 0, part: { ...part } });
    } else {
      const { name, arguments: text } = item;
      this.#send('response.function_call_arguments.done', { ...place, name, arguments: text });
    }
    if (item.type !== 'reasoning') item.status = status;
    this.#send('response.output_item.done', { output_index: place.output_index, item: structuredClone(item) });
  }

  #place() {
    return { item_id: this.output.at(-1)!.id, output_index: this.output.length - 1 };
  }

  #send(type: string, fields: object): void {
    this.#emit({ type, sequence_number: this.#sequence++, ...fields });
  }
}
