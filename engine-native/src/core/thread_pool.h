// One persistent pool of pinned workers; the caller is worker 0. Ops split their work with parallel(); nothing on the
// step path allocates.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <type_traits>

namespace hearth {

class ThreadPool {
 public:
  // threads >= 1, the caller included. Workers are pinned to the cores the process may use when `pin`.
  explicit ThreadPool(int threads, bool pin = true);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }
  // Pins the calling thread to worker 0's core; for the one thread that will run steps for ever.
  void pin_caller() const;

  // Calls body(worker, size()) once on every worker and returns when all are done. Not reentrant.
  template <class Body>
  void parallel(Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    run([](void* argument, int worker, int size) { (*static_cast<Plain*>(argument))(worker, size); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

  // A barrier between all workers, inside a parallel() body. Spins briefly, then sleeps.
  void barrier();

  // parallel() calls and barriers since the start: what a step costs in synchronisation.
  uint64_t synchronisations() const { return synchronisations_.load(std::memory_order_relaxed); }

 private:
  using Function = void (*)(void*, int, int);
  void run(Function function, void* argument);
  struct State;
  int size_;
  std::atomic<uint64_t> synchronisations_{0};
  std::unique_ptr<State> state_;
};

}  // namespace hearth
