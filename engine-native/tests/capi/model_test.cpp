// The wall with a real model behind it: models/tinystories-656k, read from the folder a user would give.
#include <chrono>
#include <thread>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
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
  EXPECT_TRUE(client.shows([](const Json& stats) { return stats["steps"] > 60; }));
}

TEST(RealModel, MissingFolderIsNamed) {
  Client client;
  EXPECT_EQ(client.load({{"path", "/nowhere/at/all"}}), 0u);
  const Answer& answer = client.answers[client.job];
  EXPECT_EQ(answer.end().reason, HEARTH_FINISH_ERROR);
  EXPECT_NE(answer.end().bytes.find("/nowhere/at/all"), std::string::npos);
}

// The first draws of a model show whether it computes numbers: with damaged weights nothing is answered.
TEST(RealModel, WeightsThatAreNoNumbersAreAnError) {
  namespace fs = std::filesystem;
  const fs::path copy = fs::temp_directory_path() / ("hearth-nan-" + std::to_string(getpid()));
  fs::copy(folder, copy, fs::copy_options::recursive);
  {
    std::fstream file(copy / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
    uint64_t size = 0;
    file.read(reinterpret_cast<char*>(&size), 8);
    std::string header(size, ' ');
    file.read(header.data(), static_cast<std::streamsize>(size));
    const Json offsets = Json::parse(header)["model.norm.weight"]["data_offsets"];
    file.seekp(static_cast<std::streamoff>(8 + size + offsets[0].get<uint64_t>()));
    file << std::string(offsets[1].get<size_t>() - offsets[0].get<size_t>(), '\xff');  // NaN in every float type
  }
  Client client;
  const uint32_t model = client.load({{"path", copy.string()}});
  fs::remove_all(copy);
  ASSERT_NE(model, 0u) << client.answers[client.job].end().bytes;
  for (const Json& options : {greedy(4), Json{{"max_tokens", 4}, {"temperature", 1}}, Json{{"max_tokens", 4}, {"frequency_penalty", 1}, {"logprobs", true}}}) {
    const Answer answer = client.run(model, options, "Once upon a time");
    EXPECT_EQ(answer.end().reason, HEARTH_FINISH_ERROR) << options;
    EXPECT_EQ(answer.count(HEARTH_RECORD_TOKEN), 0) << options;
    EXPECT_NE(answer.end().bytes.find("not a number"), std::string::npos) << answer.end().bytes;
  }
  const Answer embedding = client.run(model, {{"kind", "embed"}}, "Once upon a time");
  EXPECT_EQ(embedding.end().reason, HEARTH_FINISH_ERROR);
  EXPECT_EQ(embedding.count(HEARTH_RECORD_EMBEDDING), 0);
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

namespace {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// A prompt of nearly the whole context, different from every other number's.
std::string long_prompt(int number, int repeats) {
  std::string text = "Story " + std::to_string(number) + ". ";
  for (int i = 0; i < repeats; ++i) text += "There was a dog named Max who liked to play with ball number " + std::to_string(i * 7 + number) + ". ";
  return text;
}

}  // namespace

// A KV pool with room for one such prompt: each drives the last one out. With a host tier the first comes back by copying,
// with the same answer, instead of being computed again.
TEST(RealModel, ThePrefixComesBackFromHostMemoryInsteadOfBeingComputedAgain) {
  const std::string vl = std::string(HEARTH_SOURCE_DIR) + "/models/hearth-tiny-vl";
  for (const char* kv : {"auto", "int8"}) {
    std::vector<double> computed, copied;
    std::vector<std::vector<int32_t>> answers;
    for (int host_mb : {0, 64}) {
      Client client;
      uint32_t model = client.load({{"path", vl}, {"kv", kv}, {"kv_tokens", 1024}, {"context", 1024}, {"host_kv_mb", host_mb}});
      ASSERT_NE(model, 0u) << client.answers[client.job].end().bytes;
      std::vector<std::vector<int32_t>> first;
      for (int round = 0; round < 5; ++round) {
        for (int number = 0; number < 2; ++number) {
          std::this_thread::sleep_for(std::chrono::milliseconds(20));  // as between requests of people
          Answer a = client.run(model, greedy(8), long_prompt(number, 52));
          ASSERT_EQ(a.end().reason, HEARTH_FINISH_LENGTH) << a.end().bytes;
          if (round == 0) first.push_back(a.tokens());
          EXPECT_EQ(a.tokens(), first[number]) << "kv " << kv << ", host " << host_mb;
          if (round == 0) continue;
          (host_mb ? copied : computed).push_back(a.usage()["prefill_ms"]);
          int cached = a.usage()["cached_tokens"], prompt = a.usage()["prompt_tokens"];
          if (host_mb) EXPECT_GT(cached, prompt * 3 / 4) << "kv " << kv << " round " << round << " of " << prompt;
          else EXPECT_LT(cached, prompt / 2);
        }
      }
      answers.insert(answers.end(), first.begin(), first.end());
      Json stats = client.stats()["models"][0];
      if (host_mb) EXPECT_GT(stats["host_kv_fetched_bytes"].get<int64_t>(), 0);
    }
    EXPECT_EQ(answers[0], answers[2]);
    EXPECT_EQ(answers[1], answers[3]);
    std::printf("kv %s: prefill computed again %.2f ms, brought back %.2f ms\n", kv, median(computed), median(copied));
  }
}

TEST(RealModel, TheStepPathAllocatesNothing) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers bring their own operator new, so nothing is counted";
#endif
  Client client;
  uint32_t model = client.load({{"path", std::string(HEARTH_SOURCE_DIR) + "/models/hearth-tiny-vl"}, {"kv_tokens", 2048}, {"host_kv_mb", 16}});
  ASSERT_NE(model, 0u) << client.answers[client.job].end().bytes;
  std::vector<uint32_t> ids;
  for (int i = 0; i < 24; ++i)
    ids.push_back(client.submit(model, {{"max_tokens", 40}, {"ignore_eos", true}, {"logprobs", true}, {"top_logprobs", 5}, {"temperature", 1.0},
                                        {"top_p", 0.9}, {"stop", {"never seen"}}, {"seed", i}},
                                "Once upon a time there were " + std::to_string(i % 5) + " dogs. Once upon a time"));
  for (uint32_t id : ids) ASSERT_TRUE(client.wait(id, 60));
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  EXPECT_EQ(client.stats()["allocations_on_step"], 0);
}

// What a model takes while it loads, in memory of the process's own (mapped files are the page cache's): at no time more
// than the weights and a fiftieth, and what the plan says besides.
TEST(RealModel, LoadingTakesNoMoreMemoryThanThePlanSays) {
  auto anonymous_bytes = [] {
    std::ifstream file("/proc/self/status");
    for (std::string line; std::getline(file, line);)
      if (line.rfind("RssAnon:", 0) == 0) return std::stoll(line.substr(8)) * 1024;
    return 0ll;
  };
  Client client;
  const long long before = anonymous_bytes();
  std::atomic<long long> peak{0};
  std::atomic<bool> end{false};
  std::thread watcher([&] {
    while (!end) {
      peak = std::max(peak.load(), anonymous_bytes());
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  });
  uint32_t model = client.load({{"path", std::string(HEARTH_SOURCE_DIR) + "/models/hearth-tiny-vl"}, {"kv_tokens", 4096}});
  end = true;
  watcher.join();
  ASSERT_NE(model, 0u) << client.answers[client.job].end().bytes;
  for (int i = 0; i < 3000 && client.stats()["memory"].empty(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  long long weights = 0, rest = 0;
  const Json stats = client.stats();
  for (const Json& line : stats["memory"]) {
    std::string what = line["what"];
    bool weight = what.find("weights") != std::string::npos || what.find("embedding") != std::string::npos;
    (weight ? weights : rest) += line["bytes"].get<long long>();
  }
  constexpr long long fixed = 24 << 20;  // tokenizer, token trie, JSON, threads' stacks: not the checkpoint's size
  std::printf("anonymous memory while loading: %.1f MiB more; weights %.1f, the plan's rest %.1f\n", (peak - before) / 1048576.0, weights / 1048576.0, rest / 1048576.0);
  EXPECT_GT(weights, 0);
  EXPECT_LT(peak - before, weights * 102 / 100 + rest + fixed);
}
