// hearth.h as JavaScript sees it, and the only import of koffi. Prototypes are the header's, word for word;
// test/abi compares them with it.

import { existsSync } from 'node:fs';
import koffi from 'koffi';
import { EngineError } from '../port.ts';

export const abiNumber = 1;

/** hearth_status. */
export const status = {
  OK: 0,
  INVALID: 1,
  NOT_FOUND: 2,
  UNSUPPORTED: 3,
  OUT_OF_MEMORY: 4,
  CORRUPT: 5,
  IO: 6,
  DEVICE: 7,
  CANCELLED: 8,
  BUSY: 9,
  CLOSED: 10,
  INTERNAL: 11,
  TOO_SMALL: 12,
  TOO_LONG: 13,
} as const;

export const prototypes = {
  abi: 'uint32_t hearth_abi(void)',
  version: 'const char *hearth_version(void)',
  open: 'int32_t hearth_open(const char *options_json, hearth_engine **engine, char *error, uint32_t error_size)',
  stop: 'int32_t hearth_stop(hearth_engine *engine)',
  close: 'void hearth_close(hearth_engine *engine)',
  doorbell: 'int32_t hearth_doorbell(hearth_engine *engine, int32_t *fd, char *error, uint32_t error_size)',
  drain: 'int32_t hearth_drain(hearth_engine *engine, uint8_t *buffer, uint32_t capacity, uint32_t *written)',
  stats: 'int32_t hearth_stats(hearth_engine *engine, char *json, uint32_t capacity, uint32_t *needed)',
  doctor:
    'int32_t hearth_doctor(hearth_engine *engine, const char *options_json, char *json, uint32_t capacity, ' +
    'uint32_t *needed, char *error, uint32_t error_size)',
  modelOpen:
    'int32_t hearth_model_open(hearth_engine *engine, const char *model_json, uint32_t *model, uint32_t *job, ' +
    'char *error, uint32_t error_size)',
  modelClose: 'int32_t hearth_model_close(hearth_engine *engine, uint32_t model, char *error, uint32_t error_size)',
  modelInfo:
    'int32_t hearth_model_info(hearth_engine *engine, uint32_t model, char *json, uint32_t capacity, ' +
    'uint32_t *needed, char *error, uint32_t error_size)',
  submit:
    'int32_t hearth_submit(hearth_engine *engine, uint32_t model, const char *request_json, const uint8_t *text, ' +
    'uint32_t text_size, const uint32_t *literal, uint32_t literal_count, ' +
    'const int32_t *ids, uint32_t ids_count, const uint8_t *pixels, uint32_t pixels_size, ' +
    'uint32_t *request, char *error, uint32_t error_size)',
  cancel: 'int32_t hearth_cancel(hearth_engine *engine, uint32_t request)',
  tokenize:
    'int32_t hearth_tokenize(hearth_engine *engine, uint32_t model, const uint8_t *text, uint32_t text_size, ' +
    'const uint32_t *literal, uint32_t literal_count, uint32_t add_special, int32_t *ids, ' +
    'uint32_t capacity, uint32_t *needed, char *error, uint32_t error_size)',
  detokenize:
    'int32_t hearth_detokenize(hearth_engine *engine, uint32_t model, const int32_t *ids, uint32_t ids_count, ' +
    'uint32_t skip_special, uint8_t *text, uint32_t capacity, uint32_t *needed, ' +
    'char *error, uint32_t error_size)',
  job:
    'int32_t hearth_job(hearth_engine *engine, const char *job_json, uint32_t *job, char *error, ' +
    'uint32_t error_size)',
} as const;

/** An engine's address, as hearth_open wrote it; null is NULL. */
export type EnginePointer = bigint | null;
/** NUL-terminated UTF-8, from `cString`: bytes are passed where they lie, strings would be copied twice. */
export type CString = Uint8Array;

type Call<A extends unknown[], R> = ((...args: A) => R) & {
  async(...args: [...A, (error: unknown, result: R) => void]): void;
};
type Failure = [error: Uint8Array, errorSize: number];
type Answer = [buffer: Uint8Array, capacity: number, needed: Uint32Array];

/** The library's functions. Out-parameters are typed arrays of one element. */
export interface Abi {
  abi: Call<[], number>;
  version: Call<[], string>;
  open: Call<[options: CString, engine: BigUint64Array, ...Failure], number>;
  stop: Call<[engine: EnginePointer], number>;
  close: Call<[engine: EnginePointer], void>;
  doorbell: Call<[engine: EnginePointer, fd: Int32Array, ...Failure], number>;
  drain: Call<[engine: EnginePointer, ...Answer], number>;
  stats: Call<[engine: EnginePointer, ...Answer], number>;
  doctor: Call<[engine: EnginePointer, options: CString, ...Answer, ...Failure], number>;
  modelOpen: Call<[engine: EnginePointer, model: CString, handle: Uint32Array, job: Uint32Array, ...Failure], number>;
  modelClose: Call<[engine: EnginePointer, model: number, ...Failure], number>;
  modelInfo: Call<[engine: EnginePointer, model: number, ...Answer, ...Failure], number>;
  submit: Call<
    [
      engine: EnginePointer,
      model: number,
      request: CString,
      text: Uint8Array,
      textSize: number,
      literal: Uint32Array,
      literalCount: number,
      ids: Int32Array,
      idsCount: number,
      pixels: Uint8Array,
      pixelsSize: number,
      handle: Uint32Array,
      ...Failure,
    ],
    number
  >;
  cancel: Call<[engine: EnginePointer, request: number], number>;
  tokenize: Call<
    [
      engine: EnginePointer,
      model: number,
      text: Uint8Array,
      textSize: number,
      literal: Uint32Array,
      literalCount: number,
      addSpecial: number,
      ids: Int32Array,
      capacity: number,
      needed: Uint32Array,
      ...Failure,
    ],
    number
  >;
  detokenize: Call<
    [
      engine: EnginePointer,
      model: number,
      ids: Int32Array,
      idsCount: number,
      skipSpecial: number,
      ...Answer,
      ...Failure,
    ],
    number
  >;
  job: Call<[engine: EnginePointer, job: CString, handle: Uint32Array, ...Failure], number>;
}

let typesDeclared = false;

/** Loads the library. Throws EngineError when it is missing, is none or was built for another ABI. */
export function loadAbi(path: string): Abi {
  const abi = functionsOf(path);
  const found = abi.abi();
  if (found === abiNumber) return abi;
  throw new EngineError('unsupported', `${path} has ABI ${found}, this server needs ${abiNumber}: build it again`);
}

function functionsOf(path: string): Abi {
  try {
    const library = koffi.load(path);
    if (!typesDeclared) koffi.opaque('hearth_engine');
    typesDeclared = true;
    const functions = Object.entries(prototypes).map(([name, prototype]) => [name, library.func(koffiForm(prototype))]);
    return Object.fromEntries(functions) as Abi;
  } catch (error) {
    if (!existsSync(path)) throw new EngineError('not_found', `${path} is not built: run npm start once`);
    throw new EngineError('invalid', `${path} cannot be used: ${(error as Error).message}`);
  }
}

/** Text that goes in is passed as bytes, and a pointer to a pointer as the array that receives it. */
function koffiForm(prototype: string): string {
  return prototype
    .replace(/const char \*(?=\w+_json)/g, 'const uint8_t *')
    .replace('hearth_engine **engine', 'uint64_t *engine')
    .replace(/\bchar \*(?=(error|json)\b)/g, 'uint8_t *');
}
