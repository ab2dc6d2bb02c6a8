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
