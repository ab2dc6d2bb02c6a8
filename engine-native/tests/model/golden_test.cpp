// Every architecture against Hugging Face transformers: logits over 64 positions, however the prompt is cut, and greedy
// tokens. The checkpoints and logits were captured by scripts/golden/capture.py.
#include <optional>

#include "model/support.h"

namespace hearth::model {
namespace {

class TextGolden : public testing::TestWithParam<const char*> {};

TEST_P(TextGolden, PrefillChunksAndSteps) {
  const Golden golden(GetParam());
  auto model = load(exact_options(checkpoint_path(GetParam())));
  ASSERT_TRUE(model);
  const auto expected = golden.values<float>("logits");
  int slot = 0;
  for (const int chunk : {64, 1, 7, 23}) {
    Sequence sequence(*model, slot++);
    sequence.ids = golden.values<int32_t>("ids");
    const double off = distance(prefill(*model, sequence, chunk), expected);
    EXPECT_LE(off, tolerance) << "chunks of " << chunk;
    RecordProperty("distance_chunk_" + std::to_string(chunk), std::to_string(off));
  }
}

TEST_P(TextGolden, GreedyTokensAreEqual) {
  const Golden golden(GetParam());
  auto model = load(exact_options(checkpoint_path(GetParam())));
  ASSERT_TRUE(model);
  Sequence sequence(*model, 2);
  sequence.ids = golden.values<int32_t>("ids");
  sequence.ids.resize(static_cast<size_t>(golden.number("greedy_prompt")));
  const auto expected = golden.values<int32_t>("greedy");
  EXPECT_EQ(greedy_matches(*model, sequence, expected), expected.size());
}

INSTANTIATE_TEST_SUITE_P(Architectures, TextGolden,
                         testing::Values("llama-mha", "llama-gqa-tied", "llama-f32", "llama-f16", "llama-sharded", "llama3-rope",
                                         "llama-linear-rope", "llama-bias", "llama-outlier", "mistral-window", "qwen2", "qwen3", "gemma3"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// Several sequences in one step, ragged: each gets what it gets alone.
TEST(Batching, SequencesDoNotTouchEachOther) {
  const Golden golden("qwen3");
  auto model = load(exact_options(checkpoint_path("qwen3")));
  ASSERT_TRUE(model);
  const auto ids = golden.values<int32_t>("ids");
  const auto expected = golden.values<float>("logits");
  const size_t vocabulary = static_cast<size_t>(model->info().vocabulary);
  std::vector<Sequence> sequences;
  for (int i = 0; i < 3; i++) {
    sequences.emplace_back(*model, i);
    sequences.back().ids = ids;
  }
  step(*model, sequences[0], 30);
  step(*model, sequences[1], 5);
  // One decode row, one chunk of 11, one first chunk of 20; logits of the last row of each.
  const SequenceRows rows[] = {sequences[0].rows(1), sequences[1].rows(11), sequences[2].rows(20)};
  const int32_t wanted[] = {0, 11, 31};
  ASSERT_TRUE(model->forward({rows, wanted}).is_ok());
  std::vector<float> logits(3 * vocabulary);
  ASSERT_TRUE(model->device().download(logits.data(), model->logits(), logits.size() * 4).is_ok());
  const size_t at[] = {30, 15, 19};
  for (size_t i = 0; i < 3; i++) {
    EXPECT_LE(distance(std::span(logits).subspan(i * vocabulary, vocabulary), std::span(expected).subspan(at[i] * vocabulary, vocabulary)), tolerance) << i;
  }
}

// Pure decode of several sequences at once: on a GPU a recorded graph of a larger batch, with empty slots.
TEST(Batching, DecodeTogether) {
  const Golden golden("llama-f32");
  auto model = load(exact_options(checkpoint_path("llama-f32")));
  ASSERT_TRUE(model);
  const auto expected = golden.values<float>("logits");
  const size_t vocabulary = static_cast<size_t>(model->info().vocabulary);
  std::vector<Sequence> sequences;
  const int prompt[] = {40, 7, 22};
  for (int i = 0; i < 3; i++) {
    sequences.emplace_back(*model, i);
    sequences.back().ids = golden.values<int32_t>("ids");
    step(*model, sequences.back(), prompt[i]);
  }
  for (int round = 0; round < 20; round++) {
    const SequenceRows rows[] = {sequences[0].rows(1), sequences[1].rows(1), sequences[2].rows(1)};
    const int32_t wanted[] = {0, 1, 2};
    ASSERT_TRUE(model->forward({rows, wanted}).is_ok());
    ASSERT_TRUE(model->device().stream().synchronize().is_ok());
    std::vector<float> logits(3 * vocabulary);
    ASSERT_TRUE(model->device().download(logits.data(), model->logits(), logits.size() * 4).is_ok());
    for (size_t i = 0; i < 3; i++) {
      const size_t at = static_cast<size_t>(sequences[i].done++);
      EXPECT_LE(distance(std::span(logits).subspan(i * vocabulary, vocabulary), std::span(expected).subspan(at * vocabulary, vocabulary)), tolerance) << i;
    }
  }
}

#ifndef HEARTH_TEST_CUDA
// Formats of the KV pool and of activations cost what they should and no more.
TEST(Formats, DistanceOfEveryKvFormat) {
  const Golden golden("llama-outlier");
  const auto expected = golden.values<float>("logits");
  struct Case { const char* kv; double most; };
  for (const Case& c : {Case{"f32", 1e-4}, Case{"f16", 2e-3}, Case{"bf16", 1.5e-2}, Case{"int8", 3e-2}}) {
    LoadOptions options = exact_options(checkpoint_path("llama-outlier"));
    options.kv = c.kv;
    auto model = load(options);
    ASSERT_TRUE(model);
    EXPECT_EQ(model->info().kv, c.kv);
    Sequence sequence(*model, 0);
    sequence.ids = golden.values<int32_t>("ids");
    const double off = distance(prefill(*model, sequence, 16), expected);
    EXPECT_LE(off, c.most) << c.kv;
    EXPECT_GT(off, 0) << c.kv;
  }
}

TEST(Formats, RoundingWhileLoading) {
  const Golden golden("llama-outlier");
  const auto expected = golden.values<float>("logits");
  struct Case { const char* precision; int group; const char* held; double most; };
  for (const Case& c : {Case{"f32", 0, "f32", 1e-4}, Case{"f16", 0, "f16", 1e-3}, Case{"bf16", 0, "bf16", 1e-4}, Case{"w4a32", 32, "w4a32", 0.3},
                        Case{"w4a16", 128, "w4a32", 0.4}, Case{"w4a8", 32, "w4a8", 0.3}, Case{"w8a8", 0, "w8a8", 0.15}}) {
    LoadOptions options = exact_options(checkpoint_path("llama-outlier"));
    options.precision = c.precision;
    options.group = c.group;
    options.head_bits = 16;
    auto model = load(options);
    ASSERT_TRUE(model) << c.precision;
    EXPECT_EQ(model->info().precision, c.held);
    Sequence sequence(*model, 0);
    sequence.ids = golden.values<int32_t>("ids");
    const double off = distance(prefill(*model, sequence, 64), expected);
    EXPECT_LE(off, c.most) << c.precision;
    std::printf("  %s group %d: %.4f\n", c.precision, c.group, off);
  }
}

#endif

// Hidden states are what the head multiplies: logits follow from them.
TEST(Hidden, FinalNormOfTheWantedRows) {
  const Golden golden("llama-f32");
  auto model = load(exact_options(checkpoint_path("llama-f32")));
  ASSERT_TRUE(model);
  Sequence sequence(*model, 0);
  sequence.ids = golden.values<int32_t>("ids");
  const SequenceRows rows = sequence.rows(64);
  const int32_t wanted[] = {3, 40, 63};
  ASSERT_TRUE(model->forward_hidden({std::span(&rows, 1), wanted}).is_ok());
  const size_t width = static_cast<size_t>(model->info().hidden_width), vocabulary = static_cast<size_t>(model->info().vocabulary);
  std::vector<float> hidden(3 * width);
  ASSERT_TRUE(model->device().download(hidden.data(), model->hidden(), hidden.size() * 4).is_ok());
  formats::TensorStore store;
  ASSERT_TRUE(formats::add_safetensors(store, checkpoint_path("llama-f32/model.safetensors")).is_ok());
  const auto* head = reinterpret_cast<const float*>(store.find("lm_head.weight")->data.data());
  std::vector<float> logits(3 * vocabulary, 0);
  for (size_t i = 0; i < 3; i++) {
    for (size_t v = 0; v < vocabulary; v++) {
      for (size_t k = 0; k < width; k++) logits[i * vocabulary + v] += hidden[i * width + k] * head[v * width + k];
    }
  }
  const auto expected = golden.values<float>("logits");
  for (size_t i = 0; i < 3; i++) {
    const auto row = static_cast<size_t>(wanted[i]);
    EXPECT_LE(distance(std::span(logits).subspan(i * vocabulary, vocabulary), std::span(expected).subspan(row * vocabulary, vocabulary)), tolerance);
  }
}

// Two sequences of one model, the second of the first's tokens backwards, over a KV pool of each type.
class KvBlocks : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    LoadOptions options = exact_options(checkpoint_path("llama-mha"));
    options.kv = GetParam();
    model_ = load(options);
    ASSERT_TRUE(model_);
    whole_.emplace(*model_, 0);
    other_.emplace(*model_, 1);
    whole_->ids = other_->ids = Golden("llama-mha").values<int32_t>("ids");
    std::reverse(other_->ids.begin(), other_->ids.end());
    step(*model_, *whole_, 40);
    block_ = whole_->rows(1).blocks[1];
  }
  // The logits of the first sequence's next step, which stays the next one.
  std::vector<float> next() {
    std::vector<float> logits = step(*model_, *whole_, 1);
    whole_->done--;
    return logits;
  }

  std::unique_ptr<Model> model_;
  std::optional<Sequence> whole_, other_;
  int block_ = -1;  // of the first sequence
  static constexpr double same = on_gpu ? 1e-5 : 0.0, changed = 1e-3;
};

// A KV block copied to the host, overwritten and brought back leaves the sequence as it was.
TEST_P(KvBlocks, RoundTripThroughTheHost) {
  std::vector<uint8_t> saved(model_->kv_block_bytes()), foreign(model_->kv_block_bytes());
  ASSERT_TRUE(model_->read_kv_block(block_, saved.data()).is_ok());
  step(*model_, *other_, 40);
  ASSERT_TRUE(model_->read_kv_block(other_->rows(1).blocks[1], foreign.data()).is_ok());
  EXPECT_NE(saved, foreign);
  const std::vector<float> before = next();
  ASSERT_TRUE(model_->write_kv_block(block_, foreign.data()).is_ok());
  EXPECT_GT(distance(next(), before), changed);
  ASSERT_TRUE(model_->write_kv_block(block_, saved.data()).is_ok());
  EXPECT_LE(distance(next(), before), same);
  EXPECT_FALSE(model_->read_kv_block(model_->info().kv_blocks, saved.data()).is_ok());
}

// The same beside the steps, as the host tier does it: through a queue of its own, into staging memory, while another
// sequence goes on; and back, so that it reads on as if nothing had happened.
TEST_P(KvBlocks, RoundTripBesideTheSteps) {
  step(*model_, *other_, 20);
  auto staging = model_->device().allocate(model_->kv_block_bytes(), device::MemoryKind::staging, "a test");
  auto queue = model_->device().open_copy_queue();
  ASSERT_TRUE(staging && queue);
  auto move = [&](bool to_host) {
    auto marker = model_->device().mark();
    return marker && (*queue)->after(*marker) && model_->transfer_kv_block(block_, *staging, to_host, **queue);
  };
  const std::vector<float> before = next();
  ASSERT_TRUE(move(true));
  step(*model_, *other_, 4);  // does not wait for the copy
  ASSERT_TRUE((*queue)->finish());
  const std::vector<uint8_t> zeros(model_->kv_block_bytes());
  ASSERT_TRUE(model_->write_kv_block(block_, zeros.data()).is_ok());
  EXPECT_GT(distance(next(), before), changed);
  ASSERT_TRUE(move(false));
  step(*model_, *other_, 4);
  ASSERT_TRUE((*queue)->finish());
  EXPECT_LE(distance(next(), before), same);
  model_->device().release(*staging);
}

INSTANTIATE_TEST_SUITE_P(Types, KvBlocks, testing::Values("f16", "bf16", "int8"), [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace hearth::model
