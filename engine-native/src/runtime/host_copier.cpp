#include "runtime/host_copier.h"

#include <algorithm>
#include <chrono>

#include "core/log.h"

namespace hearth::runtime {
namespace {

constexpr size_t chunk_bytes = size_t{64} << 20;  // one huge block fails on fragmented machines
constexpr size_t batch_max = 16;                  // transfers between two looks at the clock and the queue

}  // namespace

HostCopier::HostCopier(model::Model& model, int slots, std::function<void()> wake)
    : model_(model), wake_(std::move(wake)), block_bytes_(model.kv_block_bytes()), slots_(slots) {
  chunk_slots_ = static_cast<int>(std::max<size_t>(1, chunk_bytes / block_bytes_));
  chunks_.reserve(slots / chunk_slots_ + 1);
  // At most one transfer a block in each direction is under way.
  waiting_.reserve(static_cast<size_t>(model.info().kv_blocks) * 2);
  done_.reserve(waiting_.capacity());
}

Result<std::unique_ptr<HostCopier>> HostCopier::create(model::Model& model, int slots, std::function<void()> wake) {
  std::unique_ptr<HostCopier> copier(new HostCopier(model, slots, std::move(wake)));
  HEARTH_ASSIGN(copier->queue_, model.device().open_copy_queue());
  copier->thread_ = std::thread([self = copier.get()] { self->loop(); });
  return copier;
}

HostCopier::~HostCopier() {
  {
    std::lock_guard lock(mutex_);
    end_ = true;
  }
  changed_.notify_one();
  if (thread_.joinable()) thread_.join();
  for (uint8_t* chunk : chunks_) model_.device().release(chunk);
}

void HostCopier::submit(const std::vector<kv::Transfer>& transfers, uint32_t marker) {
  {
    std::lock_guard lock(mutex_);
    waiting_.insert(waiting_.end(), transfers.begin(), transfers.end());
    marker_ = marker;
  }
  changed_.notify_one();
}

Status HostCopier::take_done(std::vector<kv::Transfer>& done) {
  std::lock_guard lock(mutex_);
  done.insert(done.end(), done_.begin(), done_.end());
  done_.clear();
  return status_;
}

void HostCopier::want_slots(int slots) {
  {
    std::lock_guard lock(mutex_);
    slots = std::min(slots, slots_);
    if (slots <= wanted_) return;
    wanted_ = slots;
  }
  changed_.notify_one();
}

void HostCopier::take_chunk() {
  const int ready = ready_slots(), take = std::min(chunk_slots_, slots_ - ready);
  auto memory = model_.device().allocate(take * block_bytes_, device::MemoryKind::staging, "the host tier of the KV pool");
  if (!memory) {
    log::write(log::Level::warn, "the host tier of the KV pool ends at " + std::to_string(ready) + " of " +
                                     std::to_string(slots_) + " blocks: " + memory.status().message());
    memory_ends_ = true;
    return;
  }
  chunks_.push_back(static_cast<uint8_t*>(*memory));
  ready_slots_.store(ready + take, std::memory_order_release);
}

Status HostCopier::copy(const std::vector<kv::Transfer>& batch, uint32_t marker) {
  auto begin = std::chrono::steady_clock::now();
  HEARTH_TRY(queue_->after(marker));
  for (const kv::Transfer& t : batch) {
    uint8_t* host = chunks_[t.slot / chunk_slots_] + (t.slot % chunk_slots_) * block_bytes_;
    HEARTH_TRY(model_.transfer_kv_block(t.block, host, t.to_host, *queue_));
  }
  HEARTH_TRY(queue_->finish());
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / batch.size();
  double known = seconds_per_block();
  seconds_per_block_.store(known == 0 ? seconds : known + (seconds - known) / 8, std::memory_order_relaxed);
  return Status::ok();
}

void HostCopier::loop() {
  std::vector<kv::Transfer> batch;
  batch.reserve(batch_max);
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return end_ || !waiting_.empty() || grows(); });
    if (end_) return;
    if (waiting_.empty()) {
      lock.unlock();
      take_chunk();
      lock.lock();
      continue;
    }
    size_t count = std::min(batch_max, waiting_.size());
    batch.assign(waiting_.begin(), waiting_.begin() + count);
    waiting_.erase(waiting_.begin(), waiting_.begin() + count);
    uint32_t marker = marker_;
    lock.unlock();
    Status status = copy(batch, marker);
    lock.lock();
    if (!status) {
      status_ = std::move(status);  // nothing more is copied; the step thread ends the engine
      lock.unlock();
      wake_();
      return;
    }
    done_.insert(done_.end(), batch.begin(), batch.end());
    lock.unlock();
    wake_();
    lock.lock();
  }
}

}  // namespace hearth::runtime
