// One measurement of llama.cpp through its C API, as a JSON line: what its batched-bench does, without its sources.
//
//   llama-cpp LIBGGML_CPU.so MODEL.gguf THREADS PROMPT NEW BATCH
//
// Prefill: BATCH prompts of PROMPT tokens, tokens a second together. Decode: NEW steps of one token of every sequence, in
// one llama_decode a step. The library names the instruction set: libggml-cpu-haswell.so is AVX2, -sapphirerapids.so AMX.
// Links with node-llama-cpp's prebuilt libllama v0.5.0 (README.md has the line); the structs are that version's ABI,
// of which only the named fields are touched.
#include <dlfcn.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

extern "C" {
struct llama_model;
struct llama_context;
struct ModelParams {
  uint64_t opaque[10];
};
struct ContextParams {
  uint32_t n_ctx, n_batch, n_ubatch, n_seq_max;
  uint32_t n_rs_seq, n_outputs_max, unnamed;
  int32_t n_threads, n_threads_batch;
  int32_t types[5];  // context, rope scaling, pooling, attention, flash attention (-1: where it helps)
  uint64_t opaque[13];
};
static_assert(sizeof(ModelParams) == 0x50 && sizeof(ContextParams) == 0xa0);
struct Batch {
  int32_t n_tokens;
  int32_t* token;
  float* embd;
  int32_t* pos;
  int32_t* n_seq_id;
  int32_t** seq_id;
  int8_t* logits;
};
void llama_backend_init();
void* ggml_backend_load(const char* path);
ModelParams llama_model_default_params();
ContextParams llama_context_default_params();
llama_model* llama_model_load_from_file(const char* path, ModelParams params);
llama_context* llama_init_from_model(llama_model* model, ContextParams params);
Batch llama_batch_init(int32_t tokens, int32_t embd, int32_t sequences);
int32_t llama_decode(llama_context* context, Batch batch);
void llama_synchronize(llama_context* context);
float* llama_get_logits_ith(llama_context* context, int32_t i);
void* llama_get_memory(llama_context* context);
void llama_memory_clear(void* memory, bool data);
const char* llama_print_system_info();
void llama_log_set(void (*log)(int level, const char* text, void* data), void* data);
}

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

void errors_only(int level, const char* text, void*) {
  if (level == 4) std::fputs(text, stderr);
}

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "llama-cpp: %s\n", what);
  std::exit(1);
}

struct Peer {
  llama_context* context = nullptr;
  Batch batch{};

  void add(int token, int position, int sequence, bool output) {
    const int i = batch.n_tokens++;
    batch.token[i] = token;
    batch.pos[i] = position;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = sequence;
    batch.logits[i] = output;
  }
  void decode() {
    if (llama_decode(context, batch) != 0) fail("llama_decode failed");
    llama_synchronize(context);
    if (llama_get_logits_ith(context, batch.n_tokens - 1) == nullptr) fail("no logits");
    batch.n_tokens = 0;
  }
  // Seconds of the prompts of all sequences, one after another as batched-bench submits them: in one batch.
  double prefill(int prompt, int sequences) {
    llama_memory_clear(llama_get_memory(context), false);
    const auto begin = Clock::now();
    for (int s = 0; s < sequences; ++s) {
      for (int i = 0; i < prompt; ++i) add(300 + (i * 7919 + s * 131) % 30000, i, s, i == prompt - 1);
    }
    decode();
    return seconds_since(begin);
  }
  double steps(int from, int count, int sequences) {
    const auto begin = Clock::now();
    for (int i = 0; i < count; ++i) {
      for (int s = 0; s < sequences; ++s) add(300 + (i * 7919 + s) % 30000, from + i, s, true);
      decode();
    }
    return seconds_since(begin);
  }
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 7) fail("LIBGGML_CPU.so MODEL.gguf THREADS PROMPT NEW BATCH");
  const int threads = std::atoi(argv[3]), prompt = std::atoi(argv[4]), fresh = std::atoi(argv[5]), sequences = std::atoi(argv[6]);
  llama_log_set(errors_only, nullptr);
  llama_backend_init();
  if (ggml_backend_load(argv[1]) == nullptr) fail("cannot load the CPU library (or the machine lacks its instructions)");
  llama_model* model = llama_model_load_from_file(argv[2], llama_model_default_params());
  if (model == nullptr) fail("cannot load the model");
  ContextParams params = llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>((prompt + fresh + 32) * sequences);
  params.n_batch = static_cast<uint32_t>(prompt * sequences > 2048 ? prompt * sequences : 2048);
  params.n_seq_max = static_cast<uint32_t>(sequences);
  params.n_threads = params.n_threads_batch = threads;
  Peer peer;
  peer.context = llama_init_from_model(model, params);
  if (peer.context == nullptr) fail("cannot make a context");
  peer.batch = llama_batch_init(static_cast<int32_t>(params.n_batch), 0, 1);
  peer.prefill(32 < prompt ? 32 : prompt, sequences);  // a warm-up faults the weights in
  const double prefill_s = peer.prefill(prompt, sequences);
  peer.steps(prompt, 2, sequences);
  const double decode_s = peer.steps(prompt + 2, fresh, sequences);
  std::fprintf(stderr, "%s\n", llama_print_system_info());
  std::printf("{\"prefill\": %.2f, \"decode\": %.2f}\n", prompt * sequences / prefill_s, fresh * sequences / decode_s);
  std::fflush(stdout);
  std::_Exit(0);
}
