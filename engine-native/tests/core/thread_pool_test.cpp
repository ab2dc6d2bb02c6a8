#include "core/thread_pool.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <vector>

namespace hearth {
namespace {

TEST(ThreadPool, RunsEveryWorkerOnceAndReturnsWhenAllAreDone) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 2000; ++round) {
      std::vector<int> seen(threads, 0);
      pool.parallel([&](int worker, int size) {
        ASSERT_EQ(size, threads);
        ++seen[worker];
      });
      for (int count : seen) ASSERT_EQ(count, 1);
    }
    EXPECT_EQ(pool.synchronisations(), 2000u);
  }
}

TEST(ThreadPool, BarrierSeparatesPhases) {
  ThreadPool pool(4);
  std::atomic<int> arrived{0};
  for (int round = 0; round < 500; ++round) {
    arrived = 0;
    std::atomic<int> wrong{0};
    pool.parallel([&](int, int size) {
      for (int phase = 1; phase <= 3; ++phase) {
        arrived.fetch_add(1);
        pool.barrier();
        if (arrived.load() < phase * size) wrong.fetch_add(1);
        pool.barrier();
      }
    });
    ASSERT_EQ(wrong.load(), 0);
  }
}

TEST(ThreadPool, DealsEverythingOnceInWholeSteps) {
  for (int threads : {1, 2, 3, 7}) {
    ThreadPool pool(threads);
    for (int count : {0, 1, 2, 5, 16, 97, 1000}) {
      for (int step : {1, 4, 300}) {
        std::vector<std::atomic<int>> seen(count), again(count);
        // Two deals without a barrier between them: a worker may be at the second while others are at the first.
        pool.parallel([&](int worker, int) {
          pool.deal(worker, count, step, [&](int begin, int end) {
            EXPECT_EQ(begin % step, 0);
            EXPECT_TRUE(end % step == 0 || end == count);
            for (int i = begin; i < end; ++i) seen[i].fetch_add(1);
          });
          pool.deal(worker, count, 1, [&](int begin, int end) {
            for (int i = begin; i < end; ++i) again[i].fetch_add(1);
          });
        });
        for (int i = 0; i < count; ++i) ASSERT_TRUE(seen[i] == 1 && again[i] == 1) << count << " by " << step << " at " << i;
      }
    }
  }
}

// Each waits in turn until everything but its own piece is done, which it can only be if the others take the rest of its share.
TEST(ThreadPool, OthersTakeTheShareOfWhoeverIsBehind) {
  for (int threads : {2, 5}) {
    ThreadPool pool(threads);
    for (int slow = 0; slow < threads; ++slow) {
      std::atomic<int> done{0}, turns{0};
      constexpr int count = 1000;
      pool.parallel([&](int worker, int) {
        const bool waits = worker == slow;
        int first = waits ? 1 : 0;
        pool.deal(worker, count, 1, [&](int begin, int end) {
          const int mine = end - begin;
          while (first == 1 && done.load() < count - mine) std::this_thread::yield();
          first = 0;
          done.fetch_add(mine);
        });
        pool.barrier();
        ThreadPool::Turns own(pool, worker);
        for (int item = 0; item < count; ++item) {
          if (!own.take(item)) continue;
          while (waits && turns.load() < count - 1) std::this_thread::yield();
          turns.fetch_add(1);
        }
      });
      ASSERT_EQ(done.load(), count);
      ASSERT_EQ(turns.load(), count);
    }
  }
}

TEST(ThreadPool, WakesWorkersThatFellAsleep) {
  ThreadPool pool(3);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::atomic<int> ran{0};
    pool.parallel([&](int worker, int) {
      if (worker == 1) std::this_thread::sleep_for(std::chrono::milliseconds(10));  // the caller sleeps as well
      ran.fetch_add(1);
    });
    ASSERT_EQ(ran.load(), 3);
  }
}

// Regions with and without the reserve in turn: who was away for many deals must not take what is done, nor leave what is not.
TEST(ThreadPool, TheReserveTakesPartWhenCalled) {
  for (int threads : {1, 2, 3}) {
    ThreadPool pool(threads, {}, 2);
    EXPECT_EQ(pool.size_max(), threads + 2);
    for (int round = 0; round < 400; ++round) {
      const bool all = round % 7 == 3 || round % 5 == 1;
      pool.use_reserve(all);
      ASSERT_EQ(pool.size(), all ? threads + 2 : threads);
      if (round % 50 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));  // some fell asleep
      constexpr int count = 97;
      std::vector<std::atomic<int>> seen(count), turns(count);
      std::atomic<int> workers{0}, early{0};
      pool.parallel([&](int worker, int size) {
        EXPECT_EQ(size, pool.size());
        EXPECT_LT(worker, size);
        workers.fetch_add(1);
        pool.barrier();
        if (workers.load() != size) early.fetch_add(1);
        for (int deal = 0; deal < 3; ++deal)
          pool.deal(worker, count, 2, [&](int begin, int end) {
            for (int i = begin; i < end; ++i) seen[i].fetch_add(1);
          });
        ThreadPool::Turns own(pool, worker);
        for (int item = 0; item < count; ++item)
          if (own.take(item)) turns[item].fetch_add(1);
      });
      ASSERT_EQ(workers.load(), pool.size());
      ASSERT_EQ(early.load(), 0);
      for (int i = 0; i < count; ++i) ASSERT_TRUE(seen[i] == 3 && turns[i] == 1) << "round " << round << " item " << i << ": " << seen[i] << ", " << turns[i];
    }
  }
}

TEST(ThreadPool, MayBeDrivenFromDifferentThreadsInTurn) {
  ThreadPool pool(2);
  for (int round = 0; round < 10; ++round) {
    std::thread([&] {
      int sum = 0;
      pool.parallel([&](int worker, int) { if (worker == 0) sum = 1; });
      EXPECT_EQ(sum, 1);
    }).join();
  }
}

}  // namespace
}  // namespace hearth
