#include "kernels/cuda/host/program.h"

#include <algorithm>
#include <memory>
#include <tuple>
#include <vector>

#include "kernels/cuda/host/convert.h"
#include "kernels/cuda/host/hopper.h"
#include "kernels/cuda/host/resources.h"
#include "kernels/cuda/host/tuning.h"
#include "kernels/cuda/program_params.h"

namespace hearth::kernels::cuda {

using device::CudaKernel;
using device::CudaModule;
using device::CudaStream;

extern const CudaModule module_decode_program_f16, module_decode_program_bf16, module_decode_program_bulk_f16, module_decode_program_bulk_bf16;

namespace {

const CudaKernel kernels[2][2] = {{{&module_decode_program_f16, "decode_program_f16"}, {&module_decode_program_bf16, "decode_program_bf16"}},
                                  {{&module_decode_program_bulk_f16, "decode_program_bulk_f16"}, {&module_decode_program_bulk_bf16, "decode_program_bulk_bf16"}}};  // [bulk][type]
constexpr int slots_min = 3;

int linear_units(const LinearArgs& a) { return divide_up(a.in, a.group ? 128 : dense_unit); }
int linear_scratch_bytes(const LinearArgs& a) {
  const int k = linear_units(a) * (a.group ? 128 : dense_unit);
  return program_sum_bytes + (a.group ? k / a.group * program_rows_max * 4 : 0) + a.rows * (k * 2 + 64);
}
int live_heads(const AttentionArgs& a) { return std::min(program_heads, a.heads / a.kv_heads); }
int attention_scratch_bytes(const AttentionArgs& a) {
  const int d = a.head_dim <= 64 ? 64 : 128;
  return program_heads * (d * 2 + 16) + (program_workers + 1) * program_heads * 8 + 2 * d * 4 + program_workers * live_heads(a) * d * 4;
}
int attention_block_bytes(const AttentionArgs& a) {
  const bool int8 = a.kv_type == type_i8;
  return 2 * 16 * a.head_dim * (int8 ? 1 : 2) + 16 * 16 + (int8 ? 2 * 16 * 4 : 0);
}
// What must be the same in all attentions of a program.
auto common(const AttentionArgs& a) {
  return std::make_tuple(std::make_tuple(a.qkv_stride, a.out_stride, a.row_begin, a.context, a.block_table, a.positions, a.kv_slot, a.partial, a.qk_norm_epsilon, a.rows, a.sequences, a.block_table_stride),
                         std::make_tuple(a.heads, a.kv_heads, a.head_dim, a.kv_type, a.type, a.rope_dims, a.rope_interleaved, a.position_axes, a.axis_interleaved, a.axis_sections[0], a.axis_sections[1], a.axis_sections[2], a.qk_norm, a.splits));
}

class Collected final : public CudaStream::Deferred {
 public:
  Collected(DType type, int rows) : type_(type) {
    program_->rows = rows;
    program_->attention_bytes = 1;
  }
  // False when the phase does not fit with the ones that are there.
  bool fits(DType type, int rows, int scratch, int slot_bytes, int limit) const {
    if (program_->phases == program_phases_max || (program_->phases > 0 && (type != type_ || rows != program_->rows))) return false;
    return slots(std::max(scratch, scratch_), std::max(slot_bytes, program_->slot_bytes), program_->phases + 1, limit) >= slots_min;
  }
  bool has_attention() const { return has_attention_; }
  const AttentionArgs& attention() const { return program_->attention; }
  ProgramPhase& add(int kind, int scratch, int slot_bytes, std::function<void()> alone) {
    scratch_ = std::max(scratch_, scratch);
    program_->slot_bytes = std::max(program_->slot_bytes, slot_bytes);
    alone_.push_back(std::move(alone));
    ProgramPhase& phase = program_->phase[program_->phases++];
    phase.kind = kind;
    return phase;
  }
  // The tiles of the blocks: those with one more follow those that had one more in the phase before.
  void share(ProgramLinear& l, int tiles, int blocks) {
    l.per = tiles / blocks; l.extra = tiles % blocks; l.start = next_extra_;
    next_extra_ = (next_extra_ + l.extra) % blocks;
    program_->phase[program_->phases - 1].arrivals = std::min(tiles, blocks);
  }
  void set_arrivals(int blocks) { program_->phase[program_->phases - 1].arrivals = blocks; }
  void set_attention(const AttentionArgs& a) {
    program_->attention = a;
    program_->attention_bytes = attention_block_bytes(a);
    has_attention_ = true;
  }

  void launch(CudaStream& stream) override {
    if (program_->phases < tuning().program_phases_min) {
      stream.defers = false;
      for (const auto& run : alone_) run();
      stream.defers = true;
      return;
    }
    const int limit = stream.shared_limit();
    program_->slots = std::min(slots(scratch_, program_->slot_bytes, program_->phases, limit), tuning().program_slots);
    program_->flight = std::clamp(tuning().program_flight, 1, program_->slots);
    program_->arrived = stream.counters() + CudaStream::counter_count - program_phases_max;
    const bool bulk = hopper_linear_takes(stream.info().compute_capability);
    stream.launch(kernels[bulk][type_ == DType::bf16], {stream.multiprocessors(), 1, 1, program_threads, head_bytes(program_->phases) + program_->slots * program_->slot_bytes + scratch_}, *program_);
  }

 private:
  static int head_bytes(int phases) { return program_control_bytes + round_up(phases * static_cast<int>(sizeof(ProgramPhase)), 128); }
  static int slots(int scratch, int slot_bytes, int phases, int limit) { return std::min(program_slots_max, (limit - head_bytes(phases) - scratch) / std::max(slot_bytes, 1)); }

  std::unique_ptr<Program> program_ = std::make_unique<Program>();
  std::vector<std::function<void()>> alone_;
  DType type_;
  int scratch_ = 0, next_extra_ = 0;
  bool has_attention_ = false;
};

// The program to add to, a new one if the present one cannot take more; nullptr when even a new one cannot.
Collected* program_for(CudaStream& stream, DType type, int rows, int scratch, int slot_bytes, const AttentionArgs* attention) {
  auto* present = static_cast<Collected*>(stream.deferred.get());
  const int limit = stream.shared_limit();
  if (present) {
    const bool agrees = !attention || !present->has_attention() || common(*attention) == common(present->attention());
    if (agrees && present->fits(type, rows, scratch, slot_bytes, limit)) return present;
    stream.flush();
  }
  auto fresh = std::make_unique<Collected>(type, rows);
  if (!fresh->fits(type, rows, scratch, slot_bytes, limit)) return nullptr;
  auto* made = fresh.get();
  stream.deferred = std::move(fresh);
  return made;
}

bool collects(const CudaStream& stream, int rows) {
  return stream.defers && (stream.capturing || tuning().program_always) && rows >= 1 && rows <= std::min(tuning().program_rows, program_rows_max);
}
bool small(int64_t v) { return v >= 0 && v <= INT32_MAX; }

}  // namespace

bool program_linear(CudaStream& stream, const LinearArgs& a, DType narrow, std::function<void()> alone) {
  if (!collects(stream, a.rows) || !small(a.x_stride) || !small(a.y_stride)) return false;
  if (a.group == 0 && (!tuning().program_dense || a.in % 32 != 0)) return false;
  if (a.norm == norm_layer || a.x_stride % 8 != 0 || !aligned16(a.x) || (a.norm != norm_none && !aligned16(a.norm_weight))) return false;
  const int scratch = linear_scratch_bytes(a), slot_bytes = round_up(a.group ? program_workers * a.unit_bytes : 16 * (dense_unit * 2 + 64), 128);
  Collected* program = program_for(stream, narrow, a.rows, scratch, slot_bytes, nullptr);
  if (!program) return false;
  ProgramLinear& l = program->add(phase_linear, scratch, slot_bytes, std::move(alone)).linear;
  l.weight = a.weight; l.weight_scale = a.weight_scale; l.x = a.x; l.y = a.y; l.norm_weight = a.norm_weight; l.bias = a.bias;
  l.units = linear_units(a); l.in = a.in; l.out = a.out;
  l.x_stride = static_cast<int32_t>(a.x_stride); l.y_stride = static_cast<int32_t>(a.y_stride);
  l.norm_epsilon = a.norm_epsilon;
  l.unit_bytes = static_cast<int16_t>(a.unit_bytes); l.group = static_cast<int16_t>(a.group);
  program->share(l, a.tiles, stream.multiprocessors());
  const int most = divide_up(a.tiles, stream.multiprocessors()), held = program_sum_bytes / (a.rows == 1 ? 1024 : 4096);
  l.pass = static_cast<int16_t>(divide_up(most, divide_up(most, held)));
  l.x_type = static_cast<int8_t>(a.x_type); l.y_type = static_cast<int8_t>(a.y_type); l.norm = static_cast<int8_t>(a.norm);
  l.activation = static_cast<int8_t>(a.activation); l.gated = a.gated != 0; l.residual = a.residual != 0;
  if (!stream.capturing) stream.flush();
  return true;
}

bool program_attention(CudaStream& stream, const AttentionArgs& given, DType narrow, std::function<void()> alone) {
  AttentionArgs a = given;
  if (!collects(stream, a.sequences) || a.max_rows != 1 || a.rows != a.sequences || a.head_dim > 128 || a.head_dim % 8 != 0 || a.rope_dims > 2 * program_workers * 32) return false;
  if (a.kv_type == type_i8 && a.head_dim % 16 != 0) return false;
  const int whole = a.sequences * a.kv_heads * divide_up(a.heads / a.kv_heads, program_heads);
  a.splits = std::clamp(stream.multiprocessors() / whole, 1, std::max(1, a.splits));
  const int scratch = attention_scratch_bytes(a), slot_bytes = round_up(attention_block_bytes(a), 128);
  Collected* program = program_for(stream, narrow, a.sequences, scratch, slot_bytes, &a);
  if (!program) return false;
  if (!program->has_attention()) program->set_attention(a);
  const int items = whole * std::max(1, std::min(a.splits, stream.multiprocessors() / whole));
  ProgramAttention& l = program->add(phase_attention, scratch, slot_bytes, std::move(alone)).attention;
  l.k = a.k; l.v = a.v; l.k_scale = a.k_scale; l.v_scale = a.v_scale;
  l.q_norm = a.q_norm; l.k_norm = a.k_norm; l.inverse_frequency = a.inverse_frequency;
  l.qkv = a.qkv; l.out = a.out; l.scale = a.scale; l.rope_amplitude = a.rope_amplitude; l.window = a.window;
  program->set_arrivals(std::min(items, stream.multiprocessors()));
  if (!stream.capturing) stream.flush();
  return true;
}

}  // namespace hearth::kernels::cuda
