// The wall with a real model behind it: models/tinystories-656k, read from the folder a user would give.
#include <chrono>
#include <thread>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "support/client.h"

using namespace hearth::testing;

namespace {

const std::string folder = std::string(HEARTH_SOURCE_DIR) + "/models/tinystories-656k";

Json greedy(int max_tokens) { return {{"max_tokens", max_tokens}, {"temperature", 0}, {"ignore_eos", true}, {"add_special_tokens", true}}; }

}  // namespace

TEST(RealModel, WritesAStoryTheSameWayTwice) {
  Client client;
  uint32_t model = client.load({{"path", folder}});
  ASSERT_NE(model, 0u) << client.answers[client.job].end().bytes;
  Answer a = client.run(model, greedy(60), "Once upon a time");
  ASSERT_TRUE(a.finished);
  EXPECT_EQ(a.end().reason, HEARTH_FINISH_LENGTH) << a.end().bytes;
  EXPECT_EQ(a.count(HEARTH_RECORD_TOKEN), 60);
  std::string text = a.text();
  EXPECT_GT(std::count(text.begin(), text.end(), ' '), 20) << text;
  Answer b = client.run(model, greedy(60), "Once upon a time");
  EXPECT_EQ(a.tokens(), b.tokens());
  // The snapshot behind stats() is at most 20 ms old while steps run, so the last ones may show a moment later.
  auto steps = [&] { return client.stats()["models"][0]["steps"].get<int>(); };
  for (int i = 0; i < 200 && steps() <= 60; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_GT(steps(), 60);
}

TEST(RealModel, MissingFolderIsNamed) {
  Client client;
  EXPECT_EQ(client.load({{"path", "/nowhere/at/all"}}), 0u);
  const Answer& answer = client.answers[client.job];
  EXPECT_EQ(answer.end().reason, HEARTH_FINISH_ERROR);
  EXPECT_NE(answer.end().bytes.find("/nowhere/at/all"), std::string::npos);
}

// Schedules on real arithmetic: rows of one request must not depend on what else is in the batch. Sampled tokens may differ
// only where two logits are within rounding of each other; greedy tokens of this model are compared up to such a place.
TEST(RealModel, SchedulesDoNotChangeTheAnswers) {
  Client alone_client, client;
  uint32_t alone = alone_client.load({{"path", folder}, {"prefix_cache", false}, {"max_sequences", 1}});
  uint32_t model = client.load({{"path", folder}, {"kv_tokens", 512}, {"prefill_chunk", 16}, {"context", 256}});
  ASSERT_NE(alone, 0u);
  ASSERT_NE(model, 0u) << client.answers[client.job].end().bytes;
  std::mt19937 random(4);
  const char* starts[] = {"Once upon a time", "Lily and Tom went to the park.", "The dog was sad because", "One day, a little girl named Sue found a big red ball."};
  int compared = 0;
  for (int round = 0; round < 10; ++round) {
    std::map<uint32_t, Answer> want;
    for (int i = 0; i < 8; ++i) {
      std::string prompt = std::string(starts[random() % 4]) + (random() % 2 ? " She" : "");
      Json request = greedy(10 + random() % 50);
      request["logprobs"] = true;
      request["top_logprobs"] = 2;
      Answer one = alone_client.run(alone, request, prompt);
      request["speculate"] = random() % 2 == 0;
      uint32_t id = client.submit(model, request, prompt);
      ASSERT_NE(id, 0u) << client.error;
      want[id] = one;
      if (random() % 2) client.poll_once(2);
    }
    for (auto& [id, one] : want) {
      ASSERT_TRUE(client.wait(id));
      std::vector<int32_t> got = client.answers[id].tokens(), expected = one.tokens();
      ASSERT_EQ(got.size(), expected.size());
      for (size_t i = 0; i < got.size(); ++i) {
        const ClientRecord& r = one.records[i + 1];
        if (r.top[0].logprob - r.top[1].logprob < 1e-3) break;
        ASSERT_EQ(got[i], expected[i]) << "token " << i << " of " << one.text();
        ++compared;
      }
    }
  }
  EXPECT_GT(compared, 1500);
}

TEST(RealModel, AnswersInJson) {
  Client client;
  uint32_t model = client.load({{"path", std::string(HEARTH_SOURCE_DIR) + "/models/hearth-tiny-vl"}});
  ASSERT_NE(model, 0u) << client.answers[client.job].end().bytes;
  Json schema = {{"type", "object"}, {"properties", {{"name", {{"type", "string"}, {"maxLength", 12}}}, {"age", {{"type", "integer"}, {"minimum", 1}, {"maximum", 99}}}}},
                 {"required", {"name", "age"}}, {"additionalProperties", false}};
  for (int seed = 0; seed < 20; ++seed) {
    Json request = {{"max_tokens", 80}, {"temperature", 1}, {"seed", seed}, {"grammar", {{"type", "json_schema"}, {"spec", schema}}}};
    Answer a = client.run(model, request, "Once upon a time");
    ASSERT_EQ(a.end().reason, HEARTH_FINISH_STOP) << a.text() << a.end().bytes;
    Json value = Json::parse(a.text(), nullptr, false);
    ASSERT_TRUE(value.is_object()) << a.text();
    EXPECT_GE(value["age"], 1);
    EXPECT_LE(value["age"], 99);
    EXPECT_EQ(value.size(), 2u);
  }
  // tinystories has no token with a brace in it.
  uint32_t without_braces = client.load({{"path", folder}});
  Answer unspellable = client.run(without_braces, {{"max_tokens", 5}, {"grammar", {{"type", "json_object"}}}}, "x");
  EXPECT_EQ(unspellable.end().reason, HEARTH_FINISH_ERROR);
  EXPECT_EQ(unspellable.usage()["error"]["status"], HEARTH_UNSUPPORTED);
  Answer bad = client.run(model, {{"grammar", {{"type", "json_schema"}, {"spec", {{"type", "integer"}, {"multipleOf", 2}}}}}}, "x");
  EXPECT_EQ(bad.end().reason, HEARTH_FINISH_ERROR);
  EXPECT_EQ(bad.usage()["error"]["status"], HEARTH_UNSUPPORTED);
  EXPECT_NE(bad.end().bytes.find("#/multipleOf"), std::string::npos);
}
