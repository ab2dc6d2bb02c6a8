/* A library with hearth.h's surface and no engine behind it: what the JavaScript side is tested against when promises
   about the wall matter and a model does not. A generation answers its own text, byte by byte; the request JSON comes
   back as the finish's stop, so that a test sees what crossed. Not thread-safe beyond what koffi's workers need. */
#include "../../engine-native/include/hearth.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct hearth_engine {
  int sockets[2];
  pthread_mutex_t lock;
  uint8_t *ring;
  size_t used, capacity;
  uint32_t next;
  int stopped;
};

static void fail(char *error, uint32_t size, const char *text) {
  if (error) snprintf(error, size, "%s", text);
}

static void put(hearth_engine *e, uint16_t type, uint32_t request, uint32_t reason, uint32_t index, const char *bytes,
                const char *text, size_t text_size) {
  size_t bytes_size = bytes ? strlen(bytes) : 0;
  uint32_t size = (uint32_t)((48 + bytes_size + text_size + 7) / 8 * 8);
  if (e->used + size > e->capacity) {
    e->capacity = (e->used + size) * 2;
    e->ring = realloc(e->ring, e->capacity);
  }
  uint8_t *at = e->ring + e->used;
  memset(at, 0, size);
  uint32_t head[12] = {size, type, request, (uint32_t)-1, reason, 0x7fc00000u, index, (uint32_t)bytes_size,
                       (uint32_t)text_size, 0, 0, 0};
  memcpy(at, head, sizeof head);
  if (bytes_size) memcpy(at + 48, bytes, bytes_size);
  if (text_size) memcpy(at + 48 + bytes_size, text, text_size);
  e->used += size;
}

static void ring_bell(hearth_engine *e) { (void)!write(e->sockets[1], "!", 1); }

uint32_t hearth_abi(void) { return HEARTH_ABI; }
const char *hearth_version(void) { return "stub"; }

int32_t hearth_open(const char *options, hearth_engine **engine, char *error, uint32_t error_size) {
  if (strstr(options, "\"cuda\"")) {
    fail(error, error_size, "no CUDA device; use --device cpu");
    return HEARTH_DEVICE;
  }
  hearth_engine *e = calloc(1, sizeof *e);
  pthread_mutex_init(&e->lock, NULL);
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, e->sockets)) return HEARTH_INTERNAL;
  *engine = e;
  return HEARTH_OK;
}

int32_t hearth_stop(hearth_engine *e) {
  if (!e) return HEARTH_CLOSED;
  if (!e->stopped) close(e->sockets[1]);
  e->stopped = 1;
  return HEARTH_OK;
}

void hearth_close(hearth_engine *e) {
  if (!e) return;
  hearth_stop(e);
  free(e->ring);
  free(e);
}

int32_t hearth_doorbell(hearth_engine *e, int32_t *fd, char *error, uint32_t error_size) {
  (void)error, (void)error_size;
  *fd = e->sockets[0];
  return HEARTH_OK;
}

int32_t hearth_drain(hearth_engine *e, uint8_t *buffer, uint32_t capacity, uint32_t *written) {
  pthread_mutex_lock(&e->lock);
  size_t taken = 0;
  while (taken < e->used) {
    uint32_t size;
    memcpy(&size, e->ring + taken, 4);
    if (taken == 0 && size > capacity) {
      *written = size;
      pthread_mutex_unlock(&e->lock);
      return HEARTH_TOO_SMALL;
    }
    if (taken + size > capacity) break;
    taken += size;
  }
  memcpy(buffer, e->ring, taken);
  memmove(e->ring, e->ring + taken, e->used - taken);
  e->used -= taken;
  *written = (uint32_t)taken;
  pthread_mutex_unlock(&e->lock);
  return HEARTH_OK;
}

static int32_t answer(const char *text, char *out, uint32_t capacity, uint32_t *needed) {
  *needed = (uint32_t)strlen(text) + 1;
  if (*needed > capacity) return HEARTH_TOO_SMALL;
  memcpy(out, text, *needed);
  return HEARTH_OK;
}

int32_t hearth_stats(hearth_engine *e, char *json, uint32_t capacity, uint32_t *needed) {
  (void)e;
  return answer("{\"models\":[{\"model\":\"m\",\"running\":2,\"kv_blocks_total\":9}],\"memory\":[]}", json, capacity, needed);
}

int32_t hearth_doctor(hearth_engine *e, const char *options, char *json, uint32_t capacity, uint32_t *needed, char *error,
                      uint32_t error_size) {
  (void)e, (void)options, (void)error, (void)error_size;
  char *big = malloc(200001 + 16);
  memcpy(big, "{\"cpu\":\"", 8);
  memset(big + 8, 'x', 200000);
  strcpy(big + 200008, "\"}");
  int32_t status = answer(big, json, capacity, needed);
  free(big);
  return status;
}

int32_t hearth_model_open(hearth_engine *e, const char *model_json, uint32_t *model, uint32_t *job, char *error,
                          uint32_t error_size) {
  (void)error, (void)error_size;
  *model = 1;
  *job = ++e->next;
  pthread_mutex_lock(&e->lock);
  if (strstr(model_json, "broken")) {
    put(e, 4, *job, 4, 0, "{\"error\":{\"status\":5,\"message\":\"model.safetensors: tensor x is truncated\"}}", NULL, 0);
  } else {
    const char *notice = "{\"stage\":\"weights\",\"done\":1,\"total\":2}";
    put(e, 5, *job, 0, 0, NULL, notice, strlen(notice));
    put(e, 4, *job, 5, 0, "{}", NULL, 0);
  }
  pthread_mutex_unlock(&e->lock);
  ring_bell(e);
  return HEARTH_OK;
}

int32_t hearth_model_close(hearth_engine *e, uint32_t model, char *error, uint32_t error_size) {
  (void)e, (void)model, (void)error, (void)error_size;
  return HEARTH_OK;
}

int32_t hearth_model_info(hearth_engine *e, uint32_t model, char *json, uint32_t capacity, uint32_t *needed, char *error,
                          uint32_t error_size) {
  (void)e, (void)model, (void)error, (void)error_size;
  return answer("{\"name\":\"m\",\"context\":64,\"max_sequences\":4,\"vision\":{\"family\":\"f\",\"placeholder\":\"<i>\","
                "\"tokens_per_image\":4},\"sampling\":{\"top_k\":5},\"chat_template\":null,"
                "\"special_tokens\":{\"bos_token\":\"<s>\"}}",
                json, capacity, needed);
}

int32_t hearth_submit(hearth_engine *e, uint32_t model, const char *request_json, const uint8_t *text, uint32_t text_size,
                      const uint32_t *literal, uint32_t literal_count, const int32_t *ids, uint32_t ids_count,
                      const uint8_t *pixels, uint32_t pixels_size, uint32_t *request, char *error, uint32_t error_size) {
  (void)model;
  if (!e) return HEARTH_CLOSED;
  if (strstr(request_json, "\"max_tokens\":13")) {
    fail(error, error_size, "max_tokens: 13 is unlucky");
    return HEARTH_INVALID;
  }
  pthread_mutex_lock(&e->lock);
  *request = ++e->next;
  put(e, 6, *request, 0, text_size, NULL, NULL, 0);
  for (uint32_t i = 0; i < text_size && i < 4; i++) put(e, 1, *request, 0, i, NULL, (const char *)text + i, 1);
  uint32_t sum = 0;
  for (uint32_t i = 0; i < pixels_size; i++) sum += pixels[i];
  char json[512];
  snprintf(json, sizeof json, "{\"prompt_tokens\":%u,\"stop\":\"literal %u:%u ids %u:%d pixels %u:%u\"}", text_size,
           literal_count, literal_count ? literal[1] : 0, ids_count, ids_count ? ids[0] : 0, pixels_size, sum);
  if (!strstr(request_json, "\"ignore_eos\":true")) put(e, 4, *request, 1, 0, json, NULL, 0);
  pthread_mutex_unlock(&e->lock);
  ring_bell(e);
  return HEARTH_OK;
}

int32_t hearth_cancel(hearth_engine *e, uint32_t request) {
  if (!e) return HEARTH_CLOSED;
  pthread_mutex_lock(&e->lock);
  put(e, 4, request, 3, 0, "{}", NULL, 0);
  pthread_mutex_unlock(&e->lock);
  ring_bell(e);
  return HEARTH_OK;
}

int32_t hearth_tokenize(hearth_engine *e, uint32_t model, const uint8_t *text, uint32_t text_size, const uint32_t *literal,
                        uint32_t literal_count, uint32_t add_special, int32_t *ids, uint32_t capacity, uint32_t *needed,
                        char *error, uint32_t error_size) {
  (void)e, (void)model, (void)literal, (void)literal_count, (void)error, (void)error_size;
  *needed = text_size * 20 + add_special;
  if (*needed > capacity) return HEARTH_TOO_SMALL;
  for (uint32_t i = 0; i < *needed; i++) ids[i] = text[0];
  return HEARTH_OK;
}

int32_t hearth_detokenize(hearth_engine *e, uint32_t model, const int32_t *ids, uint32_t ids_count, uint32_t skip_special,
                          uint8_t *text, uint32_t capacity, uint32_t *needed, char *error, uint32_t error_size) {
  (void)e, (void)model, (void)skip_special;
  *needed = ids_count * 100;
  for (uint32_t i = 0; i < ids_count; i++) {
    if (ids[i] < 0) {
      fail(error, error_size, "token -1 is out of range");
      return HEARTH_INVALID;
    }
  }
  if (*needed > capacity) return HEARTH_TOO_SMALL;
  memset(text, 'y', *needed);
  return HEARTH_OK;
}

int32_t hearth_job(hearth_engine *e, const char *job_json, uint32_t *job, char *error, uint32_t error_size) {
  (void)error, (void)error_size;
  *job = ++e->next;
  if (strstr(job_json, "verify")) {
    pthread_mutex_lock(&e->lock);
    put(e, 4, *job, 5, 0, "{\"result\":{\"passed\":3}}", NULL, 0);
    pthread_mutex_unlock(&e->lock);
    ring_bell(e);
  }
  return HEARTH_OK;
}
