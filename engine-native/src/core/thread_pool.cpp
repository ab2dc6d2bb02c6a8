#include "core/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <thread>
#include <vector>

#include "core/futex.h"

namespace hearth {
namespace {

// About 50 us of pauses: longer than the gap between two ops of a step, short enough to leave an idle machine idle.
constexpr int spin_limit = 4000;

std::vector<int> usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  }
  return cores;
}

void pin_thread(pthread_t thread, int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  pthread_setaffinity_np(thread, sizeof(set), &set);  // a hint: failing to pin costs speed, not correctness
}

// A word that changes, and the number of threads asleep on it. The increment before the re-check and the change before
// the reading of `sleepers` are sequentially consistent, so one of the two sides always sees the other.
struct Signal {
  alignas(64) std::atomic<uint32_t> word{0};
  std::atomic<uint32_t> sleepers{0};

  void raise() {
    word.fetch_add(1, std::memory_order_seq_cst);
    if (sleepers.load(std::memory_order_seq_cst) != 0) futex_wake_all(word);
  }
  void wait_while(uint32_t seen) {
    for (int i = 0; i < spin_limit; ++i) {
      if (word.load(std::memory_order_acquire) != seen) return;
      cpu_relax();
    }
    sleepers.fetch_add(1, std::memory_order_seq_cst);
    while (word.load(std::memory_order_seq_cst) == seen) futex_wait(word, seen);
    sleepers.fetch_sub(1, std::memory_order_relaxed);
  }
};

}  // namespace

struct ThreadPool::State {
  Signal start;                                  // raised once per run
  Signal done;                                   // raised by the last worker of a run
  Signal gate;                                   // raised by the last worker at a barrier
  alignas(64) std::atomic<int> running{0};       // workers still in the body
  alignas(64) std::atomic<int> at_barrier{0};
  Function function = nullptr;
  void* argument = nullptr;
  bool stop = false;
  std::vector<int> cores;
  std::vector<std::thread> threads;

  void work(int worker, int size) {
    uint32_t seen = 0;
    for (;;) {
      start.wait_while(seen);
      seen = start.word.load(std::memory_order_acquire);
      if (stop) return;
      function(argument, worker, size);
      if (running.fetch_sub(1, std::memory_order_acq_rel) == 1) done.raise();
    }
  }
};

ThreadPool::ThreadPool(int threads, bool pin) : size_(threads < 1 ? 1 : threads), state_(std::make_unique<State>()) {
  if (pin) state_->cores = usable_cores();
  const auto& cores = state_->cores;
  for (int worker = 1; worker < size_; ++worker) {
    state_->threads.emplace_back([this, worker] { state_->work(worker, size_); });
    if (!cores.empty() && size_ <= static_cast<int>(cores.size())) {
      pin_thread(state_->threads.back().native_handle(), cores[worker]);
    }
  }
}

ThreadPool::~ThreadPool() {
  state_->stop = true;
  state_->start.raise();
  for (auto& thread : state_->threads) thread.join();
}

void ThreadPool::pin_caller() const {
  const auto& cores = state_->cores;
  if (size_ > 1 && size_ <= static_cast<int>(cores.size())) pin_thread(pthread_self(), cores[0]);
}

void ThreadPool::run(Function function, void* argument) {
  synchronisations_.fetch_add(1, std::memory_order_relaxed);
  if (size_ == 1) return function(argument, 0, 1);
  State& s = *state_;
  s.function = function;
  s.argument = argument;
  const uint32_t seen = s.done.word.load(std::memory_order_acquire);
  s.running.store(size_ - 1, std::memory_order_relaxed);
  s.start.raise();
  function(argument, 0, size_);
  s.done.wait_while(seen);
}

void ThreadPool::barrier() {
  if (size_ == 1) return;
  State& s = *state_;
  const uint32_t seen = s.gate.word.load(std::memory_order_acquire);
  if (s.at_barrier.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
    synchronisations_.fetch_add(1, std::memory_order_relaxed);
    s.at_barrier.store(0, std::memory_order_relaxed);
    s.gate.raise();
  } else {
    s.gate.wait_while(seen);
  }
}

}  // namespace hearth
