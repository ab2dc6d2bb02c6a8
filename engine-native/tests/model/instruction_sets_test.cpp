// Turning an instruction set off, or threads on, changes speed and never text: greedy continuations of trained models
// under every cap this machine has (HEARTH_CPU_MAX) and several thread counts.
#include <cstdlib>

#include "device/cpu_features.h"
#include "model/support.h"

namespace hearth::model {
namespace {

#if defined(__x86_64__)
constexpr const char* caps[] = {"reference", "avx2", "avx-vnni", "avx512", "amx"};
#else
constexpr const char* caps[] = {"reference", "neon", "dotprod", "i8mm"};
#endif

// Caps that differ on this machine, fewest instructions first.
std::vector<std::string> own_caps() {
  std::vector<std::string> list;
  std::string before;
  for (const char* cap : caps) {
    const auto features = device::cap_cpu_features(device::detect_cpu_features(), cap);
    EXPECT_TRUE(features.is_ok());
    const std::string text = device::describe(*features);
    if (text != before) list.emplace_back(cap);
    before = text;
  }
  return list;
}

// A prompt in one piece (many rows), then one token at a time.
std::vector<int32_t> continuation(const LoadOptions& options, const std::vector<int32_t>& prompt, int threads, int count) {
  auto device = device::open_cpu_device(threads);
  EXPECT_TRUE(device.is_ok());
  auto model = Model::load(options, **device);
  EXPECT_TRUE(model.is_ok()) << model.status().message();
  if (!model) return {};
  const auto vocabulary = static_cast<size_t>((*model)->info().vocabulary);
  Sequence sequence(**model, 0);
  sequence.ids = prompt;
  sequence.prompt = static_cast<int>(prompt.size());
  std::vector<float> logits = prefill(**model, sequence, 96);
  std::vector<int32_t> tokens;
  for (int i = 0; i < count; i++) {
    tokens.push_back(best_of(std::span(logits).last(vocabulary)));
    sequence.ids.push_back(tokens.back());
    logits = step(**model, sequence, 1);
  }
  return tokens;
}

void check(const std::string& path, const std::vector<int32_t>& prompt, int count) {
  struct Case { const char* precision; bool symmetric; };  // symmetric groups of 32 have a form of their own
  for (const auto [precision, symmetric] : {Case{"w4a8", false}, {"w4a8", true}, {"w4a32", true}, {"w8a8", false}, {"f16", false}}) {
    LoadOptions options = exact_options(path);
    options.precision = precision;
    options.symmetric = symmetric;
    options.group = 32;
    options.kv = "auto";
    std::vector<int32_t> wanted;
    for (const std::string& cap : own_caps()) {
      setenv("HEARTH_CPU_MAX", cap.c_str(), 1);
      for (const int threads : {1, 2, 3}) {
        const std::vector<int32_t> tokens = continuation(options, prompt, threads, count);
        if (wanted.empty()) wanted = tokens;
        EXPECT_EQ(tokens, wanted) << path << ", " << precision << (symmetric ? " symmetric" : "") << ", " << cap << ", " << threads << " threads";
      }
    }
    unsetenv("HEARTH_CPU_MAX");
  }
}

// 80 tokens of its own making: long enough for the kernels of many rows, attention in fixed point among them.
std::vector<int32_t> own_prompt(const std::string& path, int first) {
  LoadOptions options = exact_options(path);
  std::vector<int32_t> prompt = {first};
  const std::vector<int32_t> more = continuation(options, prompt, 1, 79);
  prompt.insert(prompt.end(), more.begin(), more.end());
  return prompt;
}

TEST(InstructionSets, SameTextOnStories260K) {
  const std::string path = checkpoint_path("stories260K");
  check(path, own_prompt(path, 1), 60);
}

TEST(InstructionSets, SameTextOnTinyStories) {
  const std::string path = std::string(HEARTH_SOURCE_DIR) + "/models/tinystories-656k";
  check(path, own_prompt(path, 1), 60);
}

// A prompt whose beginning is cached, or that is read in pieces beside others, gives the same text as one that is read at once.
TEST(InstructionSets, PromptsInPiecesGiveTheSameBits) {
  LoadOptions options = exact_options(std::string(HEARTH_SOURCE_DIR) + "/models/tinystories-656k");
  options.precision = "w4a8";
  options.kv = "auto";
  auto device = device::open_cpu_device(2);
  ASSERT_TRUE(device.is_ok());
  auto model = Model::load(options, **device);
  ASSERT_TRUE(model.is_ok()) << model.status().message();
  const auto vocabulary = static_cast<size_t>((*model)->info().vocabulary);
  const std::vector<int32_t> prompt = own_prompt(options.path, 1);
  auto last_logits = [&](std::initializer_list<int> pieces) {
    Sequence sequence(**model, 0);
    sequence.ids = prompt;
    sequence.prompt = static_cast<int>(prompt.size());
    std::vector<float> logits;
    for (const int piece : pieces) logits = step(**model, sequence, piece);
    return std::vector<float>(logits.end() - static_cast<std::ptrdiff_t>(vocabulary), logits.end());
  };
  const std::vector<float> whole = last_logits({80});
  for (const auto pieces : {std::initializer_list<int>{64, 16}, {79, 1}, {5, 30, 45}, {33, 40, 2, 5}}) EXPECT_EQ(last_logits(pieces), whole);
}

}  // namespace
}  // namespace hearth::model
