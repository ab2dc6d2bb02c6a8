// Storms (support/storm.h) over the model without weights, whose tokens say at once when a block, a row or a mask is
// another request's. HEARTH_STORMS is how many of each kind are run.
#include <cstdlib>

#include "capi/fake/controls.h"
#include "support/storm.h"

using namespace hearth::testing;

namespace {

int storms() {
  const char* asked = std::getenv("HEARTH_STORMS");
  return asked ? std::atoi(asked) : 4;
}

StormCase text_case(std::mt19937& random) {
  StormCase c;
  c.request = {{"max_tokens", 1 + random() % 40}, {"seed", random() % 1000}, {"ignore_eos", random() % 2 == 0}, {"temperature", random() % 2 ? 0.8 : 0.0}};
  if (random() % 4 == 0) c.request["stop"] = {"a", "Q"};
  if (random() % 5 == 0) c.request["logprobs"] = true, c.request["top_logprobs"] = 3;
  if (random() % 6 == 0) c.request["repetition_penalty"] = 1.3;
  if (random() % 4 == 0) c.request["prediction"] = "abcabc";
  if (random() % 4 == 0) c.request["priority"] = static_cast<int>(random() % 3);
  if (random() % 4 == 0) c.request["grammar"] = {{"type", "regex"}, {"spec", "[a-e]{8,30}"}};
  if (random() % 3 == 0) c.request["logit_bias"] = {{97, 9.0}, {98, 8.0}};
  c.prompt.text = std::string(16 * (random() % 5), static_cast<char>('a' + random() % 3));
  for (unsigned i = 1 + random() % 20; i > 0; --i) c.prompt.text += static_cast<char>('a' + random() % 26);
  return c;
}

StormCase image_case(std::mt19937& random) {
  StormCase c = text_case(random);
  const int height = 1 + static_cast<int>(random() % 40);
  c.request["images"] = {{{"width", 2}, {"height", height}}};
  c.prompt.text += "@ and";
  c.prompt.pixels.assign(static_cast<size_t>(2 * height * 3), static_cast<uint8_t>(random() % 3));
  return c;
}

// Requests that end in an error, or in another kind of answer.
StormCase odd_case(std::mt19937& random) {
  StormCase c = text_case(random);
  switch (random() % 5) {
    case 0: c.request = {{"kind", "embed"}}; break;
    case 1: c.request = {{"kind", "score"}, {"prompt_logprobs", true}}; break;
    case 2: c.prompt.text.assign(2000, 'x'); break;                                                 // longer than the context
    case 3: c.request["grammar"] = {{"type", "regex"}, {"spec", "("}}, c.request.erase("min_tokens"); break;  // not compiled
    default: c.prompt.ids = {299, 298}; break;
  }
  return c;
}

// What each case is answered alone. All models of a plan have the same weights, so any of them may be asked.
void answer_alone(std::vector<StormCase>& cases, const Json& model_json) {
  Client client;
  const uint32_t model = client.load(model_json);
  ASSERT_NE(model, 0u);
  for (StormCase& c : cases) {
    Answer& answer = client.run(model, c.request, c.prompt);
    ASSERT_TRUE(answer.finished) << c.request << client.error;
    if (answer.end().reason != HEARTH_FINISH_ERROR) c.tokens = answer.tokens();
  }
}

struct Storms : ::testing::TestWithParam<StormEnd> {
  void SetUp() override { calm(); }
  void TearDown() override { calm(); }
  static void calm() {
    hearth_fake_preempt_every(0);
    hearth_fake_overlap(0);
    hearth_fake_pause_us(0);
    hearth_fake_copy_pause_us(0);
    hearth_fake_prepare_pause_us(0);
  }
};

void meddle(std::mt19937& random) {
  switch (random() % 4) {
    case 0: hearth_fake_preempt_every(random() % 2 ? 2 + static_cast<int>(random() % 8) : 0); break;
    case 1: hearth_fake_pause_us(random() % 2 ? static_cast<int>(random() % 800) : 0); break;
    case 2: hearth_fake_copy_pause_us(random() % 2 ? 300 : 0); break;
    default: hearth_fake_prepare_pause_us(random() % 2 ? static_cast<int>(random() % 800) : 0); break;
  }
}

StormPlan plan_for(unsigned seed, StormEnd end) {
  std::mt19937 random(seed);
  StormPlan plan;
  const bool images = seed % 2 == 0;
  for (int i = 0; i < 24; ++i) plan.cases.push_back(i % 6 == 5 ? odd_case(random) : images && i % 2 ? image_case(random) : text_case(random));
  const char* shape = images ? "fake-vision" : "fake";
  plan.models = {{{"shape", shape}, {"kv_tokens", 192}, {"prefill_chunk", 16}, {"host_kv_mb", 1}},
                 {{"shape", shape}, {"kv_tokens", 512}, {"max_sequences", 3}, {"host_kv_mb", 0}},
                 {{"shape", shape}, {"prefix_cache", false}}};
  plan.engine = {{"ring_bytes", random() % 2 ? 65536 : 4194304}, {"queue_requests", random() % 3 ? 512 : 8}};
  plan.meddle = meddle;
  plan.end = end;
  plan.seed = seed;
  return plan;
}

}  // namespace

TEST_P(Storms, KeepThePromises) {
  const unsigned first = 1 + 1000 * static_cast<unsigned>(GetParam());
  for (unsigned seed = first; seed < first + static_cast<unsigned>(storms()); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    calm();
    StormPlan plan = plan_for(seed, GetParam());
    answer_alone(plan.cases, {{"shape", seed % 2 == 0 ? "fake-vision" : "fake"}});
    hearth_fake_overlap(seed % 4 < 2);
    Storm(plan).run();
    if (HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Ends, Storms, ::testing::Values(StormEnd::quiet, StormEnd::stop, StormEnd::close));
