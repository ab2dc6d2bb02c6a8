#include "scheduler/scheduler.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>

using namespace hearth;
using scheduler::Limits;
using scheduler::Place;
using scheduler::Scheduler;
using scheduler::Sequence;
using scheduler::Share;

namespace {

Sequence sequence(uint32_t id, int prompt, uint64_t salt = 0) {
  Sequence s;
  s.id = id;
  s.arrival = id;
  s.keys.reserve(4096);
  for (int i = 0; i < prompt; ++i) s.keys.push_back(kv::key_of_token(static_cast<int>(salt * 7919 + i)));
  return s;
}

// Gives every drawing share one token; returns rows planned.
int run_step(Scheduler& scheduler) {
  int rows = 0;
  auto plan = scheduler.plan();
  for (const Share& share : plan) rows += share.count;
  for (const Share& share : plan) {
    kv::ContentKey key = 1000 + share.sequence->keys.size();
    if (share.draws) scheduler.resolve(*share.sequence, std::span(&key, 1));
    else scheduler.publish(*share.sequence);
  }
  return rows;
}

const Share* share_of(std::span<const Share> plan, const Sequence& s) {
  for (const Share& share : plan)
    if (share.sequence == &s) return &share;
  return nullptr;
}

}  // namespace

TEST(Scheduler, DecodesComeFirstAndPrefillGetsTheRest) {
  kv::BlockPool pool(64, true);
  Scheduler scheduler({4, 32, 8}, pool, 16);
  Sequence a = sequence(1, 8, 1), b = sequence(2, 100, 2);
  scheduler.add(a);
  run_step(scheduler);
  EXPECT_EQ(a.length(), 9);
  scheduler.add(b);
  auto plan = scheduler.plan();
  ASSERT_EQ(plan.size(), 2u);
  EXPECT_EQ(plan[0].sequence, &a);
  EXPECT_EQ(plan[0].count, 1);
  EXPECT_EQ(plan[1].count, 31);
  EXPECT_FALSE(plan[1].draws);
  EXPECT_EQ(a.pending, 1);
}

TEST(Scheduler, ShortPromptsAreNotHeldUpByLongOnes) {
  kv::BlockPool pool(256, true);
  Scheduler scheduler({8, 64, 8}, pool, 16);
  Sequence longest = sequence(1, 2000, 1), little = sequence(2, 10, 2), other = sequence(3, 500, 3);
  scheduler.add(longest);
  scheduler.add(little);
  scheduler.add(other);
  auto plan = scheduler.plan();
  EXPECT_EQ(share_of(plan, little)->count, 10);
  EXPECT_EQ(share_of(plan, other)->count, 27);
  EXPECT_EQ(share_of(plan, longest)->count, 27);
}

TEST(Scheduler, PriorityGoesBeforeFairness) {
  kv::BlockPool pool(256, true);
  Scheduler scheduler({8, 64, 8}, pool, 16);
  Sequence low = sequence(1, 50, 1), high = sequence(2, 60, 2);
  high.priority = 5;
  scheduler.add(low);
  scheduler.add(high);
  auto plan = scheduler.plan();
  EXPECT_EQ(share_of(plan, high)->count, 60);
  EXPECT_EQ(share_of(plan, low)->count, 4);
}

TEST(Scheduler, AdmissionIsByBlocksAndTheHeadIsNotOvertaken) {
  kv::BlockPool pool(10, true);
  Scheduler scheduler({8, 64, 8}, pool, 16);
  Sequence a = sequence(1, 100, 1), big = sequence(2, 100, 2), tiny = sequence(3, 4, 3);
  for (Sequence* s : {&a, &big, &tiny}) scheduler.add(*s);
  scheduler.plan();
  EXPECT_EQ(a.place, Place::running);
  EXPECT_EQ(big.place, Place::waiting);
  EXPECT_EQ(tiny.place, Place::waiting);
  scheduler.remove(a);
  EXPECT_EQ(pool.available(), 10);
  scheduler.plan();
  EXPECT_EQ(big.place, Place::running);
}

TEST(Scheduler, DecodesCanBeHeldWhilePromptsGoOn) {
  kv::BlockPool pool(64, true);
  Scheduler scheduler({4, 64, 8}, pool, 16);
  Sequence a = sequence(1, 10, 1), b = sequence(2, 20, 2);
  scheduler.add(a);
  run_step(scheduler);
  int computed = a.computed;
  scheduler.add(b);
  auto shares = scheduler.plan(INT64_MAX, true);
  ASSERT_EQ(shares.size(), 1u);
  EXPECT_EQ(shares[0].sequence, &b);
  EXPECT_EQ(a.computed, computed);
  for (const Share& share : shares)
    if (share.draws) scheduler.resolve(*share.sequence, std::vector<kv::ContentKey>{1});
  EXPECT_EQ(scheduler.plan(INT64_MAX, true).size(), 0u);
  EXPECT_EQ(scheduler.plan().size(), 2u);
  scheduler.remove(a);
  scheduler.remove(b);
}

// A queue that never empties, prompts and answers of very different lengths: of the pool's places for tokens, at least
// 96 % hold one on average, and recomputing after preemptions stays a small part of the work.
TEST(Scheduler, ThePoolIsFullOfTokensUnderMixedLengths) {
  for (unsigned seed = 1; seed <= 4; ++seed) {
    std::mt19937 random(seed);
    constexpr int blocks = 4096, steps = 6000;
    kv::BlockPool pool(blocks, true);
    Scheduler scheduler({256, 1024, 256}, pool, 512);
    std::vector<std::unique_ptr<Sequence>> live;
    uint32_t next = 1;
    double held = 0, rows = 0, wanted = 0;
    int measured = 0;
    for (int step = 0; step < steps; ++step) {
      while (scheduler.waiting() < 8) {
        live.push_back(std::make_unique<Sequence>(sequence(next, 20 + random() % 1500, next)));
        live.back()->goal = live.back()->length() + 20 + static_cast<int>(random() % 600);
        wanted += live.back()->goal;
        scheduler.add(*live.back());
        ++next;
      }
      rows += run_step(scheduler);
      for (size_t i = 0; i < live.size();) {
        if (live[i]->length() < live[i]->goal) { ++i; continue; }
        scheduler.remove(*live[i]);
        live.erase(live.begin() + i);
      }
      if (step < steps / 3) continue;
      int64_t tokens = 0;
      for (const Sequence* s : scheduler.running()) tokens += s->length();
      held += static_cast<double>(tokens) / (blocks * kv::block_tokens);
      ++measured;
    }
    for (auto& one : live) wanted -= one->goal - one->computed, scheduler.remove(*one);
    EXPECT_GE(held / measured, 0.96) << "seed " << seed;
    EXPECT_LE(rows, wanted * 1.10) << "seed " << seed;
    EXPECT_EQ(pool.available(), blocks);
  }
}

TEST(Scheduler, OutOfBlocksPreemptsTheYoungestAndRecomputesIt) {
  kv::BlockPool pool(4, true);
  Scheduler scheduler({4, 64, 8}, pool, 16);
  Sequence a = sequence(1, 15, 1), b = sequence(2, 15, 2);
  scheduler.add(a);
  scheduler.add(b);
  int guard = 0;
  while (scheduler.preemptions() == 0 && ++guard < 200) run_step(scheduler);
  ASSERT_EQ(scheduler.preemptions(), 1u);
  EXPECT_EQ(b.place, Place::waiting);
  EXPECT_EQ(b.computed, 0);
  int known = b.length();
  EXPECT_EQ(a.place, Place::running);
  scheduler.remove(a);
  scheduler.plan();
  EXPECT_EQ(b.place, Place::running);
  EXPECT_EQ(b.computed, known);  // its whole text again, in one step
  scheduler.remove(b);
  EXPECT_EQ(pool.available(), 4);
}

TEST(Scheduler, PrefixHitsAreSkippedButOneTokenIsAlwaysComputed) {
  kv::BlockPool pool(64, true);
  Scheduler scheduler({4, 64, 8}, pool, 16);
  Sequence a = sequence(1, 32, 1);
  scheduler.add(a);
  run_step(scheduler);
  Sequence b = sequence(2, 32, 1);
  scheduler.add(b);
  auto plan = scheduler.plan();
  EXPECT_EQ(b.cached, 16);
  EXPECT_EQ(share_of(plan, b)->start, 16);
  EXPECT_EQ(share_of(plan, b)->count, 16);
  EXPECT_TRUE(share_of(plan, b)->draws);
  EXPECT_EQ(a.blocks[0], b.blocks[0]);
}

TEST(Scheduler, WantedLogitsLimitTheChunkAndForbidReuse) {
  kv::BlockPool pool(64, true);
  Scheduler scheduler({4, 64, 10}, pool, 16);
  Sequence a = sequence(1, 32, 1);
  scheduler.add(a);
  run_step(scheduler);
  scheduler.remove(a);
  Sequence scored = sequence(2, 32, 1);
  scored.logits_end = 31;
  scored.draws = false;
  scheduler.add(scored);
  auto plan = scheduler.plan();
  EXPECT_EQ(scored.cached, 0);
  EXPECT_EQ(share_of(plan, scored)->count, 10);
  int rows = 10;
  while (scored.computed < 32) rows += run_step(scheduler);
  EXPECT_EQ(rows, 32);
}

TEST(Scheduler, HiddenAndLogitStepsAlternate) {
  kv::BlockPool pool(64, true);
  Scheduler scheduler({4, 8, 8}, pool, 16);
  Sequence text = sequence(1, 40, 1), embedding = sequence(2, 40, 2);
  embedding.hidden = true;
  embedding.draws = false;
  embedding.logits_begin = 39;
  embedding.logits_end = 40;
  scheduler.add(text);
  scheduler.add(embedding);
  int hidden = 0, logits = 0;
  for (int i = 0; i < 8; ++i) {
    auto plan = scheduler.plan();
    for (const Share& share : plan) EXPECT_EQ(share.sequence->hidden, scheduler.plan_is_hidden());
    (scheduler.plan_is_hidden() ? hidden : logits) += static_cast<int>(plan.size());
  }
  EXPECT_EQ(hidden, 4);
  EXPECT_EQ(logits, 4);
}

TEST(Scheduler, RowsBehindAnUnreadyImageWait) {
  kv::BlockPool pool(64, true);
  Scheduler scheduler({4, 64, 8}, pool, 16);
  Sequence s = sequence(1, 40, 1);
  s.ready = 7;
  scheduler.add(s);
  EXPECT_EQ(share_of(scheduler.plan(), s)->count, 7);
  EXPECT_TRUE(scheduler.plan().empty());
  s.ready = INT_MAX;
  EXPECT_EQ(share_of(scheduler.plan(), s)->count, 33);
}

TEST(Scheduler, DraftsTakeLeftOverRowsAndResolveCountsThem) {
  kv::BlockPool pool(64, true);
  Scheduler scheduler({4, 64, 8}, pool, 16);
  Sequence s = sequence(1, 14, 1);
  scheduler.add(s);
  run_step(scheduler);
  s.drafts = 5;
  auto plan = scheduler.plan();
  ASSERT_EQ(plan.size(), 1u);
  EXPECT_EQ(plan[0].count, 6);
  EXPECT_EQ(plan[0].drafts, 5);
  EXPECT_EQ(s.blocks.size(), 2u);
  kv::ContentKey drawn[] = {1, 2, 3};  // two drafts accepted
  scheduler.resolve(s, drawn);
  EXPECT_EQ(s.length(), 18);
  EXPECT_EQ(s.computed, 17);
  EXPECT_EQ(s.published, 1);
}

TEST(Scheduler, OutputBudgetSkipsWhatCouldNotBePublished) {
  kv::BlockPool pool(64, true);
  Scheduler scheduler({4, 64, 8}, pool, 16);
  Sequence a = sequence(1, 8, 1), b = sequence(2, 8, 2);
  for (Sequence* s : {&a, &b}) {
    s->share_bytes = 100;
    s->row_bytes = 50;
    scheduler.add(*s);
  }
  EXPECT_TRUE(scheduler.plan(149).empty());
  EXPECT_EQ(scheduler.plan(299).size(), 1u);
  EXPECT_EQ(scheduler.plan(150).size(), 1u);
}

// With a step in flight whose tokens are not known, the next one can be planned on top of it.
TEST(Scheduler, PlansBehindAStepInFlight) {
  kv::BlockPool pool(64, true);
  Scheduler scheduler({4, 64, 8}, pool, 16);
  Sequence s = sequence(1, 15, 1);
  s.goal = 17;
  scheduler.add(s);
  EXPECT_EQ(scheduler.plan()[0].count, 15);
  auto second = scheduler.plan();
  ASSERT_EQ(second.size(), 1u);
  EXPECT_EQ(second[0].start, 15);
  EXPECT_EQ(s.pending, 2);
  EXPECT_TRUE(scheduler.plan().empty());  // 17 tokens will be there: the goal
  kv::ContentKey key = 5;
  scheduler.resolve(s, std::span(&key, 1));
  EXPECT_EQ(s.published, 1);
  scheduler.resolve(s, std::span(&key, 1));
  EXPECT_EQ(s.length(), 17);
  EXPECT_EQ(s.pending, 0);
}

// Random arrivals, lengths, cancels and preemptions: no step over its limits, every sequence ends, every block returns,
// and rows of a sequence are computed in order without a hole.
TEST(Scheduler, RandomLoadKeepsEveryInvariant) {
  for (unsigned seed = 1; seed <= 200; ++seed) {
    std::mt19937 random(seed);
    int blocks = 8 + random() % 40;
    kv::BlockPool pool(blocks, random() % 4 != 0);
    Limits limits{1 + static_cast<int>(random() % 8), 8 + static_cast<int>(random() % 60), 8};
    Scheduler scheduler(limits, pool, 64);
    struct Live { Sequence s; int goal; };
    std::map<uint32_t, std::unique_ptr<Live>> live;
    uint32_t next = 1;
    int to_come = 20, steps = 0;
    while ((to_come > 0 || !live.empty()) && ++steps < 20000) {
      if (to_come > 0 && random() % 3 == 0) {
        int room = blocks * kv::block_tokens;
        int prompt = 1 + random() % (room / 2), made = 1 + random() % (room - prompt);
        auto one = std::make_unique<Live>(Live{sequence(next, prompt, random() % 3), prompt + std::min(made, 40)});
        one->s.priority = static_cast<int>(random() % 2);
        scheduler.add(one->s);
        live[next++] = std::move(one);
        --to_come;
      }
      if (random() % 17 == 0) scheduler.preempt_youngest();
      if (!live.empty() && random() % 23 == 0) {
        auto at = std::next(live.begin(), random() % live.size());
        scheduler.remove(at->second->s);
        live.erase(at);
      }
      auto plan = scheduler.plan();
      int rows = 0, drawing = 0;
      std::vector<uint32_t> done;
      for (const Share& share : plan) {
        Sequence& s = *share.sequence;
        rows += share.count;
        drawing += share.draws;
        ASSERT_GT(share.count, 0);
        ASSERT_EQ(s.computed, share.start + share.count);
        ASSERT_GE(static_cast<int>(s.blocks.size()) * kv::block_tokens, s.computed);
        ASSERT_EQ(share.draws, s.computed == s.length() - 1 && s.pending == 1);
      }
      ASSERT_LE(rows, limits.step_tokens);
      ASSERT_LE(drawing, limits.max_logit_rows);
      ASSERT_TRUE(!plan.empty() || live.empty() || scheduler.preemptions() > 0) << "seed " << seed;
      for (const Share& share : plan) {
        kv::ContentKey key = random() % 5;
        if (share.draws) scheduler.resolve(*share.sequence, std::span(&key, 1));
        else scheduler.publish(*share.sequence);
        if (share.sequence->length() >= live[share.sequence->id]->goal) done.push_back(share.sequence->id);
      }
      for (uint32_t id : done) {
        scheduler.remove(live[id]->s);
        live.erase(id);
      }
    }
    ASSERT_TRUE(live.empty()) << "seed " << seed;
    ASSERT_EQ(pool.available(), blocks) << "seed " << seed;
    ASSERT_TRUE(scheduler.idle());
  }
}
