// Measurements of llama.cpp through its C API, as JSON lines: what its batched-bench does, without its sources.
//
//   llama-cpp LIBRARIES MODEL.gguf THREADS PROMPT NEW BATCH
//   llama-cpp LIBRARIES MODEL.gguf THREADS     one for each line "PROMPT BATCH NEW" of standard input, to take turns
//
// Prefill: BATCH prompts of PROMPT tokens, tokens a second together. Decode: NEW steps of one token of every sequence, in
// one llama_decode a step. LIBRARIES is a folder of libggml-cpu-*.so, of which llama.cpp takes the best for the machine: a
// folder with -haswell.so alone caps it at AVX2.
// Links with node-llama-cpp's prebuilt libllama v0.5.0 (README.md has the line); the structs are that version's ABI,
// of which only the named fields are touched.
#include <chrono>
#include <cstddef>
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
void ggml_backend_load_all_from_path(const char* folder);
size_t ggml_backend_dev_count();
ModelParams llama_model_default_params();
ContextParams llama_context_default_params();
llama_model* llama_model_load_from_file(const char* path, ModelParams params);
void llama_free(llama_context* context);
void llama_batch_free(Batch batch);
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

void measure(llama_model* model, int threads, int prompt, int fresh, int sequences) {
  ContextParams params = llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>((prompt + fresh + 32) * sequences);
  params.n_batch = static_cast<uint32_t>(prompt * sequences > 2048 ? prompt * sequences : 2048);
  params.n_seq_max = static_cast<uint32_t>(sequences);
  params.n_threads = params.n_threads_batch = threads;
  Peer peer;
  peer.context = llama_init_from_model(model, params);
  if (peer.context == nullptr) fail("cannot make a context");
  peer.batch = llama_batch_init(static_cast<int32_t>(params.n_batch), 0, 1);
  peer.prefill(prompt < 16 ? prompt : 16, sequences);  // a warm-up faults the weights in
  const double prefill_s = peer.prefill(prompt, sequences);
  peer.steps(prompt, 2, sequences);
  const double decode_s = peer.steps(prompt + 2, fresh, sequences);
  std::printf("{\"prompt\": %d, \"batch\": %d, \"prefill\": %.2f, \"decode\": %.2f}\n", prompt, sequences, prompt * sequences / prefill_s,
              fresh * sequences / decode_s);
  std::fflush(stdout);
  llama_batch_free(peer.batch);
  llama_free(peer.context);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 7 && argc != 4) fail("LIBRARIES MODEL.gguf THREADS [PROMPT NEW BATCH]");
  llama_log_set(errors_only, nullptr);
  llama_backend_init();
  ggml_backend_load_all_from_path(argv[1]);
  if (ggml_backend_dev_count() == 0) fail("no CPU library in the folder runs on this machine");
  llama_model* model = llama_model_load_from_file(argv[2], llama_model_default_params());
  if (model == nullptr) fail("cannot load the model");
  std::fprintf(stderr, "%s\n", llama_print_system_info());
  const int threads = std::atoi(argv[3]);
  if (argc == 7) measure(model, threads, std::atoi(argv[4]), std::atoi(argv[5]), std::atoi(argv[6]));
  for (int prompt, fresh, sequences; argc == 4 && std::scanf("%d %d %d", &prompt, &sequences, &fresh) == 3;) {
    measure(model, threads, prompt, fresh, sequences);
  }
  std::_Exit(0);
}
