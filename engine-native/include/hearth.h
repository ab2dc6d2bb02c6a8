/*
 * hearth.h: the wall between the server and the engine.
 *
 * One engine owns the devices, the threads and the step loop; models are handles in it. Text crosses where it is
 * cold (JSON in, JSON out), bytes where it is hot (one kind of binary record out). The engine never calls back: it
 * writes records into a ring and one byte on a socket, and the reader drains the ring without blocking.
 *
 * Rules for every call
 *   - Returns a status (hearth_status); HEARTH_OK is 0. On failure a message for people is written to `error`
 *     (NUL-terminated, cut at `error_size`); `error` may be NULL. There is no "last error".
 *   - Inputs are copied before the call returns. Strings are UTF-8 with an explicit length unless called `_json`
 *     (NUL-terminated). Unknown JSON keys are HEARTH_INVALID.
 *   - Any call may come from any thread. A NULL, unknown or closed handle is HEARTH_CLOSED or HEARTH_INVALID.
 *   - No 64-bit value and no struct crosses. No call throws; none aborts on input.
 *   - Calls that answer with text or arrays take a buffer and its capacity and always set `needed`; when the
 *     capacity is too small they return HEARTH_TOO_SMALL and write nothing. JSON answers end with a NUL, which `needed`
 *     counts.
 *
 * Promises about requests
 *   - An accepted request gets exactly one FINISHED record and nothing after it; a rejected one gets no record.
 *   - Records of one request come in order. Other requests' records may stand between them.
 *   - A full ring makes the engine skip a step. It never drops a record and never grows.
 *   - hearth_stop finishes every request (reason "cancelled" or "stopped"), then the doorbell reads end-of-file.
 *   - hearth_close stops, joins every thread and frees everything. NULL is a no-op.
 */
#ifndef HEARTH_H
#define HEARTH_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HEARTH_ABI 1u
#define HEARTH_API __attribute__((visibility("default")))

typedef struct hearth_engine hearth_engine;

enum hearth_status {
  HEARTH_OK = 0,
  HEARTH_INVALID = 1,       /* a value the caller gave; the message names it */
  HEARTH_NOT_FOUND = 2,     /* file, tensor, model, request */
  HEARTH_UNSUPPORTED = 3,   /* understood, not implemented */
  HEARTH_OUT_OF_MEMORY = 4, /* the message holds the memory table and what would fit */
  HEARTH_CORRUPT = 5,       /* a damaged file */
  HEARTH_IO = 6,
  HEARTH_DEVICE = 7,        /* the accelerator failed: the engine is dead */
  HEARTH_CANCELLED = 8,
  HEARTH_BUSY = 9,          /* a bounded queue is full: retry later */
  HEARTH_CLOSED = 10,
  HEARTH_INTERNAL = 11,
  HEARTH_TOO_SMALL = 12,    /* the caller's buffer; `needed` says how much */
  HEARTH_TOO_LONG = 13      /* the prompt leaves no room in the context; message in JSON:
                               {"prompt_tokens":n,"context":m} */
};

/* Types of record. Unknown types are skipped by `size`. */
enum hearth_record_type {
  HEARTH_RECORD_TOKEN = 1,     /* one generated token, with the text that became complete with it */
  HEARTH_RECORD_PROMPT = 2,    /* one prompt token's log-probability (echo, scoring) */
  HEARTH_RECORD_EMBEDDING = 3, /* `values` floats */
  HEARTH_RECORD_FINISHED = 4,  /* last record; text = text still held back; json in `bytes`, see below */
  HEARTH_RECORD_NOTICE = 5,    /* progress of a job or a load; text = JSON, request = job */
  HEARTH_RECORD_ACCEPTED = 6   /* the prompt was tokenized, fits and is queued; index = its tokens. Before all others. */
};

enum hearth_finish_reason {
  HEARTH_FINISH_NONE = 0,
  HEARTH_FINISH_STOP = 1,      /* an end token or a stop string */
  HEARTH_FINISH_LENGTH = 2,    /* max_tokens or the context's end */
  HEARTH_FINISH_CANCELLED = 3,
  HEARTH_FINISH_ERROR = 4,     /* `bytes` JSON has "error": {"status":int,"message":string} */
  HEARTH_FINISH_DONE = 5       /* a job, an embedding or a scoring request completed */
};

/*
 * A record, little-endian, 48 bytes then the payload, the whole padded to a multiple of 8:
 *   0  u32 size          whole record, padding included
 *   4  u16 type
 *   6  u16 flags         1: token is special (its text is not part of the answer)
 *   8  u32 request
 *   12 i32 token         -1 when there is none
 *   16 u32 reason        hearth_finish_reason, FINISHED only
 *   20 f32 logprob       of `token`; NaN when not asked for
 *   24 u32 index         position of the token in its sequence: 0 = first generated (TOKEN) or first prompt token (PROMPT)
 *   28 u32 bytes_size    raw bytes of the token; FINISHED: a JSON object
 *   32 u32 text_size     UTF-8 released with this record
 *   36 u32 top_count     entries of top log-probabilities
 *   40 u32 top_size      bytes of those entries
 *   44 u32 values_count  float values
 * Payload in this order: bytes, text, top entries (each: i32 token, f32 logprob, u32 bytes_size, the bytes; packed,
 * unaligned), zero to three bytes to align to 4, values (f32).
 * FINISHED's JSON: {"prompt_tokens","cached_tokens","image_tokens","completion_tokens","queue_ms","prefill_ms",
 *   "decode_ms","draft_tokens","draft_accepted", of these "predicted_tokens","predicted_accepted" were of the
 *   prediction, "stop": the stop string or token id that ended it, or null,
 *   "error": only for HEARTH_FINISH_ERROR, "result": a job's result}
 */
#define HEARTH_RECORD_HEADER_SIZE 48u

/* ---- Engine ---------------------------------------------------------------------------------------------- */

/* HEARTH_ABI of the library. The caller compares it with its own before anything else. */
HEARTH_API uint32_t hearth_abi(void);

/* Version of the library, for logs: static storage. */
HEARTH_API const char *hearth_version(void);

/*
 * Opens an engine. options_json: {"device":"auto"|"cpu"|"cuda","threads":int (0 = one per performance core),
 *   "prompt_threads":int (where many rows are computed; 0 = "threads" where it is given, else efficiency cores too),
 *   "ring_bytes":int (default 4194304), "queue_requests":int (default 512), "queue_tokens":int (default 2097152),
 *   "profile":string|null (forces a device profile), "memory":"auto"|"unified"|"discrete",
 *   "log_level":"error"|"warn"|"info"|"debug" (default warn; lines on standard error)}
 * "cuda" without a usable device is HEARTH_DEVICE with the next step to take; it never falls back to the CPU.
 */
HEARTH_API int32_t hearth_open(const char *options_json, hearth_engine **engine, char *error, uint32_t error_size);

/* Refuses new work, finishes every live request with "cancelled", ends jobs, then closes the doorbell. Idempotent.
   Returns at once: end-of-file says that all is finished. A load in progress ends after the tensors at hand. */
HEARTH_API int32_t hearth_stop(hearth_engine *engine);

/* hearth_stop, then joins and frees. The handle is dead afterwards; NULL is a no-op. */
HEARTH_API void hearth_close(hearth_engine *engine);

/* The reader's end of the doorbell: readable when records wait, end-of-file once all is finished. The caller owns
   and closes it. May be asked for once. */
HEARTH_API int32_t hearth_doorbell(hearth_engine *engine, int32_t *fd, char *error, uint32_t error_size);

/* Copies whole records into `buffer`, never blocks. `written` 0 means empty. A record larger than `capacity` gives
   HEARTH_TOO_SMALL with its size in `written`. One thread at a time. */
HEARTH_API int32_t hearth_drain(hearth_engine *engine, uint8_t *buffer, uint32_t capacity, uint32_t *written);

/* What is going on, as JSON: {"models":[{"model","running","waiting","kv_blocks_total","kv_blocks_used",
   "kv_blocks_cached","prefix_hit_tokens","prefix_query_tokens","preemptions","prompt_tokens","generation_tokens",
   "steps","image_hits","image_queries","draft_tokens","draft_accepted","host_kv_blocks_total","host_kv_blocks_used",
   "host_kv_hit_tokens","host_kv_saved_bytes","host_kv_fetched_bytes"}],"memory":[...],"step_ms_p50","step_ms_p99","allocations_on_step"} */
HEARTH_API int32_t hearth_stats(hearth_engine *engine, char *json, uint32_t capacity, uint32_t *needed);

/* Devices, instruction sets, kernels chosen and refused with reasons, as JSON; engine may be NULL (no model needed). */
HEARTH_API int32_t hearth_doctor(hearth_engine *engine, const char *options_json, char *json, uint32_t capacity,
                                 uint32_t *needed, char *error, uint32_t error_size);

/* ---- Models ---------------------------------------------------------------------------------------------- */

/*
 * Starts to load a model and returns its handle at once. NOTICE records (request = *job) report
 * {"stage":"plan"|"weights"|"tune"|"ready","done":f,"total":f,"detail":any}; the job's FINISHED says DONE, ERROR, or
 * CANCELLED after hearth_cancel(job) or hearth_stop.
 * model_json: {"path":string folder or .gguf | "shape":string random weights, "name":string,
 *   "precision":"auto"|"f32"|"f16"|"bf16"|"w4a16"|"w4a8"|"w4a32"|"w8a8"|"none", "group":32|64|128,
 *   "symmetric":bool (quantised while loading without zero points, as Q4_0),
 *   "vision_precision":"auto"|"f32"|"f16"|"bf16"|"w8a8" (of the vision tower),
 *   "kv":"auto"|"f32"|"f16"|"bf16"|"int8", "head_bits":0|4|8|16 (0 = default), "context":int (0 = the model's),
 *   "max_sequences":int (0 = default), "kv_tokens":int (0 = what fits), "memory_limit_mb":int (0 = none),
 *   "prefill_chunk":int (0 = profile), "prefix_cache":bool, "seed":int,
 *   "host_kv_mb":int (host memory that keeps prefixes the KV pool has no room for: 0 = none; -1, the default: none where
 *   the pool is host memory itself, else a quarter of what is free, at most 4096),
 *   "plan":bool, "reclaimable_mb":int}
 * "plan": nothing is loaded and *model is 0; the job's result is {"memory":[{"what","bytes"}] at the least, "bytes": their
 *   sum, "available_bytes": free now}. It is HEARTH_OUT_OF_MEMORY, with the table and what would fit, when the model does
 *   not fit even after `reclaimable_mb` were given back: so the caller knows what must be closed before it opens.
 */
HEARTH_API int32_t hearth_model_open(hearth_engine *engine, const char *model_json, uint32_t *model, uint32_t *job,
                                     char *error, uint32_t error_size);

/* Unloads: cancels its requests, waits for the step to end, frees its memory. HEARTH_BUSY while it is loading. */
HEARTH_API int32_t hearth_model_close(hearth_engine *engine, uint32_t model, char *error, uint32_t error_size);

/* {"name","architecture","parameters","vocabulary","context","max_sequences","precision","kv","device",
   "vision":null|{"family","placeholder","tokens_per_image"},"bos","eos":[ids],"sampling":{defaults of
   generation_config.json},"chat_template":string|null,"memory":[{"what","bytes"}],"fingerprint",
   "special_tokens":{"bos_token":text,"eos_token","unk_token","pad_token",...: those the model has}} */
HEARTH_API int32_t hearth_model_info(hearth_engine *engine, uint32_t model, char *json, uint32_t capacity,
                                     uint32_t *needed, char *error, uint32_t error_size);

/* ---- Requests -------------------------------------------------------------------------------------------- */

/*
 * Submits a request. Prompt: `text` (tokenized by the engine, off the step path) followed by `ids` (either may be
 * empty). `literal` holds `literal_count` pairs of byte offsets [begin, end) of `text` in which special tokens do not
 * match: what a user typed stays text. Images: RGB8 pixels, one after the other in `pixels`; the k-th occurrence of
 * the model's image placeholder outside the literal ranges is image k.
 * request_json: {"kind":"generate"|"embed"|"score", "add_special_tokens":bool (default false),
 *   "images":[{"width","height","detail":"auto"|"low"|"high"}],
 *   "max_tokens":int (0 = to the context's end), "min_tokens":int, "ignore_eos":bool,
 *   "temperature","top_p","min_p","repetition_penalty","frequency_penalty","presence_penalty":number,
 *   "top_k":int (0 = off), "seed":int (uint32) | null, "logit_bias":[[id,bias],...],
 *   "logprobs":bool, "top_logprobs":int 0..20, "prompt_logprobs":bool,
 *   "stop":[string,...], "stop_tokens":[id,...], "include_stop":bool, "skip_special_tokens":bool (default true),
 *   "grammar":null|{"type":"json_schema"|"json_object"|"regex"|"choice"|"tools", "spec":any},
 *   "priority":int, "speculate":bool, "prediction":string|[id,...] (what the answer is
 *   expected to be, in whole or in parts: it comes faster where it is right, and is the same where it is wrong),
 *   "pooling":"mean"|"last", "normalize":bool, "dimensions":int}
 * Bounds: 64 stop strings of 1024 bytes, 32 stop_tokens, 300 logit_bias entries from -100 to 100, 128 images.
 * max_tokens beyond the context's end finishes there with HEARTH_FINISH_LENGTH. A model that is loading: HEARTH_BUSY.
 * Sampling fields that are absent or null take the model's defaults. *request is never 0 and not reused while live.
 * A prompt over the context is a FINISHED record with HEARTH_FINISH_ERROR and status HEARTH_TOO_LONG, since only the
 * engine counts tokens; everything that can be checked at once is checked here.
 */
HEARTH_API int32_t hearth_submit(hearth_engine *engine, uint32_t model, const char *request_json, const uint8_t *text,
                                 uint32_t text_size, const uint32_t *literal, uint32_t literal_count,
                                 const int32_t *ids, uint32_t ids_count, const uint8_t *pixels, uint32_t pixels_size,
                                 uint32_t *request, char *error, uint32_t error_size);

/* Ends a request within one step, wherever it is. Its FINISHED still comes. Unknown or finished: HEARTH_NOT_FOUND. */
HEARTH_API int32_t hearth_cancel(hearth_engine *engine, uint32_t request);

/* ---- Text ------------------------------------------------------------------------------------------------ */

/* Ids of a text. add_special: 1 adds what the model's tokenizer adds (BOS). */
HEARTH_API int32_t hearth_tokenize(hearth_engine *engine, uint32_t model, const uint8_t *text, uint32_t text_size,
                                   const uint32_t *literal, uint32_t literal_count, uint32_t add_special, int32_t *ids,
                                   uint32_t capacity, uint32_t *needed, char *error, uint32_t error_size);

/* Text of ids. skip_special: 1 leaves special tokens out. An id out of range is HEARTH_INVALID. */
HEARTH_API int32_t hearth_detokenize(hearth_engine *engine, uint32_t model, const int32_t *ids, uint32_t ids_count,
                                     uint32_t skip_special, uint8_t *text, uint32_t capacity, uint32_t *needed,
                                     char *error, uint32_t error_size);

/* ---- Long jobs ------------------------------------------------------------------------------------------- */

/*
 * Starts quantize, convert, evaluate or verify on a thread of its own. NOTICE records report progress, FINISHED the result
 * ({"result":{...}}); hearth_cancel(job) interrupts it cleanly.
 * job_json: {"job":"quantize","path","out","method":"awq"|"smoothquant"|"rtn","calibrate","group","tokens","sequence",
 *   "search_tokens","threads","device":"cpu"|"cuda"|"auto","clip","rounding"} or
 *   {"job":"convert","path","out","target","precision","group","head_bits"} or
 *   {"job":"verify","device":"auto"|"cpu"|"cuda","model","seed","speed","threads"}.
 */
HEARTH_API int32_t hearth_job(hearth_engine *engine, const char *job_json, uint32_t *job, char *error,
                              uint32_t error_size);

#ifdef __cplusplus
}
#endif
#endif
