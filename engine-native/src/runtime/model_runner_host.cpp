// The host tier behind the KV pool, as the step loop sees it: transfers that were made, transfers to make, and whether a
// prefix is faster brought back than computed again.
#include <algorithm>
#include <climits>

#include "device/host_memory.h"
#include "runtime/loaded_model.h"
#include "runtime/model_runner.h"

namespace hearth::runtime {
namespace {

constexpr double fetch_latency_seconds = 200e-6;  // from asking to the next plan that sees it, beside the copy itself
constexpr int saves_in_flight_max = 32;
constexpr int slots_ahead = 2 * saves_in_flight_max;  // of memory, before they are needed
constexpr int prefill_rows_min = 32;              // of a step that tells what a token's prefill costs

}  // namespace

int64_t host_tier_bytes(int64_t megabytes, const device::DeviceInfo& device) {
  if (megabytes >= 0) return megabytes << 20;
  if (device.kind == device::DeviceKind::cpu || device.profile.unified_memory) return 0;
  return std::clamp<int64_t>(device::host_available_bytes() / 4, 0, int64_t{4} << 30);
}

Status ModelRunner::open_host_tier() {
  const int64_t block = static_cast<int64_t>(model_.kv_block_bytes());
  const int64_t slots = std::min<int64_t>(block > 0 ? options_.host_kv_bytes / block : 0, INT_MAX / 2);
  if (slots == 0 || !options_.prefix_cache) return Status::ok();
  tier_ = std::make_unique<kv::HostTier>(static_cast<int>(slots));
  pool_.attach(*tier_);
  done_transfers_.reserve(static_cast<size_t>(pool_.counts().total) * 2);
  HEARTH_ASSIGN(copier_, HostCopier::create(model_, static_cast<int>(slots), options_.wake ? options_.wake : [] {}));
  return Status::ok();
}

Status ModelRunner::take_transfers(bool& worked) {
  if (!copier_) return Status::ok();
  const bool more = copier_->grows();  // asked first: what comes between the two is seen next time
  tier_->set_ready(copier_->ready_slots(), more);
  done_transfers_.clear();
  HEARTH_TRY(copier_->take_done(done_transfers_));
  for (const kv::Transfer& transfer : done_transfers_) {
    pool_.transfer_done(transfer);
    ++(transfer.to_host ? saved_blocks_ : fetched_blocks_);
    worked |= !transfer.to_host;
  }
  // n blocks are worth bringing back when the copies and the detour take less time than their prefill.
  const double gain = prefill_seconds_ * kv::block_tokens - copier_->seconds_per_block();
  const double blocks = prefill_seconds_ == 0 ? 1 : gain > 0 ? fetch_latency_seconds / gain + 1 : INT_MAX;
  pool_.set_fetch_min(hooks().fetch_min.value_or(static_cast<int>(std::min<double>(blocks, INT_MAX))));
  return Status::ok();
}

Status ModelRunner::start_transfers() {
  if (!copier_) return Status::ok();
  if (pool_.wants_saving()) copier_->want_slots(tier_->used() + slots_ahead);
  pool_.save_full(std::clamp(pool_.counts().total / 8, 4, saves_in_flight_max));
  if (pool_.transfers().empty()) return Status::ok();
  // A block to copy into may still be written by a step in flight whose request has ended.
  HEARTH_ASSIGN(const uint32_t marker, model_.device().mark());
  copier_->submit(pool_.transfers(), marker);
  pool_.transfers().clear();
  return Status::ok();
}

void ModelRunner::measure_prefill(const Step& step) {
  const Clock::time_point begin = std::max(step.begin, collected_);
  collected_ = Clock::now();
  if (!copier_ || step.token_rows < std::max<int>(prefill_rows_min, 2 * static_cast<int>(step.shares.size()))) return;
  const double seconds = std::chrono::duration<double>(collected_ - begin).count() / step.token_rows;
  prefill_seconds_ = prefill_seconds_ == 0 ? seconds : prefill_seconds_ + (seconds - prefill_seconds_) / 4;
}

}  // namespace hearth::runtime
