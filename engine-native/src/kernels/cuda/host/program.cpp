#include "kernels/cuda/host/program.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <tuple>
#include <vector>

#include "device/profiles.h"
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
constexpr int slots_min = 2;
static_assert(sizeof(Program) <= 32764);

int linear_units(const LinearArgs& a) { return divide_up(a.in, a.group ? 128 : dense_unit); }
int linear_columns(const LinearArgs& a) { return a.gated ? a.out / 2 : a.out; }
// Shared memory for activations (see ActivationPlace): a row, and scales and sums by group.
int row_bytes(const LinearArgs& a, int units) { return units * (a.group ? 256 : dense_unit * 2) + 64; }
struct GroupSums {
  int units = 0, groups = 0;  // the most of any linear, and of 128 k of any
  GroupSums with(const LinearArgs& a, int of_units) const { return a.group ? GroupSums{std::max(units, of_units), std::max(groups, 128 / a.group)} : *this; }
  int unit_bytes(int rows) const { return groups * program_columns(rows) * 8; }
  int bytes(int rows) const { return round_up(units * unit_bytes(rows), 128); }
};
// Words of the exchange for what blocks that share a context send to one of them, by query head and split.
int split_words(const AttentionArgs& a) { return a.splits > 1 ? round_up(a.sequences * a.heads * a.splits * (a.head_dim + 2), exchange_unit) : 0; }
int live_heads(const AttentionArgs& a) { return std::min(program_heads, a.heads / a.kv_heads); }
int attention_scratch_bytes(const AttentionArgs& a) {
  const int d = a.head_dim <= 64 ? 64 : 128;
  return 2 * d * 4 + live_heads(a) * (attention_head_bytes(d) + program_workers * d * 4);
}
int attention_block_bytes(const AttentionArgs& a) {
  const bool int8 = a.kv_type == type_i8;
  return 2 * 16 * a.head_dim * (int8 ? 1 : 2) + (int8 ? 2 * 16 * 4 : 0);
}
// What must be the same in all attentions of a program.
auto common(const AttentionArgs& a) {
  return std::make_tuple(std::make_tuple(a.qkv_stride, a.out_stride, a.row_begin, a.context, a.block_table, a.positions, a.kv_slot, a.qk_norm_epsilon, a.rows, a.sequences, a.block_table_stride),
                         std::make_tuple(a.heads, a.kv_heads, a.head_dim, a.kv_type, a.type, a.rope_dims, a.rope_interleaved, a.position_axes, a.axis_interleaved, a.axis_sections[0], a.axis_sections[1], a.axis_sections[2], a.qk_norm, a.splits));
}
auto fields(const LinearShape& l) {
  return std::make_tuple(l.units, l.in, l.out, l.tiles, l.per, l.extra, l.x_stride, l.y_stride, l.norm_epsilon, l.unit_bytes, l.group, l.parts, l.part_units, l.x_type, l.y_type, l.norm, l.activation, l.gated, l.residual, l.parts_at, l.y);
}
auto fields(const AttentionShape& a) { return std::make_tuple(a.qkv, a.out, a.inverse_frequency, a.scale, a.rope_amplitude, a.window); }

// A matrix of activations in memory.
struct Rows {
  const void* at;
  int64_t stride;
  int columns, type;
  bool operator==(const Rows& o) const { return at == o.at && stride == o.stride && columns == o.columns && type == o.type; }
  bool overlaps(const Rows& o, int rows) const {
    auto end = [&](const Rows& r) { return static_cast<const char*>(r.at) + ((rows - 1) * r.stride + r.columns) * (r.type == type_f32 ? 4 : 2); };
    return at < static_cast<const void*>(end(o)) && o.at < static_cast<const void*>(end(*this));
  }
};

// What the program writes: who reads it, and where it is in the exchange once somebody does.
struct Output {
  Rows rows;
  int phase, reader = -1;  // the last one
  int tiles = 0;           // 0: not a linear's
  bool gated = false;
  const float* norm = nullptr;
  bool plain = false;      // in the order of memory: an attention or a dense linear reads it
};

class Collected final : public CudaStream::Deferred {
 public:
  Collected(DType type, int rows, int blocks, int exchange_words, int shared_limit, bool bulk)
      : type_(type), blocks_(blocks), exchange_limit_(std::min(exchange_words, exchange_units_max * exchange_unit)), shared_limit_(shared_limit), bulk_(bulk) {
    program_->rows = rows;
    program_->attention_bytes = 1;
  }

  // False when the phase cannot join those that are there.
  bool takes_linear(const LinearArgs& a, DType type, int limit) const {
    return multiplies(a) && fits(type, a.rows, scratch_with(a), slot_bytes(a), limit) && reachable(a.weight_scale) && reachable(a.bias) && reachable(wanted_norm(a)) && shape_of(linear_shape(a)) < program_shapes_max &&
           readable(linear_input(a), wanted_norm(a), a.group == 0, a.in % 128 == 0, part_words(a.rows, a.tiles, parts_of(a))) && writable(linear_output(a), linear_input(a), &a);
  }
  bool takes_attention(const AttentionArgs& a, DType type, int limit) const {
    const Rows in = attention_input(a);
    return program_->attentions < program_attentions_max && fits(type, a.sequences, attention_scratch_bytes(a), attention_block_bytes(a), limit) && shape_of(attention_shape(a)) < program_shapes_max && (!has_attention_ || common(a) == common(program_->attention)) &&
           readable(in, nullptr, true, in.columns % 128 == 0, split_words(a)) && writable(attention_output(a), in, nullptr);
  }

  void add_linear(const LinearArgs& a, std::function<void()> alone) {
    ProgramPhase& phase = add(phase_linear, scratch_with(a), slot_bytes(a), std::move(alone));
    const LinearShape shape = linear_shape(a);
    if (!by_columns(a.rows)) {
      sums_ = sums_.with(a, shape.part_units);
      program_->unit_sums = sums_.unit_bytes(a.rows);
      program_->group_sums_bytes = sums_.bytes(a.rows);
      program_->x_stride = std::max(program_->x_stride, row_bytes(a, shape.part_units));
    }
    phase.shape = static_cast<int8_t>(use_shape(shape));
    program_->linear[program_->phases - 1] = {a.weight, a.x, a.norm_weight};
    phase.factors = place_of(a.weight_scale);
    phase.bias = place_of(a.bias);
    phase.from = read(linear_input(a), wanted_norm(a), a.group == 0);
    exchange_used_ += part_words(a.rows, a.tiles, shape.parts);
    const Output* before = a.residual ? last_writer(linear_output(a)) : nullptr;
    phase.start = before ? program_->phase[before->phase].start : next_extra(shape);
    writes(linear_output(a), shape.tiles, a.gated != 0);
  }
  void add_attention(const AttentionArgs& a, std::function<void()> alone) {
    ProgramPhase& phase = add(phase_attention, attention_scratch_bytes(a), attention_block_bytes(a), std::move(alone));
    phase.shape = static_cast<int8_t>(use_shape(attention_shape(a)));
    phase.form = attention_form(a);
    phase.from = read(attention_input(a), nullptr, true);
    program_->attended[program_->attentions++] = {a.k, a.v, a.k_scale, a.v_scale, a.q_norm, a.k_norm};
    phase.parts = exchange_used_;  // put back with the input, whose reader reads them, too
    exchange_used_ += split_words(a);
    if (const Output* input = last_writer(attention_input(a))) spare_attending(program_->phase[input->phase]);
    if (!has_attention_) { program_->attention = a; program_->attention_bytes = attention_block_bytes(a); has_attention_ = true; }
    writes(attention_output(a), 0, false);
  }

  void launch(CudaStream& stream) override {
    if (program_->phases < tuning().program_phases_min) {
      stream.defers = false;
      for (const auto& run : alone_) run();
      stream.defers = true;
      return;
    }
    plan_resets();
    for (size_t i = 0; i < outputs_.size(); ++i) {  // what a later phase writes over need not reach memory
      ProgramPhase& phase = program_->phase[outputs_[i].phase];
      const bool residual = phase.kind == phase_linear && program_->shape[phase.shape].linear.residual;
      phase.keeps = residual || std::none_of(outputs_.begin() + i + 1, outputs_.end(), [&](const Output& o) { return o.rows == outputs_[i].rows; });
    }
    // Two units a worker in a slot take fewer turns, where that leaves enough slots.
    const int wide_slots = tuning().program_wide_slots ? tuning().program_wide_slots : slots_min;
    program_->slot_units = program_workers;
    auto ring_slots = [&](int sum_slots) { return slots(scratch_, program_->slot_bytes, program_->phases, program_->attentions, program_->rows, stream.shared_limit(), sum_slots); };
    if (slots(scratch_, 2 * program_->slot_bytes, program_->phases, program_->attentions, program_->rows, stream.shared_limit(), sum_slots_least()) >= (by_columns(program_->rows) ? slots_min : wide_slots)) {
      program_->slot_units *= 2;
      program_->slot_bytes *= 2;
    }
    int operands_at = program_attentions_at(program_->phases);
    for (int i = 0; i < program_->phases; ++i) {
      ProgramPhase& phase = program_->phase[i];
      if (phase.kind == phase_linear) {
        phase.form = linear_form(phase);
      } else {
        phase.at = static_cast<int16_t>(operands_at / 8);
        operands_at += static_cast<int>(sizeof(AttentionOperands));
      }
    }
    // Room for fewer sums where that makes a slot more of the ring.
    program_->sum_slots = sum_slots_most();
    const int wanted = ring_slots(sum_slots_least());
    while (program_->sum_slots > sum_slots_least() && ring_slots(program_->sum_slots) < wanted) --program_->sum_slots;
    program_->slots = std::min(ring_slots(program_->sum_slots), tuning().program_slots);
    // What is under way holds up the words that blocks wait for: a slot of two units a worker is enough where there are two
    // more, of one or two rows any. cp.async does not keep the memory busy with one slot.
    const bool wide = program_->slot_units > program_workers, one = bulk_ && (program_->rows <= 2 || (wide && program_->slots > 2));
    const int flight = tuning().program_flight ? tuning().program_flight : one ? 1 : 2;
    program_->flight = std::clamp(flight, 1, program_->slots);
    program_->more = bulk_ ? std::min(1, program_->slots - program_->flight) : 0;
    program_->history_flight = std::clamp(std::max(flight, 2), 1, program_->slots);
    program_->exchange = stream.exchange();
    program_->ended = stream.counters() + CudaStream::counter_count - 1;
    const char* mode = std::getenv("HEARTH_KERNELS");
    if (mode && std::strcmp(mode, "trace") == 0) std::fprintf(stderr, "kernel decode_step [%d rows]: %d ops as one kernel, %s\n", program_->rows, program_->phases, kernels[bulk_][type_ == DType::bf16].name);
    device::LaunchShape shape{blocks_, 1, 1, program_threads, program_ring_at(program_->phases, program_->attentions, program_->rows) + program_->slots * program_->slot_bytes + sums_bytes(program_->sum_slots) + scratch_};
    shape.together = true;
    stream.launch(kernels[bulk_][type_ == DType::bf16], shape, *program_);
  }

  // Linears share one place for their activations.
  int scratch_with(const LinearArgs& a) const {
    if (by_columns(a.rows)) return 0;
    const int units = divide_up(linear_units(a), parts_of(a));
    return sums_.with(a, units).bytes(a.rows) + a.rows * std::max(program_->x_stride, row_bytes(a, units));
  }
  static int slot_bytes(const LinearArgs& a) { return round_up(a.group ? program_workers * a.unit_bytes : 16 * (dense_unit * 2 + 64), 128); }

 private:
  bool fits(DType type, int rows, int scratch, int slot_bytes, int limit) const {
    if (program_->phases == program_phases_max || (program_->phases > 0 && (type != type_ || rows != program_->rows))) return false;
    return slots(std::max(scratch, scratch_), (by_columns(rows) ? 2 : 1) * std::max(slot_bytes, program_->slot_bytes), program_->phases + 1, program_->attentions + 1, rows, limit, sum_slots_least()) >= slots_min;
  }
  // In 16 bits, from registers (sm80/decode_program_columns.cuh): a tile, or a block's part of it, must be one slot.
  static bool by_columns(int rows) { return rows >= tuning().program_columns; }
  bool multiplies(const LinearArgs& a) const { return !by_columns(a.rows) || (a.group == 128 && divide_up(linear_units(a), parts_of(a)) <= 2 * program_workers); }
  int sum_slots_most() const { return program_->rows == 1 ? program_sum_slots_max : 4; }
  // A ring that cp.async fills is short: a slot of it is worth more than room for sums.
  int sum_slots_least() const { return !bulk_ && program_->rows <= 4 ? 2 : program_->rows == 1 ? 6 : 3; }
  int sums_bytes(int sum_slots) const { return sum_slots * program_sum_bytes(program_->rows); }
  int slots(int scratch, int slot_bytes, int phases, int attentions, int rows, int limit, int sum_slots) const {
    return std::min(program_slots_max, (limit - program_ring_at(phases, attentions, rows) - sums_bytes(sum_slots) - round_up(scratch, 128)) / std::max(slot_bytes, 1));
  }

  ProgramPhase& add(int kind, int scratch, int slot_bytes, std::function<void()> alone) {
    scratch_ = std::max(scratch_, round_up(scratch, 128));
    program_->slot_bytes = std::max(program_->slot_bytes, round_up(slot_bytes, 128));
    alone_.push_back(std::move(alone));
    ProgramPhase& phase = program_->phase[program_->phases++];
    phase.kind = kind == phase_attention;
    phase.from = phase.to = -1;
    phase.bias = phase.next_norm = phase.factors = floats_none;
    phase.keeps = 1;
    return phase;
  }

  // ---- Shapes ----
  // Blocks that share the K of a tile: as many as make each one's part a slot of the ring, so that a block needs no more
  // activations of down than of anything else, and has shared memory for more slots.
  int parts_of(const LinearArgs& a) const {
    const int units = linear_units(a), most = 2 * program_workers;
    // Blocks of few tiles wait for one another, and so do all a little; it pays where activations take much of the shared memory.
    const bool pays = by_columns(a.rows) || (a.tiles >= blocks_ && (8 * a.rows * row_bytes(a, units) > shared_limit_ || tuning().program_parts > 1));
    if (!tuning().program_parts || !pays || units <= most || a.group == 0 || a.gated || !a.residual || a.norm != norm_none) return 1;
    const Output* input = last_writer(linear_input(a));
    if (!input || input->reader >= 0) return 1;  // what they send is put back with the input, which so must have but this reader
    for (int parts = 2; parts <= program_parts_max; ++parts)
      if (blocks_ % parts == 0 && divide_up(units, parts) <= most) return parts;
    return 1;
  }
  LinearShape linear_shape(const LinearArgs& a) const {
    LinearShape l{};
    l.units = linear_units(a); l.in = a.in; l.out = a.out; l.tiles = a.tiles;
    l.per = a.tiles / blocks_; l.extra = a.tiles % blocks_;
    l.x_stride = static_cast<int32_t>(a.x_stride); l.y_stride = static_cast<int32_t>(a.y_stride);
    l.norm_epsilon = a.norm_epsilon;
    l.unit_bytes = static_cast<int16_t>(a.unit_bytes); l.group = static_cast<int16_t>(a.group);
    l.parts = static_cast<int16_t>(parts_of(a)); l.part_units = static_cast<int16_t>(divide_up<int>(l.units, l.parts));
    l.parts_at = l.parts > 1 ? exchange_words(program_->rows, a.in, last_writer(linear_input(a))->tiles) : 0;
    l.y = a.y;
    l.x_type = static_cast<int8_t>(a.x_type); l.y_type = static_cast<int8_t>(a.y_type); l.norm = static_cast<int8_t>(a.norm);
    l.activation = static_cast<int8_t>(a.activation); l.gated = a.gated != 0; l.residual = a.residual != 0;
    return l;
  }
  static AttentionShape attention_shape(const AttentionArgs& a) { return {a.qkv, a.out, a.inverse_frequency, a.scale, a.rope_amplitude, a.window}; }
  static bool same(const ProgramShape& s, const LinearShape& l) { return fields(s.linear) == fields(l); }
  static bool same(const ProgramShape& s, const AttentionShape& a) { return fields(s.attention) == fields(a); }
  template <class S> int shape_of(const S& wanted) const {  // shapes_: a new one
    constexpr int kind = std::is_same_v<S, LinearShape> ? phase_linear : phase_attention;
    for (int i = 0; i < shapes_; ++i) if (kinds_[i] == kind && same(program_->shape[i], wanted)) return i;
    return shapes_;
  }
  int use_shape(const LinearShape& l) { const int i = shape_of(l); return i < shapes_ ? i : (program_->shape[i].linear = l, kinds_[i] = phase_linear, shapes_++); }
  int use_shape(const AttentionShape& a) { const int i = shape_of(a); return i < shapes_ ? i : (program_->shape[i].attention = a, kinds_[i] = phase_attention, shapes_++); }
  // Which function does it; of linears once it is known what a slot holds.
  uint8_t linear_form(const ProgramPhase& phase) const {
    const LinearShape& l = program_->shape[phase.shape].linear;
    int form = l.group == 128 ? form_128 : l.group == 64 ? form_64 : l.group == 32 ? form_32 : form_dense;
    form |= by_columns(program_->rows) ? form_columns : program_->rows == 1 ? form_one : program_->rows == 2 ? form_two : form_four;
    if (std::min<int>(l.part_units, program_->slot_units) > program_workers) form |= form_pairs;
    if (l.part_units <= program_->slot_units) form |= form_steady;
    if (phase.from < 0) form |= form_loads;
    return static_cast<uint8_t>(form);
  }
  static uint8_t attention_form(const AttentionArgs& a) {
    const bool quick = a.rope_dims == a.head_dim && !a.rope_interleaved && (a.head_dim == 64 || a.head_dim == 128);
    return static_cast<uint8_t>((a.kv_type == type_i8 ? form_int8 : 0) | (a.head_dim > 64 ? form_wide : 0) | (quick ? form_quick : 0));
  }
  // Residuals stay with the blocks that have them.
  void spare_attending(ProgramPhase& phase) const { phase.spares = phase.kind == phase_linear && !program_->shape[phase.shape].linear.residual; }
  // The first block with one tile more: after those that had one more in the phase before.
  int16_t next_extra(const LinearShape& l) {
    const int start = next_extra_;
    next_extra_ = (next_extra_ + l.extra) % blocks_;
    return static_cast<int16_t>(start);
  }

  // ---- Who reads what ----
  Rows linear_input(const LinearArgs& a) const { return {a.x, a.x_stride, a.in, a.x_type}; }
  Rows linear_output(const LinearArgs& a) const { return {a.y, a.y_stride, linear_columns(a), a.y_type}; }
  Rows attention_input(const AttentionArgs& a) const { return {a.qkv, a.qkv_stride, (a.heads + 2 * a.kv_heads) * a.head_dim, a.type}; }
  Rows attention_output(const AttentionArgs& a) const { return {a.out, a.out_stride, a.heads * a.head_dim, a.type}; }
  static const float* wanted_norm(const LinearArgs& a) { return a.norm == norm_rms ? a.norm_weight : nullptr; }
  const Output* last_writer(const Rows& rows) const {
    const auto found = std::find_if(outputs_.rbegin(), outputs_.rend(), [&](const Output& o) { return o.rows.overlaps(rows, program_->rows); });
    return found == outputs_.rend() ? nullptr : &*found;
  }
  // From memory, when nothing here wrote it, or from the exchange, when it is exactly what one phase here wrote and every
  // reader wants it normed alike and in one order. more: words of the exchange that the reader wants for itself.
  bool readable(const Rows& rows, const float* norm, bool plain, bool whole, int more = 0) const {
    const Output* o = last_writer(rows);
    if (!o) return exchange_used_ + more <= exchange_limit_;
    if (!whole || !(o->rows == rows)) return false;
    if (o->reader >= 0) return o->norm == norm && o->plain == plain && exchange_used_ + more <= exchange_limit_;
    return exchange_used_ + exchange_words(program_->rows, rows.columns, o->tiles) + more <= exchange_limit_;
  }
  // What was there has been read (by phases that must have ended by then, where they read memory), and a residual is added
  // by whoever wrote the old value.
  bool writable(const Rows& to, const Rows& input, const LinearArgs* linear) const {
    for (const auto& [rows, phase] : read_from_memory_)
      if (rows.overlaps(to, program_->rows) && !depends(input, phase)) return false;
    const Output* o = last_writer(to);
    if (!o) return true;
    if (linear && linear->residual) return o->rows == to && o->tiles == linear->tiles && o->gated == (linear->gated != 0) && !program_->phase[o->phase].spares;
    return o->rows == to || o->reader >= 0;
  }
  // Whether whoever reads all of `input` starts after the given phase has ended.
  bool depends(const Rows& input, int phase) const {
    const Output* o = last_writer(input);
    for (int at = o ? o->phase : -1; at >= 0; at = input_of(at)) if (at == phase) return true;
    return false;
  }
  static int16_t units(int words) { return static_cast<int16_t>(words / exchange_unit); }
  // Of an array of floats, from the first one that a program meets on.
  bool reachable(const float* array) const {
    return !array || !program_->floats || std::abs(reinterpret_cast<intptr_t>(array) - reinterpret_cast<intptr_t>(program_->floats)) / 16 < INT32_MAX;
  }
  int32_t place_of(const float* array) {
    if (!array) return floats_none;
    if (!program_->floats) program_->floats = array;
    return static_cast<int32_t>((reinterpret_cast<intptr_t>(array) - reinterpret_cast<intptr_t>(program_->floats)) / 16);
  }
  int16_t read(const Rows& rows, const float* norm, bool plain) {
    Output* o = const_cast<Output*>(last_writer(rows));
    if (!o) {
      read_from_memory_.emplace_back(rows, program_->phases - 1);
      return -1;
    }
    ProgramPhase& writer = program_->phase[o->phase];
    if (o->reader < 0) {
      writer.to = units(exchange_used_);
      writer.to_plain = plain;
      if (writer.kind == phase_linear) writer.next_norm = place_of(norm);
      o->norm = norm;
      o->plain = plain;
      exchange_used_ += exchange_words(program_->rows, rows.columns, o->tiles);
    }
    o->reader = program_->phases - 1;
    return writer.to;
  }
  void writes(const Rows& rows, int tiles, bool gated) {
    outputs_.push_back({rows, program_->phases - 1});
    outputs_.back().tiles = tiles;
    outputs_.back().gated = gated;
  }

  // Words of the exchange are put back by the first linear that cannot start before all their readers have read: those
  // among the phases that its input depends on. What then is left, by block 0 at the end.
  void plan_resets() {
    std::vector<const Output*> order;
    for (const Output& o : outputs_) if (o.reader >= 0) order.push_back(&o);
    std::sort(order.begin(), order.end(), [&](const Output* a, const Output* b) { return program_->phase[a->phase].to < program_->phase[b->phase].to; });
    size_t next = 0;
    int begin = 0;
    for (int i = 0; i < program_->phases; ++i) {
      ProgramPhase& phase = program_->phase[i];
      if (phase.kind == phase_linear) {
        std::vector<bool> done(program_->phases);
        for (int at = input_of(i); at >= 0; at = input_of(at)) done[at] = true;
        for (; next < order.size() && done[order[next]->reader]; ++next)
          begin = next + 1 < order.size() ? program_->phase[order[next + 1]->phase].output() : exchange_used_;
      }
      phase.reset_end = units(begin);
    }
    program_->reset_begin = begin;
    program_->reset_end = exchange_used_;
  }
  // The phase whose output phase i reads; -1: none here.
  int input_of(int i) const {
    const int16_t from = program_->phase[i].from;
    for (const Output& o : outputs_) if (from >= 0 && o.reader >= 0 && program_->phase[o.phase].to == from) return o.phase;
    return -1;
  }

  std::unique_ptr<Program> program_ = std::make_unique<Program>();
  std::vector<std::function<void()>> alone_;
  std::vector<Output> outputs_;
  GroupSums sums_;
  std::vector<std::pair<Rows, int>> read_from_memory_;  // and by which phase
  DType type_;
  int blocks_, exchange_limit_, exchange_used_ = 0, scratch_ = 0, next_extra_ = 0, shapes_ = 0;
  int kinds_[program_shapes_max] = {};
  bool has_attention_ = false;
  const int shared_limit_;
  const bool bulk_;
};

// The program to add to, a new one if the present one cannot take more; nullptr when even a new one cannot.
template <class Takes> Collected* program_for(CudaStream& stream, DType type, int rows, const Takes& takes) {
  if (stream.deferred && stream.deferred->kind() != 0) stream.flush();
  auto* present = static_cast<Collected*>(stream.deferred.get());
  if (present) {
    if (takes(*present)) return present;
    stream.flush();
  }
  auto fresh = std::make_unique<Collected>(type, rows, stream.multiprocessors(), static_cast<int>(stream.exchange_bytes() / 4), stream.shared_limit(), hopper_linear_takes(stream.info().compute_capability));
  if (!takes(*fresh)) return nullptr;
  auto* made = fresh.get();
  stream.deferred = std::move(fresh);
  return made;
}

bool collects(const CudaStream& stream, int rows) {
  const int most = tuning().program_rows < 0 ? device::program_rows(stream.info().profile) : tuning().program_rows;
  return stream.defers && (stream.capturing || tuning().program_always) && rows >= 1 && rows <= std::min(most, program_rows_max) && (rows <= 4 || stream.programs_of_many);
}
bool small(int64_t v) { return v >= 0 && v <= INT32_MAX; }
bool aligned4(const void* p) { return (reinterpret_cast<uintptr_t>(p) & 3) == 0; }

}  // namespace

bool program_linear(CudaStream& stream, const LinearArgs& a, DType narrow, std::function<void()> alone) {
  if (!collects(stream, a.rows) || !small(a.x_stride) || !small(a.y_stride)) return false;
  if (a.group == 0 && (!tuning().program_dense || a.in % 32 != 0)) return false;
  if (a.norm == norm_layer || a.x_stride % 8 != 0 || !aligned16(a.x) || (a.norm != norm_none && !aligned16(a.norm_weight)) || !aligned16(a.bias) || !aligned16(a.weight_scale)) return false;
  Collected* program = program_for(stream, narrow, a.rows, [&](const Collected& c) { return c.takes_linear(a, narrow, stream.shared_limit()); });
  if (!program) return false;
  program->add_linear(a, std::move(alone));
  if (!stream.capturing) stream.flush();
  return true;
}

bool program_attention(CudaStream& stream, const AttentionArgs& given, DType narrow, std::function<void()> alone) {
  AttentionArgs a = given;
  if (!collects(stream, a.sequences) || a.max_rows != 1 || a.rows != a.sequences || a.head_dim > 128 || a.head_dim % 8 != 0 || a.rope_dims > 2 * 64) return false;
  if (a.kv_type == type_i8 && a.head_dim % 16 != 0) return false;
  if (a.qkv_stride % 8 != 0 || a.out_stride % 2 != 0 || !aligned16(a.qkv) || !aligned4(a.out)) return false;
  const int whole = a.sequences * a.kv_heads * divide_up(a.heads / a.kv_heads, program_heads);
  if (a.sequences > 4) {
    // Of more than four rows an attention joins what was taken before it. Where blocks have several items the chain is faster (7B's
    // shape, 8 rows: 1,650 us a step against 1,610; 8B's 1,540 against 1,700): the rest of the step goes there.
    if (hopper_linear_takes(stream.info().compute_capability) && whole > stream.multiprocessors()) stream.programs_of_many = false;
    if (!stream.programs_of_many || !stream.deferred || stream.deferred->kind() != 0) return false;
  }
  a.splits = std::clamp(stream.multiprocessors() / whole, 1, std::max(1, a.splits));
  Collected* program = program_for(stream, narrow, a.sequences, [&](const Collected& c) { return c.takes_attention(a, narrow, stream.shared_limit()); });
  if (!program) return false;
  program->add_attention(a, std::move(alone));
  if (!stream.capturing) stream.flush();
  return true;
}

}  // namespace hearth::kernels::cuda
