// Every promise of include/hearth.h, through the shared library.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <thread>

#include "capi/fake/controls.h"
#include "support/client.h"

using namespace hearth::testing;

namespace {

struct Promises : ::testing::Test {
  void SetUp() override {
    hearth_fake_preempt_every(0);
    hearth_fake_overlap(0);
    hearth_fake_pause_us(0);
    hearth_fake_prepare_pause_us(0);
  }
};

Json greedy(int max_tokens) { return {{"max_tokens", max_tokens}, {"temperature", 0}, {"ignore_eos", true}}; }
Json with_image(int width, int height) { return {{"max_tokens", 2}, {"images", {{{"width", width}, {"height", height}}}}}; }
Prompt image_prompt(int width, int height) { return {"a@b", {}, {}, std::vector<uint8_t>(static_cast<size_t>(width) * height * 3, 7)}; }
int error_status(const Answer& answer) { return answer.usage()["error"]["status"]; }

}  // namespace

TEST_F(Promises, AbiNumberAndVersion) {
  EXPECT_EQ(hearth_abi(), HEARTH_ABI);
  EXPECT_STRNE(hearth_version(), "");
}

TEST_F(Promises, OpenRefusesWhatItDoesNotKnow) {
  hearth_engine* engine = reinterpret_cast<hearth_engine*>(1);
  char error[256];
  for (const char* bad : {"{\"devise\":\"cpu\"}", "{\"device\":\"tpu\"}", "[]", "{", "{\"threads\":-1}", "{\"threads\":\"2\"}",
                          "{\"ring_bytes\":1}", "{\"log_level\":\"loud\"}"}) {
    EXPECT_EQ(hearth_open(bad, &engine, error, sizeof error), HEARTH_INVALID) << bad;
    EXPECT_EQ(engine, nullptr);
    EXPECT_STRNE(error, "");
  }
  EXPECT_EQ(hearth_open("{}", nullptr, error, sizeof error), HEARTH_INVALID);
  EXPECT_EQ(hearth_open("{\"devise\":1}", &engine, nullptr, 0), HEARTH_INVALID);
  char tiny[8];
  EXPECT_EQ(hearth_open("{\"devise\":1}", &engine, tiny, sizeof tiny), HEARTH_INVALID);
  EXPECT_EQ(strlen(tiny), 7u);
}

TEST_F(Promises, UnknownAndClosedHandlesAreAStatus) {
  uint32_t u = 0;
  int32_t fd = 0;
  char error[256];
  hearth_engine* closed = nullptr;
  ASSERT_EQ(hearth_open("{\"device\":\"cpu\",\"threads\":1}", &closed, error, sizeof error), HEARTH_OK);
  hearth_close(closed);
  for (hearth_engine* handle : {closed, static_cast<hearth_engine*>(nullptr), reinterpret_cast<hearth_engine*>(0x1234)}) {
    EXPECT_EQ(hearth_stop(handle), HEARTH_CLOSED);
    EXPECT_EQ(hearth_doorbell(handle, &fd, error, sizeof error), HEARTH_CLOSED);
    EXPECT_EQ(hearth_drain(handle, nullptr, 0, &u), HEARTH_CLOSED);
    EXPECT_EQ(hearth_stats(handle, nullptr, 0, &u), HEARTH_CLOSED);
    EXPECT_EQ(hearth_model_open(handle, "{}", &u, &u, error, sizeof error), HEARTH_CLOSED);
    EXPECT_EQ(hearth_model_close(handle, 1, error, sizeof error), HEARTH_CLOSED);
    EXPECT_EQ(hearth_model_info(handle, 1, nullptr, 0, &u, error, sizeof error), HEARTH_CLOSED);
    EXPECT_EQ(hearth_submit(handle, 1, "{}", nullptr, 0, nullptr, 0, nullptr, 0, nullptr, 0, &u, error, sizeof error), HEARTH_CLOSED);
    EXPECT_EQ(hearth_cancel(handle, 1), HEARTH_CLOSED);
    EXPECT_EQ(hearth_job(handle, "{}", &u, error, sizeof error), HEARTH_CLOSED);
    hearth_close(handle);
  }
}

TEST_F(Promises, UnknownModelsAndRequests) {
  Client client;
  uint32_t needed;
  EXPECT_EQ(client.submit(77, greedy(1), "a"), 0u);
  EXPECT_EQ(client.status, HEARTH_CLOSED);
  EXPECT_EQ(hearth_cancel(client.engine, 12345), HEARTH_NOT_FOUND);
  EXPECT_EQ(hearth_model_close(client.engine, 77, nullptr, 0), HEARTH_CLOSED);
  EXPECT_EQ(hearth_tokenize(client.engine, 77, nullptr, 0, nullptr, 0, 0, nullptr, 0, &needed, nullptr, 0), HEARTH_CLOSED);
}

TEST_F(Promises, LoadReportsProgressThenDone) {
  Client client;
  uint32_t model = client.load({{"shape", "fake"}, {"name", "m"}});
  ASSERT_NE(model, 0u);
  const Answer& answer = client.answers[client.job];
  EXPECT_GE(answer.count(HEARTH_RECORD_NOTICE), 1);
  EXPECT_EQ(answer.end().reason, HEARTH_FINISH_DONE);
  EXPECT_EQ(answer.usage()["result"]["model"], model);
  std::string text(1 << 14, 0);
  uint32_t needed = 0;
  EXPECT_EQ(hearth_model_info(client.engine, model, nullptr, 0, &needed, nullptr, 0), HEARTH_TOO_SMALL);
  ASSERT_EQ(hearth_model_info(client.engine, model, text.data(), needed, &needed, nullptr, 0), HEARTH_OK);
  Json info = Json::parse(text.c_str());
  EXPECT_EQ(info["name"], "m");
  EXPECT_EQ(info["vocabulary"], 300);
  for (const char* key : {"architecture", "parameters", "context", "max_sequences", "precision", "kv", "device", "vision", "bos",
                          "eos", "sampling", "chat_template", "memory", "fingerprint", "special_tokens"})
    EXPECT_TRUE(info.contains(key)) << key;
}

TEST_F(Promises, FailedLoadIsAnErrorAndLeavesNoHandle) {
  Client client;
  uint32_t model = 0, job = 0;
  ASSERT_EQ(hearth_model_open(client.engine, "{\"shape\":\"fake-broken\"}", &model, &job, nullptr, 0), HEARTH_OK);
  ASSERT_TRUE(client.wait(job));
  EXPECT_EQ(client.answers[job].end().reason, HEARTH_FINISH_ERROR);
  EXPECT_EQ(error_status(client.answers[job]), HEARTH_CORRUPT);
  EXPECT_NE(client.answers[job].usage()["error"]["message"].get<std::string>().find("lm_head"), std::string::npos);
  EXPECT_EQ(client.submit(model, greedy(1), "a"), 0u);
  EXPECT_EQ(client.status, HEARTH_CLOSED);
  for (const char* bad : {"{}", "{\"shape\":\"a\",\"path\":\"b\"}", "{\"shape\":\"fake\",\"precision\":\"w3\"}",
                          "{\"shape\":\"fake\",\"group\":48}", "{\"shape\":\"fake\",\"oops\":1}", "{\"shape\":7}"})
    EXPECT_EQ(hearth_model_open(client.engine, bad, &model, &job, nullptr, 0), HEARTH_INVALID) << bad;
}

// A load that is done as the engine stops left a handle that said "still loading" from then on.
TEST_F(Promises, AModelThatIsLoadedAsTheEngineStopsIsClosed) {
  for (int i = 0; i < 60; ++i) {
    Client client;
    uint32_t model = 0, job = 0;
    ASSERT_EQ(hearth_model_open(client.engine, "{\"shape\":\"fake\"}", &model, &job, nullptr, 0), HEARTH_OK);
    std::this_thread::sleep_for(std::chrono::microseconds(i * 20));
    ASSERT_EQ(hearth_stop(client.engine), HEARTH_OK);
    ASSERT_TRUE(client.wait(job));
    const int32_t status = hearth_model_close(client.engine, model, nullptr, 0);
    EXPECT_TRUE(status == HEARTH_OK || status == HEARTH_CLOSED) << status;
    EXPECT_EQ(client.submit(model, greedy(1), "a"), 0u);
    EXPECT_EQ(client.status, HEARTH_CLOSED);
  }
}

// What a library throws on a thread of the engine's ends what that thread was about, not the process.
TEST_F(Promises, ALoadThatThrowsIsAnErrorAndLeavesNoHandle) {
  Client client;
  uint32_t model = 0, job = 0;
  ASSERT_EQ(hearth_model_open(client.engine, "{\"shape\":\"fake-throwing\"}", &model, &job, nullptr, 0), HEARTH_OK);
  ASSERT_TRUE(client.wait(job));
  EXPECT_EQ(client.answers[job].end().reason, HEARTH_FINISH_ERROR);
  EXPECT_EQ(error_status(client.answers[job]), HEARTH_INTERNAL);
  EXPECT_EQ(client.answers[job].usage()["error"]["message"], "a library was surprised");
  EXPECT_EQ(hearth_model_close(client.engine, model, nullptr, 0), HEARTH_CLOSED);
  EXPECT_NE(client.load({{"shape", "fake"}}), 0u);
}

TEST_F(Promises, ARequestWhosePreparingThrowsIsAnErrorAndTheNextIsServed) {
  Client client;
  uint32_t model = client.load({{"shape", "fake-vision"}});
  const Answer& thrown = client.run(model, with_image(63, 2), image_prompt(63, 2));
  ASSERT_TRUE(thrown.finished);
  EXPECT_EQ(thrown.end().reason, HEARTH_FINISH_ERROR);
  EXPECT_EQ(error_status(thrown), HEARTH_OUT_OF_MEMORY);
  const Answer& next = client.run(model, with_image(62, 2), image_prompt(62, 2));
  ASSERT_TRUE(next.finished);
  EXPECT_NE(next.end().reason, HEARTH_FINISH_ERROR);
}

TEST_F(Promises, JsonThatNestsWithoutEndIsRefused) {
  Client client;
  uint32_t model = client.load({{"shape", "fake"}}), id = 0;
  const std::string open(200000, '['), close(200000, ']');
  const std::string request = R"({"grammar":{"type":"json_schema","spec":{"default":)" + open + close + "}}}";
  EXPECT_EQ(hearth_submit(client.engine, model, request.c_str(), nullptr, 0, nullptr, 0, nullptr, 0, nullptr, 0, &id, client.error,
                          sizeof client.error), HEARTH_INVALID);
  EXPECT_NE(std::string(client.error).find("deeper"), std::string::npos) << client.error;
}

TEST_F(Promises, RequestsBeingPreparedWaitAtTheirOwnModel) {
  Client client;
  uint32_t first = client.load({{"shape", "fake"}, {"name", "first"}}), second = client.load({{"shape", "fake-vision"}, {"name", "second"}});
  ASSERT_TRUE(first != 0 && second != 0);
  while (client.stats()["models"].size() < 2) std::this_thread::yield();
  hearth_fake_prepare_pause_us(300000);
  std::vector<uint32_t> ids;
  for (int i = 0; i < 4; ++i) ids.push_back(client.submit(second, with_image(2, 2), image_prompt(2, 2)));
  const Json models = client.stats()["models"];
  for (uint32_t id : ids) EXPECT_TRUE(client.wait(id));
  ASSERT_EQ(models.size(), 2u);
  EXPECT_EQ(models[0]["waiting"], 0) << models.dump();
  EXPECT_GE(models[1]["waiting"], 1) << models.dump();
}

// Tokens that were added to a tokenizer and never to the model's table: fine-tunes are published like that.
TEST_F(Promises, ATokenTheModelHasNotEndsItsOwnRequestOnly) {
  Client client;
  uint32_t model = client.load({{"shape", "fake-narrow"}});
  hearth_fake_pause_us(2000);
  uint32_t other = client.submit(model, greedy(60), "plain");
  while (client.answers[other].count(HEARTH_RECORD_TOKEN) < 2) client.poll_once(100);
  const Answer& refused = client.run(model, greedy(4), "\xe2\x82\xac");
  ASSERT_TRUE(refused.finished);
  EXPECT_EQ(refused.end().reason, HEARTH_FINISH_ERROR);
  EXPECT_EQ(error_status(refused), HEARTH_INVALID);
  ASSERT_TRUE(client.wait(other));
  EXPECT_EQ(client.answers[other].end().reason, HEARTH_FINISH_LENGTH);
}

// Handles are looked up by other threads until the very end, and afterwards.
TEST_F(Promises, CallsMayComeWhileTheEngineCloses) {
  for (int round = 0; round < 20; ++round) {
    Client client;
    uint32_t model = client.load({{"shape", "fake"}});
    hearth_engine* engine = client.engine;
    std::atomic<bool> began{false};
    std::thread caller([&] {
      char json[8192];
      uint32_t needed = 0;
      for (int32_t status = HEARTH_OK; status != HEARTH_CLOSED; began = true) {
        hearth_stats(engine, json, sizeof json, &needed);
        status = hearth_model_info(engine, model, json, sizeof json, &needed, nullptr, 0);
      }
    });
    while (!began) std::this_thread::yield();
    hearth_close(engine);
    caller.join();
  }
}

TEST_F(Promises, RecordsComeInOrderAndExactlyOneFinished) {
  Client client;
  uint32_t model = client.load({{"shape", "fake"}});
  Answer& answer = client.run(model, greedy(12), "hello");
  ASSERT_TRUE(answer.finished);
  EXPECT_EQ(answer.records.front().type, HEARTH_RECORD_ACCEPTED);
  EXPECT_EQ(answer.records.front().index, 5u);
  EXPECT_EQ(answer.count(HEARTH_RECORD_TOKEN), 12);
  for (uint32_t i = 0; i < 12; ++i) {
    EXPECT_EQ(answer.records[i + 1].index, i);
    EXPECT_TRUE(std::isnan(answer.records[i + 1].logprob));
    EXPECT_EQ(answer.records[i + 1].size % 8, 0u);
  }
  EXPECT_EQ(answer.count(HEARTH_RECORD_FINISHED), 1);
  EXPECT_EQ(answer.end().reason, HEARTH_FINISH_LENGTH);
  Json usage = answer.usage();
  EXPECT_EQ(usage["prompt_tokens"], 5);
  EXPECT_EQ(usage["completion_tokens"], 12);
  EXPECT_TRUE(usage["stop"].is_null());
  EXPECT_FALSE(usage.contains("error"));
  for (const char* key : {"cached_tokens", "image_tokens", "queue_ms", "prefill_ms", "decode_ms", "draft_tokens", "draft_accepted"})
    EXPECT_TRUE(usage[key].is_number()) << key;
  EXPECT_EQ(client.after_finish, 0);
}

TEST_F(Promises, RejectedRequestsGetNoRecord) {
  Client client;
  uint32_t model = client.load({{"shape", "fake"}});
  size_t before = client.answers.size();
  std::vector<Json> bad = {{{"temprature", 1}}, {{"temperature", -1}}, {{"temperature", "1"}}, {{"top_p", 2}}, {{"top_k", -1}},
                           {{"max_tokens", -1}}, {{"max_tokens", 9223372036854775807ull}}, {{"seed", 4294967296ull}},
                           {{"top_logprobs", 21}, {"logprobs", true}}, {{"top_logprobs", 2}}, {{"kind", "dream"}},
                           {{"logit_bias", {{1}}}}, {{"logit_bias", {{300, 1}}}}, {{"logit_bias", {{1, 101}}}},
                           {{"stop", {""}}}, {{"stop", "x"}}, {{"stop_tokens", {-1}}}, {{"stop_tokens", {300}}},
                           {{"images", {{{"width", 1}, {"height", 1}}}}}, {{"min_tokens", 5}, {"max_tokens", 4}},
                           {{"dimensions", 9}}, {{"pooling", "max"}}, {{"priority", 1e12}}, {{"stop", Json::array({1})}},
                           {{"grammar", "x"}}, {{"prompt_logprobs", 1}}, {{"repetition_penalty", 0}}, {{"min_p", 1e308}}};
  for (const Json& request : bad) {
    EXPECT_EQ(client.submit(model, request, "a"), 0u) << request;
    EXPECT_EQ(client.status, HEARTH_INVALID) << request;
    EXPECT_STRNE(client.error, "") << request;
  }
  EXPECT_EQ(client.submit(model, Json::object(), Prompt{"", {}, {300}, {}}), 0u);
  EXPECT_EQ(client.submit(model, Json::object(), Prompt{"", {}, {-1}, {}}), 0u);
  EXPECT_EQ(client.submit(model, Json::object(), Prompt{"abc", {2, 4}, {}, {}}), 0u);
  EXPECT_EQ(client.submit(model, Json::object(), Prompt{"abc", {2, 1}, {}, {}}), 0u);
  EXPECT_EQ(client.submit(model, Json::object(), Prompt{"abc", {}, {}, {1, 2, 3}}), 0u);
  uint32_t id;
  for (const char* text : {"", "{", "[1]", "{\"temperature\":NaN}", "{\"temperature\":1e999}"})
    EXPECT_EQ(hearth_submit(client.engine, model, text, nullptr, 0, nullptr, 0, nullptr, 0, nullptr, 0, &id, nullptr, 0), HEARTH_INVALID);
  EXPECT_EQ(hearth_submit(client.engine, model, nullptr, nullptr, 0, nullptr, 0, nullptr, 0, nullptr, 0, &id, nullptr, 0), HEARTH_INVALID);
  EXPECT_EQ(hearth_submit(client.engine, model, "{}", nullptr, 3, nullptr, 0, nullptr, 0, nullptr, 0, &id, nullptr, 0), HEARTH_INVALID);
  client.poll_once(50);
  EXPECT_EQ(client.answers.size(), before);
}

TEST_F(Promises, NullIsTheSameAsAbsent) {
  Client client;
  uint32_t model = client.load({{"shape", "fake"}});
  Json request = greedy(3);
  for (const char* key : {"seed", "top_k", "top_p", "min_p", "stop", "logit_bias", "grammar", "images", "min_tokens"}) request[key] = nullptr;
  EXPECT_EQ(client.run(model, request, "hello").tokens(), client.run(model, greedy(3), "hello").tokens());
}

TEST_F(Promises, InputsAreCopied) {
  Client client;
  uint32_t model = client.load({{"shape", "fake"}});
  std::vector<int32_t> want = client.run(model, greedy(6), "copied").tokens();
  std::string text = "copied";
  uint32_t id = client.submit(model, greedy(6), text);
  std::fill(text.begin(), text.end(), 'x');
  client.wait(id);
  EXPECT_EQ(client.answers[id].tokens(), want);
}

TEST_F(Promises, TooLongCarriesBothNumbers) {
  Client client;
  uint32_t model = client.load({{"shape", "fake"}});
  Answer& answer = client.run(model, greedy(1), std::string(512, 'a'));
  EXPECT_EQ(answer.records.size(), 1u);  // no ACCEPTED
  EXPECT_EQ(answer.end().reason, HEARTH_FINISH_ERROR);
  EXPECT_EQ(error_status(answer), HEARTH_TOO_LONG);
  Json numbers = Json::parse(answer.usage()["error"]["message"].get<std::string>());
  EXPECT_EQ(numbers, (Json{{"prompt_tokens", 512}, {"context", 512}}));
  Answer& longest = client.run(model, greedy(0), std::string(511, 'a'));
  EXPECT_EQ(longest.count(HEARTH_RECORD_TOKEN), 1);
  EXPECT_EQ(longest.end().reason, HEARTH_FINISH_LENGTH);
  Answer& empty = client.run(model, greedy(1), "");
  EXPECT_EQ(error_status(empty), HEARTH_INVALID);
}

TEST_F(Promises, CancelWorksInQueueAndWhileRunning) {
  Client client;
  uint32_t model = client.load({{"shape", "fake-endless"}, {"max_sequences", 1}});
  hearth_fake_pause_us(500);
  uint32_t running = client.submit(model, greedy(10000), "first");
  while (client.answers[running].count(HEARTH_RECORD_TOKEN) < 3) client.poll_once(100);
  uint32_t queued = client.submit(model, greedy(10000), "second");
  while (client.answers[queued].records.empty()) client.poll_once(100);  // ACCEPTED
  EXPECT_EQ(hearth_cancel(client.engine, queued), HEARTH_OK);
  ASSERT_TRUE(client.wait(queued));
  EXPECT_EQ(client.answers[queued].end().reason, HEARTH_FINISH_CANCELLED);
  EXPECT_EQ(client.answers[queued].count(HEARTH_RECORD_TOKEN), 0);
  EXPECT_EQ(hearth_cancel(client.engine, running), HEARTH_OK);
  ASSERT_TRUE(client.wait(running));
  EXPECT_EQ(client.answers[running].end().reason, HEARTH_FINISH_CANCELLED);
  EXPECT_TRUE(client.shows([](const Json& stats) { return stats["kv_blocks_used"] == 0; }));
  EXPECT_EQ(hearth_cancel(client.engine, running), HEARTH_NOT_FOUND);
  EXPECT_EQ(client.after_finish, 0);
}

TEST_F(Promises, QueueIsBoundedByRequestsAndTokens) {
  Client client(Json{{"queue_requests", 2}, {"queue_tokens", 1000}});
  uint32_t model = client.load({{"shape", "fake-endless"}, {"max_sequences", 1}});
  hearth_fake_pause_us(1000);
  uint32_t running = client.submit(model, greedy(5000), "r");
  while (client.answers[running].count(HEARTH_RECORD_TOKEN) < 1) client.poll_once(100);
  EXPECT_EQ(client.submit(model, greedy(5), Prompt{"", {}, std::vector<int32_t>(1001, 5), {}}), 0u);
  EXPECT_EQ(client.status, HEARTH_BUSY);
  EXPECT_NE(client.submit(model, greedy(5), "a"), 0u);
  uint32_t second = client.submit(model, greedy(5), "b");
  EXPECT_NE(second, 0u);
  EXPECT_EQ(client.submit(model, greedy(5), "c"), 0u);
  EXPECT_EQ(client.status, HEARTH_BUSY);
  hearth_cancel(client.engine, running);
  hearth_fake_pause_us(0);
  ASSERT_TRUE(client.wait(second));
  EXPECT_EQ(client.answers[second].end().reason, HEARTH_FINISH_LENGTH);
  EXPECT_NE(client.submit(model, greedy(5), "d"), 0u);
}

// Nobody drains: the engine stops producing, loses nothing, and goes on when room comes.
TEST_F(Promises, FullRingSkipsStepsAndDropsNothing) {
  Client client(Json{{"ring_bytes", 65536}});
  uint32_t model = client.load({{"shape", "fake-endless"}});
  std::vector<uint32_t> ids;
  for (int i = 0; i < 12; ++i) ids.push_back(client.submit(model, greedy(400), "request " + std::to_string(i)));
  EXPECT_TRUE(client.shows([](const Json& stats) { return stats["generation_tokens"] > 0; }));
  EXPECT_LT(client.at_rest("generation_tokens"), 12 * 400);
  client.drain();
  for (uint32_t id : ids) {
    ASSERT_TRUE(client.wait(id));
    EXPECT_EQ(client.answers[id].count(HEARTH_RECORD_TOKEN), 400);
    uint32_t next = 0;
    for (const ClientRecord& r : client.answers[id].records) {
      if (r.type == HEARTH_RECORD_TOKEN) {
        EXPECT_EQ(r.index, next++);
      }
    }
  }
  EXPECT_EQ(client.after_finish, 0);
}

// What a step sets aside of the ring for ends that seldom come must not keep sequences out of the step.
TEST_F(Promises, ASmallRingHoldsManySequencesInOneStep) {
  Client client(Json{{"ring_bytes", 65536}});
  uint32_t model = client.load({{"shape", "fake-endless"}, {"max_sequences", 32}});
  hearth_fake_pause_us(300);
  std::vector<uint32_t> ids;
  for (int i = 0; i < 32; ++i) ids.push_back(client.submit(model, greedy(64), "request " + std::to_string(i)));
  for (uint32_t id : ids) ASSERT_TRUE(client.wait(id));
  hearth_fake_pause_us(0);
  EXPECT_TRUE(client.shows([](const Json& stats) { return stats["generation_tokens"] == 32 * 64; }));
  const Json stats = client.stats()["models"][0];
  EXPECT_EQ(stats["generation_tokens"], 32 * 64);
  EXPECT_LT(stats["steps"].get<int>(), 2 * 64);
}

TEST_F(Promises, DrainNeverBlocksAndSaysWhatIsTooSmall) {
  Client client;
  uint32_t written = 9;
  EXPECT_EQ(hearth_drain(client.engine, nullptr, 0, &written), HEARTH_OK);
  EXPECT_EQ(written, 0u);
  uint32_t model = client.load({{"shape", "fake"}});
  uint32_t id = client.submit(model, greedy(1), "x");
  uint8_t small[16];
  for (int i = 0; i < 3000 && hearth_drain(client.engine, small, sizeof small, &written) == HEARTH_OK; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(hearth_drain(client.engine, small, sizeof small, &written), HEARTH_TOO_SMALL);
  EXPECT_EQ(written, 48u);
  EXPECT_TRUE(client.wait(id));
  int32_t fd;
  EXPECT_EQ(hearth_doorbell(client.engine, &fd, nullptr, 0), HEARTH_INVALID);
}

TEST_F(Promises, StopFinishesEverythingThenEndOfFile) {
  Client client;
  uint32_t model = client.load({{"shape", "fake-endless"}});
  hearth_fake_pause_us(300);
  std::vector<uint32_t> ids;
  for (int i = 0; i < 20; ++i) ids.push_back(client.submit(model, greedy(10000), "request " + std::to_string(i)));
  client.poll_once(100);
  EXPECT_EQ(hearth_stop(client.engine), HEARTH_OK);
  EXPECT_EQ(hearth_stop(client.engine), HEARTH_OK);
  EXPECT_EQ(client.submit(model, greedy(1), "late"), 0u);
  EXPECT_EQ(client.status, HEARTH_CLOSED);
  auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (client.poll_once(100)) ASSERT_LT(std::chrono::steady_clock::now(), end);
  client.drain();
  for (uint32_t id : ids) {
    ASSERT_TRUE(client.answers[id].finished);
    EXPECT_EQ(client.answers[id].end().reason, HEARTH_FINISH_CANCELLED);
  }
  EXPECT_EQ(client.after_finish, 0);
}

TEST_F(Promises, CloseWithAFullRingAndLiveRequestsReturns) {
  Client client(Json{{"ring_bytes", 65536}});
  uint32_t model = client.load({{"shape", "fake-endless"}});
  for (int i = 0; i < 30; ++i) client.submit(model, greedy(1000), "request " + std::to_string(i));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
}

TEST_F(Promises, ClosingAModelCancelsItsRequestsOnly) {
  Client client;
  uint32_t a = client.load({{"shape", "fake-endless"}, {"name", "a"}}), b = client.load({{"shape", "fake-endless"}, {"name", "b"}});
  ASSERT_NE(a, b);
  hearth_fake_pause_us(300);
  uint32_t of_a = client.submit(a, greedy(5000), "one"), of_b = client.submit(b, greedy(50), "two");
  while (client.answers[of_a].count(HEARTH_RECORD_TOKEN) < 2) client.poll_once(100);
  EXPECT_EQ(hearth_model_close(client.engine, a, nullptr, 0), HEARTH_OK);
  ASSERT_TRUE(client.wait(of_a));
  ASSERT_TRUE(client.wait(of_b));
  EXPECT_EQ(client.answers[of_a].end().reason, HEARTH_FINISH_CANCELLED);
  EXPECT_EQ(client.answers[of_b].end().reason, HEARTH_FINISH_LENGTH);
  EXPECT_EQ(client.submit(a, greedy(1), "x"), 0u);
  EXPECT_EQ(client.status, HEARTH_CLOSED);
  EXPECT_EQ(hearth_model_close(client.engine, a, nullptr, 0), HEARTH_CLOSED);
}

TEST_F(Promises, ALostDeviceEndsEveryRequestAndTheEngine) {
  Client client;
  uint32_t model = client.load({{"shape", "fake-endless"}});
  hearth_fake_pause_us(300);
  std::vector<uint32_t> ids;
  for (int i = 0; i < 12; ++i) ids.push_back(client.submit(model, greedy(5000), "request " + std::to_string(i)));
  while (client.answers[ids[0]].count(HEARTH_RECORD_TOKEN) < 2) client.poll_once(100);
  hearth_fake_fail_device();
  for (uint32_t id : ids) {
    ASSERT_TRUE(client.wait(id));
    EXPECT_EQ(client.answers[id].end().reason, HEARTH_FINISH_ERROR);
    EXPECT_EQ(error_status(client.answers[id]), HEARTH_DEVICE);
  }
  EXPECT_EQ(client.submit(model, greedy(1), "x"), 0u);
  EXPECT_EQ(client.status, HEARTH_DEVICE);
  EXPECT_EQ(client.after_finish, 0);
}

TEST_F(Promises, JobsAreCheckedAtOnce) {
  Client client;
  uint32_t job = 0;
  EXPECT_EQ(hearth_job(client.engine, "{\"job\":\"dance\"}", &job, nullptr, 0), HEARTH_INVALID);
  EXPECT_EQ(hearth_job(client.engine, "nope", &job, nullptr, 0), HEARTH_INVALID);
  EXPECT_EQ(hearth_job(client.engine, nullptr, &job, nullptr, 0), HEARTH_INVALID);
}

TEST_F(Promises, DoctorNeedsNoEngine) {
  uint32_t needed = 0;
  std::string text(1 << 18, 0);
  char error[256];
  EXPECT_EQ(hearth_doctor(nullptr, "{\"device\":\"cpu\"}", nullptr, 0, &needed, error, sizeof error), HEARTH_TOO_SMALL);
  ASSERT_EQ(hearth_doctor(nullptr, "{\"device\":\"cpu\"}", text.data(), text.size(), &needed, error, sizeof error), HEARTH_OK) << error;
  Json report = Json::parse(text.c_str());
  EXPECT_EQ(report["devices"][0]["kind"], "cpu");
  EXPECT_FALSE(report["kernels"].empty());
  EXPECT_EQ(hearth_doctor(nullptr, "{\"x\":1}", text.data(), text.size(), &needed, error, sizeof error), HEARTH_INVALID);
}

TEST_F(Promises, TokenizeAndDetokenize) {
  Client client;
  uint32_t model = client.load({{"shape", "fake"}});
  const uint8_t text[] = "abc";
  int32_t ids[4];
  uint32_t needed = 0;
  EXPECT_EQ(hearth_tokenize(client.engine, model, text, 3, nullptr, 0, 0, ids, 2, &needed, nullptr, 0), HEARTH_TOO_SMALL);
  EXPECT_EQ(needed, 3u);
  ASSERT_EQ(hearth_tokenize(client.engine, model, text, 3, nullptr, 0, 0, ids, 4, &needed, nullptr, 0), HEARTH_OK);
  EXPECT_EQ(ids[2], 'c');
  uint8_t out[4] = {};
  ASSERT_EQ(hearth_detokenize(client.engine, model, ids, 3, 1, out, 4, &needed, nullptr, 0), HEARTH_OK);
  EXPECT_STREQ(reinterpret_cast<char*>(out), "abc");
  int32_t bad[] = {300};
  EXPECT_EQ(hearth_detokenize(client.engine, model, bad, 1, 1, out, 4, &needed, nullptr, 0), HEARTH_INVALID);
  uint32_t range[] = {1, 9};
  EXPECT_EQ(hearth_tokenize(client.engine, model, text, 3, range, 1, 0, ids, 4, &needed, nullptr, 0), HEARTH_INVALID);
}
