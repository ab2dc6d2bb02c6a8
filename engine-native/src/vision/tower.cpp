#include "vision/tower.h"

#include <algorithm>

namespace hearth::vision {

namespace {

// Shapes that are remembered: a LLaVA tower has one for every count of images of a pass, others one for every size.
constexpr size_t recordings_max = 12;

}  // namespace

Tower::~Tower() {
  for (void* memory : memory_) device_.release(memory);
}

Status Tower::take_bytes(void*& to, size_t bytes) {
  HEARTH_ASSIGN(void* memory, device_.allocate(bytes, device::MemoryKind::workspace, "the vision tower"));
  memory_.push_back(memory);
  to = memory;
  return Status::ok();
}

void Tower::start(std::span<const Job> jobs, Shape shape) {
  jobs_.assign(jobs.begin(), jobs.end());
  for (Job& job : jobs_) job.image = nullptr;  // uploaded; it may be gone before the pass is over
  shape_ = std::move(shape);
  next_part_ = -1;
}

// Parts of a pass: -1 embeds, then the blocks, and after them the projector.
Status Tower::run_part(int part) {
  if (part < 0) return embed();
  if (part == transformer_.layers()) return project();
  run_block(part);
  return Status::ok();
}

// On CPUs a block is done when it returns. On GPUs it is enqueued within microseconds, so one call takes them all; a shape
// that comes again is recorded once and then costs one launch.
Result<bool> Tower::advance(Clock::time_point until) {
  const int last = transformer_.layers();
  if (next_part_ < 0 && graphs_) {
    bool seen = false;
    Recording& recording = recording_of(shape_, &seen);
    if (seen) {
      const Status status = run_pieces(recording);
      if (status) return true;
      if (graphs_) return status;  // the device has graphs, and one failed
    }
  }
  while (next_part_ <= last) {
    const int part = next_part_++;
    HEARTH_TRY(run_part(part));
    if (part >= 0 && hands_on(part)) HEARTH_TRY(hand_on(part));
    if (part >= 0 && part < last && Clock::now() >= until) return false;
  }
  return true;
}

Tower::Recording& Tower::recording_of(const Shape& shape, bool* seen) {
  const auto found = std::find_if(recordings_.begin(), recordings_.end(), [&](const Recording& one) { return one.shape == shape; });
  *seen = found != recordings_.end();
  if (*seen) {
    recordings_.splice(recordings_.begin(), recordings_, found);
  } else {
    recordings_.push_front({shape, {}});
    if (recordings_.size() > recordings_max) recordings_.pop_back();
  }
  return recordings_.front();
}

Status Tower::run_pieces(Recording& recording) {
  size_t piece = 0;
  for (int first = -1, part = 0; part <= transformer_.layers(); part++) {
    if (!hands_on(part)) continue;
    if (recording.pieces.size() == piece) HEARTH_TRY(record(first, part, recording));
    HEARTH_TRY(device_.replay(*recording.pieces[piece++]));
    HEARTH_TRY(hand_on(part));
    first = part + 1;
  }
  next_part_ = transformer_.layers() + 1;
  return Status::ok();
}

// Parts `first` to `last` as the recording's next piece.
Status Tower::record(int first, int last, Recording& recording) {
  struct Piece { Tower* tower; int first, last; } piece{this, first, last};
  auto body = [](void* argument) {
    const auto* of = static_cast<const Piece*>(argument);
    for (int part = of->first; part <= of->last; part++) HEARTH_TRY(of->tower->run_part(part));
    return Status::ok();
  };
  auto graph = device_.capture(body, &piece);
  if (!graph) {
    if (graph.status().code() == Code::unsupported) graphs_ = false;
    return graph.status();
  }
  recording.pieces.push_back(std::move(*graph));
  return Status::ok();
}

}  // namespace hearth::vision
