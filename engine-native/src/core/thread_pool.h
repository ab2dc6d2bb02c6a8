// One persistent pool of pinned workers; the caller is worker 0. Ops split their work with parallel() and, inside it, deal();
// nothing on the step path allocates. Workers in reserve sleep until use_reserve() calls them: efficiency cores help where
// computing is what takes the time, and only hold up a step that waits for memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <type_traits>
#include <vector>

namespace hearth {

class ThreadPool {
 public:
  // threads >= 1, the caller included, and `reserve` more. Worker i is pinned to cpus[i]; where there are fewer of them than
  // workers, none is.
  explicit ThreadPool(int threads, std::vector<int> cpus = {}, int reserve = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Workers of the next parallel().
  int size() const { return size_; }
  // Those there can be: what memory for each has to be there for.
  int size_max() const { return base_ + reserve_; }
  // Whether the reserve takes part from here on. Between calls of parallel(), by the thread that makes them.
  void use_reserve(bool on);
  // Pins the calling thread to worker 0's CPU; for the one thread that will run steps for ever.
  void pin_caller() const;

  // Calls body(worker, size()) once on every worker and returns when all are done. Not reentrant.
  template <class Body>
  void parallel(Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    run([](void* argument, int worker, int size) { (*static_cast<Plain*>(argument))(worker, size); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

  // Inside a parallel() body, called by every worker: body(begin, end) until all of [0, count) is taken, in pieces of whole
  // `step`s. A worker takes from its own equal share first, a third of what is left at a time, and then from the shares of
  // those who are behind: cores differ (performance and efficiency cores, a neighbour's work, clocks), and the slowest would
  // decide for all. Where a share begins depends on count and size alone, so a core meets the same weights in every step.
  template <class Body>
  void deal(int worker, int count, int step, Body&& body) {
    if (size_ == 1) return body(0, count);
    Deal deal = begin_deal(worker, count, step);
    for (Piece piece = take(deal); piece.begin < piece.end; piece = take(deal)) body(piece.begin, piece.end);
  }

  // The same for items that are only counted while they are met, one at a time: made by every worker of a parallel() body.
  class Turns {
   public:
    Turns(ThreadPool& pool, int worker) : pool_(pool), deal_(pool.begin_deal(worker, 0, 1).number) {}
    // Whether item `number` is this worker's. Each worker asks of 0, 1, 2, ... to the last.
    bool take(int number) {
      if (mine_ < number) mine_ = pool_.take_turn(deal_);
      return mine_ == number;
    }

   private:
    ThreadPool& pool_;
    uint32_t deal_;
    int mine_ = -1;
  };

  // A barrier between all workers, inside a parallel() body. Spins briefly, then sleeps.
  void barrier();

  // parallel() calls and barriers since the start: what a step costs in synchronisation.
  uint64_t synchronisations() const { return synchronisations_.load(std::memory_order_relaxed); }

 private:
  using Function = void (*)(void*, int, int);
  struct Piece { int begin, end; };
  struct Deal {
    uint32_t number;  // of this worker's deals: the same for all workers of one deal()
    int worker, count, step, victim;
  };
  Deal begin_deal(int worker, int count, int step);
  Piece take(Deal& deal);
  int take_turn(uint32_t deal);
  void run(Function function, void* argument);
  struct State;
  int base_, reserve_, size_;
  std::atomic<uint64_t> synchronisations_{0};
  std::unique_ptr<State> state_;
};

}  // namespace hearth
