// Two 4-bit models served at once by one engine on one GPU. A step of few rows fills the GPU with blocks that wait for one
// another (the decode program; at 5 to 8 rows the chain of linears), so steps of two models must take turns: without them
// this hangs, each model holding a part of the multiprocessors.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "support/client.h"

using namespace hearth::testing;

namespace {

constexpr int tokens_new = 48, seconds_max = 60;

Json shape(const char* name, int seed) {
  return {{"shape", name}, {"seed", seed}, {"precision", "w4a16"}, {"head_bits", 4}, {"context", 256}, {"max_sequences", 8}, {"kv_tokens", 2048}, {"prefix_cache", false}};
}

// `count` requests to every model, all under way together; their tokens, model by model.
std::vector<std::vector<int32_t>> serve(Client& client, const std::vector<uint32_t>& models, int count) {
  const Json greedy = {{"max_tokens", tokens_new}, {"temperature", 0}, {"ignore_eos", true}, {"speculate", false}};
  std::vector<uint32_t> requests;
  for (uint32_t model : models)
    for (int i = 0; i < count; ++i) requests.push_back(client.submit(model, greedy, Prompt{"", {}, {1, 7 + i, 200, 31, 5 * i}, {}}));
  std::vector<std::vector<int32_t>> tokens;
  for (uint32_t request : requests) {
    if (request == 0 || !client.wait(request, seconds_max)) {
      std::fprintf(stderr, "request %u did not end within %d s: %s\n", request, seconds_max, client.error);
      std::_Exit(1);  // a hung GPU lets nothing be closed
    }
    EXPECT_EQ(client.answers[request].end().reason, HEARTH_FINISH_LENGTH) << client.answers[request].end().bytes;
    tokens.push_back(client.answers[request].tokens());
  }
  return tokens;
}

TEST(TwoModels, ServedAtOnceAsEachAlone) {
  Client client(Json{{"device", "cuda"}});
  ASSERT_EQ(client.status, HEARTH_OK) << client.error;
  const uint32_t first = client.load(shape("llama-1.1b", 1)), second = client.load(shape("tiny", 2));
  ASSERT_NE(first, 0u);
  ASSERT_NE(second, 0u) << client.answers[client.job].end().bytes;
  for (int count : {1, 3, 6}) {  // the decode program, the same with several rows, the chain
    const auto one = serve(client, {first}, count), other = serve(client, {second}, count);
    for (int round = 0; round < 3; ++round) {
      const auto both = serve(client, {first, second}, count);
      for (const auto& tokens : both) EXPECT_EQ(tokens.size(), static_cast<size_t>(tokens_new));
      if (count > 1) continue;  // which requests share a step, and so the kernels, depends on when they arrive
      EXPECT_EQ(both[0], one[0]);
      EXPECT_EQ(both[1], other[0]);
    }
  }
}

}  // namespace
