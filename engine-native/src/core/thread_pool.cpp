#include "core/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <climits>
#include <thread>
#include <utility>

#include "core/futex.h"

namespace hearth {
namespace {

// About 50 us of pauses: longer than the gap between two ops of a step, short enough to leave an idle machine idle.
constexpr int spin_limit = 4000;

void pin_thread(pthread_t thread, int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
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

// How much is taken in a deal: a word with the deal's number in its upper half, so that nobody has to put it back, and a worker
// that has not come yet is taken from as well.
uint64_t taken_word(uint32_t deal, int64_t taken) { return static_cast<uint64_t>(deal) << 32 | static_cast<uint32_t>(taken); }

// `all` where the word is of a later deal: whoever is there found everything of this one taken.
int64_t taken_of(uint64_t word, uint32_t deal, int64_t all) {
  const auto ahead = static_cast<int32_t>(static_cast<uint32_t>(word >> 32) - deal);
  return ahead > 0 ? all : ahead < 0 ? 0 : static_cast<uint32_t>(word);
}

struct alignas(64) Share {
  std::atomic<uint64_t> taken{0};
  uint32_t deals = 0;  // the worker's own
};

}  // namespace

struct ThreadPool::State {
  Signal start;                                  // raised once per run
  Signal start_reserve;                          // raised once per run that the reserve takes part in
  Signal done;                                   // raised by the last worker of a run
  Signal gate;                                   // raised by the last worker at a barrier
  alignas(64) std::atomic<int> running{0};       // workers still in the body
  alignas(64) std::atomic<int> at_barrier{0};
  Function function = nullptr;
  void* argument = nullptr;
  int size = 1;  // of the run
  bool stop = false;
  std::vector<int> cpus;  // none: not pinned
  std::vector<Share> shares;
  alignas(64) std::atomic<uint64_t> turns{0};  // taken, of Turns
  std::vector<std::thread> threads;

  void work(int worker, Signal& called) {
    uint32_t seen = 0;
    for (;;) {
      called.wait_while(seen);
      seen = called.word.load(std::memory_order_acquire);
      if (stop) return;
      function(argument, worker, size);
      if (running.fetch_sub(1, std::memory_order_acq_rel) == 1) done.raise();
    }
  }
};

ThreadPool::ThreadPool(int threads, std::vector<int> cpus, int reserve)
    : base_(threads < 1 ? 1 : threads), reserve_(reserve < 0 ? 0 : reserve), size_(base_), state_(std::make_unique<State>()) {
  if (static_cast<size_t>(size_max()) <= cpus.size()) state_->cpus = std::move(cpus);
  state_->shares = std::vector<Share>(size_max());
  for (int worker = 1; worker < size_max(); ++worker) {
    Signal& called = worker < base_ ? state_->start : state_->start_reserve;
    state_->threads.emplace_back([this, worker, &called] { state_->work(worker, called); });
    if (!state_->cpus.empty()) pin_thread(state_->threads.back().native_handle(), state_->cpus[worker]);
  }
}

ThreadPool::~ThreadPool() {
  state_->stop = true;
  state_->start.raise();
  state_->start_reserve.raise();
  for (auto& thread : state_->threads) thread.join();
}

void ThreadPool::pin_caller() const {
  if (size_max() > 1 && !state_->cpus.empty()) pin_thread(pthread_self(), state_->cpus[0]);
}

// Who was not there for some deals goes on with the number that all others have reached: an old one would be taken for a
// later deal's after two thousand million of them.
void ThreadPool::use_reserve(bool on) {
  const int size = on ? size_max() : base_;
  for (int worker = size_; worker < size; ++worker) {
    Share& share = state_->shares[worker];
    share.deals = state_->shares[0].deals;
    share.taken.store(taken_word(share.deals, 0), std::memory_order_relaxed);
  }
  size_ = size;
}

void ThreadPool::run(Function function, void* argument) {
  synchronisations_.fetch_add(1, std::memory_order_relaxed);
  if (size_ == 1) return function(argument, 0, 1);
  State& s = *state_;
  s.function = function;
  s.argument = argument;
  s.size = size_;
  const uint32_t seen = s.done.word.load(std::memory_order_acquire);
  s.running.store(size_ - 1, std::memory_order_relaxed);
  s.start.raise();
  if (size_ > base_) s.start_reserve.raise();
  function(argument, 0, size_);
  s.done.wait_while(seen);
}

ThreadPool::Deal ThreadPool::begin_deal(int worker, int count, int step) {
  return {++state_->shares[worker].deals, worker, count, step, worker};
}

ThreadPool::Piece ThreadPool::take(Deal& deal) {
  const int64_t steps = (deal.count + deal.step - 1) / deal.step;
  for (; deal.victim < deal.worker + size_; ++deal.victim) {
    const int victim = deal.victim < size_ ? deal.victim : deal.victim - size_;
    const int64_t begin = steps * victim / size_, share = steps * (victim + 1) / size_ - begin;
    std::atomic<uint64_t>& word = state_->shares[victim].taken;
    for (uint64_t seen = word.load(std::memory_order_relaxed);;) {
      const int64_t done = taken_of(seen, deal.number, share);
      if (done >= share) break;
      // Pieces become smaller towards the end, where all have to be ready together.
      const int64_t left = share - done, part = victim == deal.worker ? left / 3 : left / (2 * size_);
      const int64_t size = part > share / 16 ? part : share / 16, piece = size < 1 ? 1 : size < left ? size : left;
      if (!word.compare_exchange_weak(seen, taken_word(deal.number, done + piece), std::memory_order_relaxed)) continue;
      const int64_t first = (begin + done) * deal.step, last = (begin + done + piece) * deal.step;
      return {static_cast<int>(first), static_cast<int>(last < deal.count ? last : deal.count)};
    }
  }
  return {0, 0};
}

int ThreadPool::take_turn(uint32_t deal) {
  std::atomic<uint64_t>& word = state_->turns;
  for (uint64_t seen = word.load(std::memory_order_relaxed);;) {
    const int64_t turn = taken_of(seen, deal, INT_MAX);
    if (turn == INT_MAX || word.compare_exchange_weak(seen, taken_word(deal, turn + 1), std::memory_order_relaxed)) return static_cast<int>(turn);
  }
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
