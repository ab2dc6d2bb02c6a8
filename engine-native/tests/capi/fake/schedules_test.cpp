// Scheduling changes nothing (design.md 8.4): whatever arrives, is cut into chunks, cancelled, preempted or found in the
// prefix cache, each request's tokens are those it gets alone, and every block comes back.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <thread>

#include "capi/fake/controls.h"
#include "support/client.h"

using namespace hearth::testing;

namespace {

struct Case {
  Json request;
  Prompt prompt;
};

Json options_of(std::mt19937& random) {
  Json r = {{"max_tokens", 1 + random() % 40}, {"seed", random() % 1000}, {"ignore_eos", random() % 2 == 0}};
  if (random() % 2) r["temperature"] = 0.8;
  if (random() % 4 == 0) r["top_k"] = 5;
  if (random() % 4 == 0) r["top_p"] = 0.9;
  if (random() % 5 == 0) r["repetition_penalty"] = 1.3;
  if (random() % 5 == 0) r["frequency_penalty"] = 0.5;
  if (random() % 6 == 0) r["logit_bias"] = {{7, 3.5}, {9, -100}};
  if (random() % 6 == 0) r["stop"] = {"a", "Q"};
  if (random() % 8 == 0) r["prompt_logprobs"] = true;
  if (random() % 8 == 0) r["logprobs"] = true, r["top_logprobs"] = 3;
  if (random() % 6 == 0) r["min_tokens"] = 1;
  if (random() % 4 == 0) r["priority"] = static_cast<int>(random() % 3);
  return r;
}

// Few different beginnings, so that prefixes are found again; some texts repeat themselves, so that drafts hit.
Case make_case(std::mt19937& random) {
  Case c{options_of(random), {}};
  std::string base(16 * (random() % 4), static_cast<char>('a' + random() % 3));
  c.prompt.text = base;
  for (int i = 1 + random() % 30; i > 0; --i) c.prompt.text += static_cast<char>('a' + random() % 26);
  if (random() % 4 == 0) c.prompt.ids = {65, 66, static_cast<int32_t>(random() % 300)};
  return c;
}

struct Seen {
  std::vector<int32_t> tokens;
  std::string text;
  uint32_t reason;
  std::vector<float> prompt_logprobs;
};
Seen seen(const Answer& a) {
  Seen s{a.tokens(), a.text(), a.end().reason, {}};
  for (const ClientRecord& r : a.records)
    if (r.type == HEARTH_RECORD_PROMPT && r.index > 0) s.prompt_logprobs.push_back(r.logprob);
  return s;
}

struct Schedules : ::testing::Test {
  void SetUp() override {
    hearth_fake_preempt_every(0);
    hearth_fake_overlap(0);
    hearth_fake_pause_us(0);
    hearth_fake_copy_pause_us(0);
  }
  void TearDown() override { SetUp(); }
};

void expect_same(const Seen& got, const Seen& want, const Json& request) {
  ASSERT_EQ(got.tokens, want.tokens) << request;
  ASSERT_EQ(got.text, want.text) << request;
  ASSERT_EQ(got.reason, want.reason) << request;
  ASSERT_EQ(got.prompt_logprobs.size(), want.prompt_logprobs.size());
  for (size_t i = 0; i < got.prompt_logprobs.size(); ++i) ASSERT_NEAR(got.prompt_logprobs[i], want.prompt_logprobs[i], 1e-5);
}

// One engine with a tight pool and small chunks; all requests of a schedule at once, some cancelled on the way.
void run_schedules(bool overlap, unsigned first_seed, int count, bool host_tier = false) {
  hearth_fake_overlap(overlap);
  Client alone_client;
  hearth_fake_overlap(overlap);
  Client client;
  uint32_t alone = alone_client.load({{"shape", "fake"}, {"prefix_cache", false}});
  uint32_t model = client.load({{"shape", "fake-small-pool"}, {"prefill_chunk", 16}, {"host_kv_mb", host_tier ? 1 : 0}});
  for (unsigned seed = first_seed; seed < first_seed + count; ++seed) {
    std::mt19937 random(seed);
    hearth_fake_preempt_every(0);
    hearth_fake_copy_pause_us(host_tier && seed % 2 ? 300 : 0);  // copies that take longer than steps
    std::vector<Case> cases;
    std::vector<Seen> want;
    for (int i = 0; i < 8; ++i) {
      cases.push_back(make_case(random));
      Json request = cases.back().request;
      request["speculate"] = false;
      Answer& answer = alone_client.run(alone, request, cases.back().prompt);
      ASSERT_TRUE(answer.finished);
      want.push_back(seen(answer));
    }
    hearth_fake_preempt_every(random() % 3 == 0 ? 0 : 2 + static_cast<int>(random() % 8));
    std::map<uint32_t, size_t> ids;
    std::vector<uint32_t> cancelled;
    for (size_t i = 0; i < cases.size(); ++i) {
      uint32_t id = client.submit(model, cases[i].request, cases[i].prompt);
      ASSERT_NE(id, 0u) << client.error;
      ids[id] = i;
      if (random() % 3 == 0) client.poll_once(1);
      if (random() % 6 == 0) {
        if (hearth_cancel(client.engine, id) == HEARTH_OK) cancelled.push_back(id);
      }
    }
    for (auto [id, i] : ids) {
      ASSERT_TRUE(client.wait(id)) << "seed " << seed;
      Seen got = seen(client.answers[id]);
      if (got.reason == HEARTH_FINISH_CANCELLED) {
        ASSERT_LE(got.tokens.size(), want[i].tokens.size());
        ASSERT_TRUE(std::equal(got.tokens.begin(), got.tokens.end(), want[i].tokens.begin()));
      } else {
        expect_same(got, want[i], cases[i].request);
        if (::testing::Test::HasFatalFailure()) FAIL() << "seed " << seed << " overlap " << overlap;
      }
      client.answers.erase(id);
    }
    ASSERT_EQ(client.after_finish, 0);
  }
  hearth_fake_preempt_every(0);
  EXPECT_TRUE(client.shows([](const Json& now) { return now["kv_blocks_used"] == 0 && now["running"] == 0 && now["waiting"] == 0; }));
  Json stats = client.stats()["models"][0];
  EXPECT_GT(stats["preemptions"].get<int>(), 0);
  EXPECT_GT(stats["prefix_hit_tokens"].get<int>(), 0);
  if (!host_tier) return;
  EXPECT_GT(stats["host_kv_saved_bytes"].get<int>(), 0);
  EXPECT_GT(stats["host_kv_fetched_bytes"].get<int>(), 0);
  EXPECT_GT(stats["host_kv_hit_tokens"].get<int>(), 0);
}

}  // namespace

TEST_F(Schedules, HundredRandomSchedulesOnADeviceInStep) { run_schedules(false, 1, 100); }
TEST_F(Schedules, HundredRandomSchedulesWithStepsInFlight) { run_schedules(true, 101, 100); }

TEST_F(Schedules, HundredRandomSchedulesOverAHostTier) { run_schedules(false, 201, 100, true); }
TEST_F(Schedules, HundredRandomSchedulesOverAHostTierWithStepsInFlight) { run_schedules(true, 301, 100, true); }

// Twelve blocks on the device: the second prompt drives the first one out, and it comes back from the host.
TEST_F(Schedules, APrefixComesBackFromTheHostTierAndGoesWithItsModel) {
  Client client;
  Json request = {{"max_tokens", 4}, {"temperature", 0}, {"ignore_eos", true}};
  std::string first(150, 'p'), second(150, 'q');
  uint32_t without = client.load({{"shape", "fake-small-pool"}, {"host_kv_mb", 0}, {"name", "without"}});
  std::vector<int32_t> want = client.run(without, request, first).tokens();
  client.run(without, request, second);
  EXPECT_LT(client.run(without, request, first).usage()["cached_tokens"].get<int>(), 100);
  uint32_t model = client.load({{"shape", "fake-small-pool"}, {"host_kv_mb", 1}, {"name", "with"}});
  EXPECT_EQ(client.run(model, request, first).usage()["cached_tokens"], 0);
  for (int i = 0; i < 3; ++i) {
    client.at_rest("host_kv_saved_bytes");  // copies are made when there is nothing else to do
    client.run(model, request, std::string(100 + i, static_cast<char>('q' + i)));
  }
  Answer again = client.run(model, request, first);
  EXPECT_GT(again.usage()["cached_tokens"].get<int>(), 0);
  EXPECT_EQ(again.tokens(), want);
  // Another model of the same name must not find what the first one kept.
  ASSERT_EQ(hearth_model_close(client.engine, model, nullptr, 0), HEARTH_OK);
  model = client.load({{"shape", "fake-small-pool"}, {"host_kv_mb", 1}, {"name", "with"}});
  EXPECT_EQ(client.run(model, request, first).usage()["cached_tokens"], 0);
}

TEST_F(Schedules, ImagesInAPrefixComeBackFromTheHostTier) {
  Client client;
  uint32_t model = client.load({{"shape", "fake-vision"}, {"kv_tokens", 192}, {"prefill_chunk", 16}, {"host_kv_mb", 1}});
  Json request = {{"max_tokens", 8}, {"temperature", 0}, {"ignore_eos", true}, {"images", {{{"width", 2}, {"height", 40}}}}};
  auto prompt = [](uint8_t shade) { return Prompt{"look at this: @ and say", {}, {}, std::vector<uint8_t>(2 * 40 * 3, shade)}; };
  std::vector<int32_t> want = client.run(model, request, prompt(1)).tokens();
  for (uint8_t shade : {2, 3, 4, 5}) {
    client.at_rest("host_kv_saved_bytes");
    client.run(model, request, prompt(shade));
  }
  int before = client.stats()["models"][0]["host_kv_hit_tokens"];
  Answer again = client.run(model, request, prompt(1));
  EXPECT_EQ(again.tokens(), want);
  EXPECT_TRUE(client.shows([&](const Json& stats) { return stats["host_kv_hit_tokens"] > before; }));
}

TEST_F(Schedules, SecondRunFindsThePrefix) {
  Client client;
  uint32_t model = client.load({{"shape", "fake"}});
  Json request = {{"max_tokens", 4}};
  std::string prompt(100, 'p');
  EXPECT_EQ(client.run(model, request, prompt).usage()["cached_tokens"], 0);
  EXPECT_EQ(client.run(model, request, prompt).usage()["cached_tokens"], 96);
  uint32_t off = client.load({{"shape", "fake"}, {"prefix_cache", false}});
  client.run(off, request, prompt);
  EXPECT_EQ(client.run(off, request, prompt).usage()["cached_tokens"], 0);
}

TEST_F(Schedules, DraftsChangeNothingButAreAccepted) {
  Client client;
  uint32_t model = client.load({{"shape", "fake-endless"}});
  // A bias so strong that the text repeats itself.
  Json request = {{"max_tokens", 60}, {"temperature", 0}, {"logit_bias", {{97, 100}}}};
  Answer fast = client.run(model, request, "aaaa");
  request["speculate"] = false;
  Answer slow = client.run(model, request, "aaaa");
  EXPECT_EQ(fast.tokens(), slow.tokens());
  EXPECT_GT(fast.usage()["draft_accepted"].get<int>(), 20);
  EXPECT_EQ(slow.usage()["draft_tokens"], 0);
}

// Right, right in parts, or nonsense: a prediction decides how soon the answer is there, never what it is.
TEST_F(Schedules, PredictionsChangeNothingButAreAccepted) {
  Client client;
  uint32_t model = client.load({{"shape", "fake-endless"}});
  Json letters = Json::array();
  for (int letter = 'a'; letter <= 'z'; ++letter) letters.push_back({letter, 30});
  Json request = {{"max_tokens", 120}, {"temperature", 0}, {"logit_bias", letters}};
  Answer plain = client.run(model, request, "predict this");
  const std::vector<int32_t> want = plain.tokens();
  EXPECT_EQ(plain.usage()["predicted_tokens"], 0);
  auto with = [&](const Json& prediction) {
    request["prediction"] = prediction;
    Answer answer = client.run(model, request, "predict this");
    EXPECT_EQ(answer.tokens(), want) << prediction;
    EXPECT_LE(answer.usage()["predicted_accepted"].get<int>(), answer.usage()["predicted_tokens"].get<int>());
    EXPECT_LE(answer.usage()["predicted_tokens"].get<int>(), answer.usage()["draft_tokens"].get<int>());
    return answer.usage()["predicted_accepted"].get<int>();
  };
  EXPECT_GT(with(want), 100);
  EXPECT_GT(with(plain.text()), 100);
  std::vector<int32_t> changed = want;
  changed[30] = changed[60] = 5;
  changed.erase(changed.begin() + 80, changed.begin() + 84);
  changed.insert(changed.begin() + 95, {7, 8, 9, 10, 11});
  EXPECT_GT(with(changed), 60);
  EXPECT_LT(with(std::vector<int32_t>(200, 3)), 20);
  with("");
  with(std::vector<int32_t>{});
  request["speculate"] = false;
  EXPECT_EQ(with(want), 0);
}

// Options of every kind, over texts that a bias makes repeat themselves, so that proposals are made and some are right.
Json speculated_options(std::mt19937& random) {
  Json r = options_of(random);
  r["max_tokens"] = 20 + random() % 40;
  Json bias = Json::array();
  for (int i = 0; i < 4; ++i) bias.push_back({97 + static_cast<int>(random() % 5), 4 + static_cast<int>(random() % 8)});
  r["logit_bias"] = bias;
  if (random() % 3 == 0) r["presence_penalty"] = 0.7;
  if (random() % 3 == 0) r["frequency_penalty"] = 0.3;
  if (random() % 3 == 0) r["repetition_penalty"] = 1.2;
  if (random() % 3 == 0) r["logprobs"] = true, r["top_logprobs"] = static_cast<int>(random() % 4);
  if (random() % 3 == 0) {
    std::string expected;
    for (int i = random() % 60; i > 0; --i) expected += static_cast<char>('a' + random() % 5);
    r["prediction"] = expected;
  }
  if (random() % 3 == 0) {
    const char* patterns[] = {"[a-e]{8,30}", "(ab|cd|ea)*", "[a-c]*(d[a-e]{3})*e?"};
    r["grammar"] = {{"type", "regex"}, {"spec", patterns[random() % 3]}};
    r.erase("min_tokens");
    r.erase("stop");
  }
  return r;
}

void run_speculation(bool overlap, unsigned seed, int count) {
  hearth_fake_overlap(overlap);
  Client client;
  uint32_t model = client.load({{"shape", "fake-endless"}, {"max_sequences", 4}});
  std::mt19937 random(seed);
  int accepted = 0, accepted_penalised = 0, accepted_grammar = 0;
  for (int i = 0; i < count; ++i) {
    std::vector<Json> requests;
    std::vector<std::string> prompts;
    std::vector<Seen> want;
    std::vector<std::vector<float>> logprobs;
    for (int k = 1 + random() % 3; k > 0; --k) {
      requests.push_back(speculated_options(random));
      prompts.push_back(std::string(1 + random() % 3, 'a') + "bcabcabdeabc");
      Json request = requests.back();
      request["speculate"] = false;
      Answer& answer = client.run(model, request, prompts.back());
      ASSERT_TRUE(answer.finished) << request;
      EXPECT_EQ(answer.usage()["draft_tokens"], 0);
      want.push_back(seen(answer));
      logprobs.emplace_back();
      for (const ClientRecord& record : answer.records)
        if (record.type == HEARTH_RECORD_TOKEN) logprobs.back().push_back(record.logprob);
    }
    std::vector<uint32_t> ids;
    for (size_t k = 0; k < requests.size(); ++k) ids.push_back(client.submit(model, requests[k], prompts[k]));
    for (size_t k = 0; k < ids.size(); ++k) {
      ASSERT_TRUE(client.wait(ids[k])) << client.error << requests[k];
      Answer& answer = client.answers[ids[k]];
      expect_same(seen(answer), want[k], requests[k]);
      if (::testing::Test::HasFatalFailure()) FAIL() << "round " << i << " overlap " << overlap;
      size_t at = 0;
      for (const ClientRecord& record : answer.records) {
        if (record.type != HEARTH_RECORD_TOKEN) continue;
        if (std::isnan(logprobs[k][at])) ASSERT_TRUE(std::isnan(record.logprob));
        else ASSERT_NEAR(record.logprob, logprobs[k][at], 1e-5) << requests[k];
        ++at;
      }
      int right = answer.usage()["draft_accepted"];
      accepted += right;
      if (requests[k].contains("grammar")) accepted_grammar += right;
      if (requests[k].contains("presence_penalty") || requests[k].contains("frequency_penalty")) accepted_penalised += right;
    }
  }
  EXPECT_GT(accepted, 100);
  EXPECT_GT(accepted_penalised, 20);
  EXPECT_GT(accepted_grammar, 20);
}

TEST_F(Schedules, SpeculationChangesNoTokenWhateverTheOptions) { run_speculation(false, 1, 80); }
TEST_F(Schedules, SpeculationChangesNoTokenWithStepsInFlight) { run_speculation(true, 2, 80); }

TEST_F(Schedules, StopStringsAreCutAndNeverShownInPart) {
  Client client;
  uint32_t model = client.load({{"shape", "fake-endless"}});
  Answer whole = client.run(model, {{"max_tokens", 60}, {"temperature", 0}}, "stop test");
  std::string text = whole.text();
  ASSERT_GT(text.size(), 30u);
  size_t ascii = 20;  // a place with three plain characters
  while (ascii + 3 < text.size() && std::any_of(text.begin() + ascii, text.begin() + ascii + 3, [](char c) { return c < 0x20; })) ++ascii;
  std::string stop = text.substr(ascii, 3);
  size_t at = text.find(stop);
  for (bool include : {false, true}) {
    Answer cut = client.run(model, {{"max_tokens", 60}, {"temperature", 0}, {"stop", {stop}}, {"include_stop", include}}, "stop test");
    EXPECT_EQ(cut.text(), text.substr(0, at + (include ? 3 : 0)));
    EXPECT_EQ(cut.end().reason, HEARTH_FINISH_STOP);
    EXPECT_EQ(cut.usage()["stop"], stop);
  }
}

TEST_F(Schedules, StopTokensAndTheModelsEndTokens) {
  Client client;
  uint32_t model = client.load({{"shape", "fake"}});
  Json request = {{"max_tokens", 30}, {"temperature", 0}, {"ignore_eos", true}};
  Answer whole = client.run(model, request, "abc");
  int32_t third = whole.tokens()[2];
  request["stop_tokens"] = {third};
  Answer cut = client.run(model, request, "abc");
  EXPECT_EQ(cut.end().reason, HEARTH_FINISH_STOP);
  EXPECT_EQ(cut.usage()["stop"], third);
  EXPECT_LE(cut.tokens().size(), 3u);
  EXPECT_EQ(cut.tokens().back(), third);
  EXPECT_EQ(cut.records[cut.records.size() - 2].flags & 1, 1);
  request["min_tokens"] = 10;
  EXPECT_GE(client.run(model, request, "abc").tokens().size(), 10u);
  Json biased = {{"max_tokens", 30}, {"temperature", 0}, {"logit_bias", {{0, 100}}}};
  Answer ended = client.run(model, biased, "abc");
  EXPECT_EQ(ended.tokens(), std::vector<int32_t>{0});
  EXPECT_EQ(ended.end().reason, HEARTH_FINISH_STOP);
  EXPECT_EQ(ended.text(), "");
}

TEST_F(Schedules, LogProbabilitiesAreThoseOfTheDrawnAndTheBest) {
  Client client;
  uint32_t model = client.load({{"shape", "fake"}});
  Answer a = client.run(model, {{"max_tokens", 5}, {"temperature", 0}, {"logprobs", true}, {"top_logprobs", 5}}, "logs");
  for (const ClientRecord& r : a.records) {
    if (r.type != HEARTH_RECORD_TOKEN) continue;
    ASSERT_EQ(r.top.size(), 5u);
    EXPECT_EQ(r.top[0].token, r.token);
    EXPECT_FLOAT_EQ(r.top[0].logprob, r.logprob);
    EXPECT_EQ(r.top[0].bytes, r.bytes);
    for (size_t i = 1; i < 5; ++i) EXPECT_GE(r.top[i - 1].logprob, r.top[i].logprob);
    EXPECT_LT(r.logprob, 0);
  }
}

TEST_F(Schedules, ScoringGivesEveryPromptToken) {
  Client client;
  uint32_t model = client.load({{"shape", "fake"}, {"prefill_chunk", 16}});
  std::string prompt = "the quick brown fox jumps over the lazy dog, twice";
  Answer score = client.run(model, {{"kind", "score"}, {"prompt_logprobs", true}, {"top_logprobs", 2}}, prompt);
  EXPECT_EQ(score.end().reason, HEARTH_FINISH_DONE);
  ASSERT_EQ(score.count(HEARTH_RECORD_PROMPT), static_cast<int>(prompt.size()));
  EXPECT_EQ(score.count(HEARTH_RECORD_TOKEN), 0);
  uint32_t next = 0;
  for (const ClientRecord& r : score.records) {
    if (r.type != HEARTH_RECORD_PROMPT) continue;
    EXPECT_EQ(r.index, next);
    EXPECT_EQ(r.token, prompt[next]);
    EXPECT_EQ(std::isnan(r.logprob), next == 0);
    EXPECT_EQ(r.top.size(), next == 0 ? 0u : 2u);
    ++next;
  }
  Answer again = client.run(model, {{"kind", "score"}}, prompt);  // now its blocks are cached, and must not be used
  EXPECT_EQ(again.count(HEARTH_RECORD_PROMPT), static_cast<int>(prompt.size()));
  Answer echo = client.run(model, {{"prompt_logprobs", true}, {"max_tokens", 3}}, prompt);
  EXPECT_EQ(echo.count(HEARTH_RECORD_PROMPT), static_cast<int>(prompt.size()));
  EXPECT_EQ(echo.count(HEARTH_RECORD_TOKEN), 3);
  Answer single = client.run(model, {{"kind", "score"}}, "x");
  EXPECT_EQ(single.count(HEARTH_RECORD_PROMPT), 1);
}

TEST_F(Schedules, EmbeddingsPoolNormaliseAndCut) {
  Client client;
  uint32_t model = client.load({{"shape", "fake"}, {"prefill_chunk", 16}});
  std::string prompt(50, 'e');
  Answer mean = client.run(model, {{"kind", "embed"}}, prompt);
  ASSERT_EQ(mean.count(HEARTH_RECORD_EMBEDDING), 1);
  EXPECT_EQ(mean.end().reason, HEARTH_FINISH_DONE);
  const std::vector<float>& values = mean.records[1].values;
  ASSERT_EQ(values.size(), 8u);
  float norm = 0;
  for (float v : values) norm += v * v;
  EXPECT_NEAR(norm, 1, 1e-5);
  Answer last = client.run(model, {{"kind", "embed"}, {"pooling", "last"}, {"normalize", false}}, prompt);
  Answer cut = client.run(model, {{"kind", "embed"}, {"dimensions", 3}}, prompt);
  EXPECT_NE(last.records[1].values, values);
  ASSERT_EQ(cut.records[1].values.size(), 3u);
  for (int i = 0; i < 3; ++i) EXPECT_NEAR(cut.records[1].values[i] / cut.records[1].values[0], values[i] / values[0], 1e-4);
  hearth_fake_preempt_every(2);
  Answer preempted = client.run(model, {{"kind", "embed"}}, prompt);
  EXPECT_EQ(preempted.records[1].values, values);
}

TEST_F(Schedules, ImagesAreExpandedEncodedOnceAndPartOfThePrefix) {
  for (const char* shape : {"fake-vision", "fake-vision-3d"}) {
    Client client;
    uint32_t model = client.load({{"shape", shape}, {"prefill_chunk", 16}});
    auto prompt = [](uint8_t shade, const std::string& tail) {
      Prompt p{"look: @ and @" + tail, {}, {}, std::vector<uint8_t>(2 * 20 * 3 + 1 * 9 * 3, shade)};
      return p;
    };
    Json request = {{"max_tokens", 8}, {"temperature", 0}, {"ignore_eos", true},
                    {"images", {{{"width", 2}, {"height", 20}}, {{"width", 1}, {"height", 9}}}}};
    int before = hearth_fake_encoded();
    Answer first = client.run(model, request, prompt(1, "?"));
    ASSERT_EQ(first.end().reason, HEARTH_FINISH_LENGTH) << first.end().bytes;
    EXPECT_EQ(first.usage()["image_tokens"], 29);
    EXPECT_EQ(first.usage()["prompt_tokens"], 11 + 4 + 1 + 29);
    EXPECT_EQ(hearth_fake_encoded() - before, 2);
    Answer again = client.run(model, request, prompt(1, "?"));
    EXPECT_EQ(again.tokens(), first.tokens());
    EXPECT_EQ(hearth_fake_encoded() - before, 2);
    EXPECT_EQ(again.usage()["cached_tokens"], 32);
    Answer other = client.run(model, request, prompt(2, "?"));
    EXPECT_EQ(other.usage()["cached_tokens"], 0);
    EXPECT_NE(other.tokens(), first.tokens());
    hearth_fake_preempt_every(3);
    EXPECT_EQ(client.run(model, request, prompt(1, "?")).tokens(), first.tokens());
    hearth_fake_preempt_every(0);
    // Wrong counts, sizes and places.
    Answer missing = client.run(model, request, Prompt{"only @", {}, {}, prompt(1, "").pixels});
    EXPECT_EQ(missing.usage()["error"]["status"], HEARTH_INVALID);
    EXPECT_EQ(client.submit(model, request, Prompt{"@ @", {}, {}, {1, 2, 3}}), 0u);
    Json wide = {{"images", {{{"width", 65}, {"height", 1}}}}};
    EXPECT_EQ(client.run(model, wide, Prompt{"@", {}, {}, std::vector<uint8_t>(195)}).usage()["error"]["status"], HEARTH_INVALID);
    Json large = {{"images", {{{"width", 1}, {"height", 100}}}}};
    EXPECT_EQ(client.run(model, large, Prompt{"@", {}, {}, std::vector<uint8_t>(300)}).usage()["error"]["status"], HEARTH_OUT_OF_MEMORY);
  }
}

TEST_F(Schedules, TheStepPathAllocatesNothing) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers bring their own operator new, so nothing is counted";
#endif
  Client client;
  uint32_t model = client.load({{"shape", "fake"}});
  std::vector<uint32_t> ids;
  for (int i = 0; i < 20; ++i)
    ids.push_back(client.submit(model, {{"max_tokens", 30}, {"ignore_eos", true}, {"logprobs", true}, {"top_logprobs", 5},
                                        {"temperature", 1.0}, {"stop", {"never seen"}}},
                                "request " + std::to_string(i)));
  for (uint32_t id : ids) ASSERT_TRUE(client.wait(id));
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  EXPECT_EQ(client.stats()["allocations_on_step"], 0);
}
