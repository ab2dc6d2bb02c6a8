#include "model/step_buffers.h"

#include <algorithm>
#include <cstring>

namespace hearth::model {

namespace {

constexpr int block_tokens = ops::kv_block_tokens;
constexpr size_t joined_bytes_max = 8192;  // of changes to block tables that go up as one; so few travel with the commands

size_t padded(size_t count) { return (count + 63) / 64 * 64; }  // arrays start on 256 bytes

int source_of(const SequenceRows& rows, int i) { return rows.source.empty() ? 0 : rows.source[static_cast<size_t>(i)]; }

}  // namespace

StepBuffers::~StepBuffers() {
  for (Staging& staging : staging_) {
    if (staging.memory) device_.release(staging.memory);
  }
  if (region_) device_.release(region_);
  if (block_table_) device_.release(block_table_);
}

StepBuffers::Layout StepBuffers::layout(int rows, int sequences, int logit_rows) const {
  const auto r = static_cast<size_t>(rows), s = static_cast<size_t>(sequences);
  Layout at{};
  size_t next = 0;
  auto take = [&](size_t count) { const size_t here = next; next += padded(count); return here; };
  at.ids = take(r);
  at.source = take(r);
  at.kv_slot = take(r);
  at.row_sequence = take(r);
  at.image_row = take(r);
  at.positions = take(r * static_cast<size_t>(axes_));
  at.row_begin = take(s + 1);
  at.context = take(s);
  at.logit_rows = take(static_cast<size_t>(logit_rows));
  at.end = next;
  return at;
}

int64_t StepBuffers::bytes(const Limits& limits) const {
  const int64_t region = static_cast<int64_t>(layout(limits.rows, limits.sequences, limits.logit_rows).end) * 4;
  return region * 4 + int64_t{limits.sequences} * ((limits.context + block_tokens - 1) / block_tokens) * 4;
}

Status StepBuffers::allocate(const Limits& limits) {
  limits_ = limits;
  stride_ = (limits.context + block_tokens - 1) / block_tokens;
  const size_t region = layout(limits.rows, limits.sequences, limits.logit_rows).end * 4;
  for (Staging& staging : staging_) {
    HEARTH_ASSIGN(void* memory, device_.allocate(region, device::MemoryKind::staging, "step inputs"));
    staging.memory = static_cast<int32_t*>(memory);
  }
  HEARTH_ASSIGN(void* device_region, device_.allocate(region, device::MemoryKind::workspace, "step inputs"));
  region_ = static_cast<int32_t*>(device_region);
  blocks_.assign(static_cast<size_t>(limits.sequences) * static_cast<size_t>(stride_), 0);
  prompts_.assign(static_cast<size_t>(limits.sequences), 0);
  HEARTH_ASSIGN(void* table, device_.allocate(blocks_.size() * 4, device::MemoryKind::workspace, "block tables"));
  block_table_ = static_cast<int32_t*>(table);
  return device_.fill_zero(block_table_, blocks_.size() * 4);
}

namespace {

Status check_rows(const SequenceRows& rows, const StepBuffers::Limits& limits, int axes) {
  const auto count = static_cast<size_t>(std::max(0, rows.count));
  if (rows.count < 1 || rows.start < 0 || rows.start > limits.context - rows.count) {
    return invalid("rows [" + std::to_string(rows.start) + ", +" + std::to_string(rows.count) + ") leave the context of " +
                   std::to_string(limits.context));
  }
  if (rows.slot < 0 || rows.slot >= limits.sequences) return invalid("slot " + std::to_string(rows.slot) + " is out of range");
  const size_t needed = static_cast<size_t>(rows.start + rows.count + block_tokens - 1) / block_tokens;
  if (rows.blocks.size() < needed)
    return invalid("a sequence has " + std::to_string(rows.blocks.size()) + " KV blocks and needs " + std::to_string(needed));
  for (size_t i = 0; i < needed; i++) {
    if (rows.blocks[i] < 0 || rows.blocks[i] >= limits.blocks) return invalid("KV block " + std::to_string(rows.blocks[i]) + " is out of range");
  }
  if (rows.ids.size() != count || (!rows.source.empty() && rows.source.size() != count))
    return invalid("a sequence's ids or sources do not match its rows");
  if (!rows.positions.empty() && rows.positions.size() != count * static_cast<size_t>(axes))
    return invalid("a sequence's positions do not match its rows");
  for (int i = 0; i < rows.count; i++) {
    const int source = source_of(rows, i), id = rows.ids[static_cast<size_t>(i)];
    const int most = source == 0 ? limits.vocabulary : source == 1 ? limits.sequences : source == 2 ? limits.image_rows : 0;
    if (id < 0 || id >= most) return invalid("token " + std::to_string(id) + " of source " + std::to_string(source) + " is out of range");
  }
  return Status::ok();
}

}  // namespace

Status StepBuffers::check(const StepInput& input) const {
  if (input.sequences.empty()) return invalid("a step without sequences");
  if (input.sequences.size() > static_cast<size_t>(limits_.sequences)) return invalid("a step of more sequences than max_sequences");
  int64_t total = 0;
  for (const SequenceRows& rows : input.sequences) {
    HEARTH_TRY(check_rows(rows, limits_, axes_));
    total += rows.count;
  }
  if (total > limits_.rows) return invalid("a step of " + std::to_string(total) + " rows, over " + std::to_string(limits_.rows));
  if (input.logit_rows.size() > static_cast<size_t>(limits_.logit_rows)) {
    return invalid("a step wants logits of " + std::to_string(input.logit_rows.size()) + " rows, over " + std::to_string(limits_.logit_rows));
  }
  for (size_t i = 0; i < input.logit_rows.size(); i++) {
    const int row = input.logit_rows[i];
    if (row < 0 || row >= total || (i > 0 && row <= input.logit_rows[i - 1])) return invalid("logit rows must ascend within the step");
  }
  return Status::ok();
}

void StepBuffers::fill_rows(const SequenceRows& from, const Layout& at, int rows, int first, int index, int32_t* to) const {
  for (int i = 0; i < from.count; i++) {
    const auto row = static_cast<size_t>(first + i);
    const int token = from.start + i, source = source_of(from, i), id = from.ids[static_cast<size_t>(i)];
    to[at.ids + row] = id;
    to[at.source + row] = source;
    to[at.kv_slot + row] = from.blocks[static_cast<size_t>(token / block_tokens)] * block_tokens + token % block_tokens;
    to[at.row_sequence + row] = index;
    to[at.image_row + row] = source == static_cast<int>(ops::TokenSource::image) ? id : -1;
    for (int axis = 0; axis < axes_; axis++) {
      to[at.positions + static_cast<size_t>(axis * rows) + row] =
          from.positions.empty() ? token : from.positions[static_cast<size_t>(axis * from.count + i)];
    }
  }
  to[at.row_begin + static_cast<size_t>(index)] = first;
  to[at.context + static_cast<size_t>(index)] = from.start + from.count;
}

void StepBuffers::fill(const StepInput& input, const Layout& at, int rows, int sequences, int32_t* to) const {
  int first = 0, index = 0;
  for (const SequenceRows& from : input.sequences) {
    fill_rows(from, at, rows, first, index++, to);
    first += from.count;
  }
  for (; index < sequences; index++, first++) {  // empty slots of a bucket: one row each, no context, nothing written
    const auto row = static_cast<size_t>(first);
    to[at.ids + row] = 0;
    to[at.source + row] = 0;
    to[at.kv_slot + row] = -1;
    to[at.row_sequence + row] = index;
    to[at.image_row + row] = -1;
    for (int axis = 0; axis < axes_; axis++) to[at.positions + static_cast<size_t>(axis * rows) + row] = 0;
    to[at.row_begin + static_cast<size_t>(index)] = first;
    to[at.context + static_cast<size_t>(index)] = 0;
  }
  to[at.row_begin + static_cast<size_t>(sequences)] = rows;
  std::copy(input.logit_rows.begin(), input.logit_rows.end(), to + at.logit_rows);
}

// Only what changed since the last step: in decode that is one block id a sequence every 16 tokens. Every copy takes 2 us of the
// device's time, whatever it holds, and sequences of equal length come to their next blocks together: changes that lie close to
// one another go up as one, with what is between them.
Status StepBuffers::upload_blocks(const StepInput& input) {
  const auto stride = static_cast<size_t>(stride_);
  size_t begin = 0, end = 0;  // of blocks_, to be uploaded
  for (size_t s = 0; s < input.sequences.size(); s++) {
    const SequenceRows& rows = input.sequences[s];
    const auto needed = static_cast<size_t>(rows.start + rows.count + block_tokens - 1) / block_tokens;
    int32_t* held = blocks_.data() + s * stride;
    size_t from = 0, to = needed;
    while (from < to && held[from] == rows.blocks[from]) from++;
    while (to > from && held[to - 1] == rows.blocks[to - 1]) to--;
    if (from == to) continue;
    std::copy(rows.blocks.begin() + static_cast<std::ptrdiff_t>(from), rows.blocks.begin() + static_cast<std::ptrdiff_t>(to), held + from);
    if (begin < end && (s * stride + to - begin) * 4 > joined_bytes_max) {
      HEARTH_TRY(device_.upload(block_table_ + begin, blocks_.data() + begin, (end - begin) * 4));
      begin = end;
    }
    if (begin == end) begin = s * stride + from;
    end = s * stride + to;
  }
  return begin == end ? Status::ok() : device_.upload(block_table_ + begin, blocks_.data() + begin, (end - begin) * 4);
}

Step StepBuffers::step_at(const Layout& at, int rows, int sequences) const {
  Step step;
  step.batch.rows = rows;
  step.batch.sequences = sequences;
  step.batch.block_table_stride = stride_;
  step.batch.row_begin = region_ + at.row_begin;
  step.batch.context = region_ + at.context;
  step.batch.block_table = block_table_;
  step.batch.positions = region_ + at.positions;
  step.batch.kv_slot = region_ + at.kv_slot;
  step.batch.row_sequence = region_ + at.row_sequence;
  step.ids = region_ + at.ids;
  step.source = region_ + at.source;
  step.image_row = region_ + at.image_row;
  step.logit_rows = region_ + at.logit_rows;
  return step;
}

Result<Step> StepBuffers::upload(const StepInput& input, int rows, int sequences) {
  Staging& staging = staging_[next_];
  next_ = (next_ + 1) % 3;
  if (staging.used) HEARTH_TRY(device_.wait(staging.marker));
  const Layout at = layout(rows, sequences, static_cast<int>(input.logit_rows.size()));
  fill(input, at, rows, sequences, staging.memory);
  HEARTH_TRY(device_.upload(region_, staging.memory, at.end * 4));
  HEARTH_TRY(upload_blocks(input));
  HEARTH_ASSIGN(staging.marker, device_.mark());
  staging.used = true;

  Step step = step_at(at, rows, sequences);
  const int32_t* host = staging.memory;
  step.batch.host = {host + at.row_begin, host + at.context, blocks_.data(), host + at.positions, host + at.kv_slot, host + at.row_sequence, prompts_.data()};
  const auto after = std::transform(input.sequences.begin(), input.sequences.end(), prompts_.begin(), [](const SequenceRows& from) { return from.prompt; });
  std::fill(after, prompts_.end(), 0);
  for (const SequenceRows& from : input.sequences) {
    step.batch.max_rows = std::max(step.batch.max_rows, from.count);
    step.batch.max_context = std::max(step.batch.max_context, from.start + from.count);
    for (int i = 0; i < from.count && !step.images; i++) step.images = source_of(from, i) == static_cast<int>(ops::TokenSource::image);
  }
  step.logits = static_cast<int>(input.logit_rows.size());
  step.all_rows = step.logits == rows;
  return step;
}

Step StepBuffers::decode_step(int count, int max_context) const {
  // Logit rows come last in the layout: their number moves nothing else, and a decode step reads all rows anyway.
  Step step = step_at(layout(count, count, 0), count, count);
  step.batch.max_rows = 1;
  step.batch.max_context = max_context;
  step.logits = count;
  step.all_rows = true;
  return step;
}

}  // namespace hearth::model
