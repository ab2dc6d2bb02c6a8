#include "vision/tower.h"

namespace hearth::vision {

Tower::~Tower() {
  for (void* memory : memory_) device_.release(memory);
}

Status Tower::take_bytes(void*& to, size_t bytes) {
  HEARTH_ASSIGN(void* memory, device_.allocate(bytes, device::MemoryKind::workspace, "the vision tower"));
  memory_.push_back(memory);
  to = memory;
  return Status::ok();
}

void Tower::start(std::span<const Job> jobs) {
  jobs_.assign(jobs.begin(), jobs.end());
  for (Job& job : jobs_) job.image = nullptr;  // uploaded; it may be gone before the pass is over
  next_block_ = 0;
}

// On CPUs a block is done when it returns; on GPUs it is enqueued within microseconds, so one call takes them all.
Result<bool> Tower::advance(Clock::time_point until) {
  while (next_block_ < transformer_.layers()) {
    run_block(next_block_++);
    if (next_block_ < transformer_.layers() && Clock::now() >= until) return false;
  }
  HEARTH_TRY(finish());
  return true;
}

}  // namespace hearth::vision
