// Resident layouts of weights on CPUs, shared by every instruction set: one packed copy serves all of them.
//
// Output rows go in blocks of 16. In the quantised layouts 64 bytes hold four (w8) or eight (w4) consecutive inputs of
// each of the 16 rows: byte 4*row + i, i = 0..3. A 4-bit byte has input i in its low nibble and input i + 4 in its high
// one. So a 256-bit load holds rows 0-7, a 512-bit load all 16, a 128-bit load four; a 32-bit lane is one row and meets
// four int8 activations broadcast to every lane: no sum across lanes is needed. 16 loads of 64 bytes are an AMX tile.
//
//   w4-x16 block: [16 f32 row factors][in/group x 16 scales][in/group x 16 u8 zero points, asymmetric only]
//                 [in/8 x 64 bytes], every part padded to 64 bytes. weight = factor * scale * (q - zero).
//                 A factor is a power of two that brings the row's largest scale near 2^14, whole ones (whole_scales) near
//                 2^12. Scales are f16, whole ones i16: (q - 8) * scale then fits 16 bits.
//   w8-x16 block: [16 f32 scales][ceil(in/4) x 64 bytes, zero padded]
//   dense:        rows as they come.
//
// With `gated`, gate block i is followed by up block i, each half of the rows padded to whole blocks of its own.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/ops.h"

namespace hearth::kernels::cpu {

inline constexpr int block_rows = 16;

// Scales kept as whole numbers times the row's factor: those of symmetric groups of 32. W4A8 then scales and adds up sums of
// products as integers over a span.
inline constexpr int whole_scale_bits = 12;
constexpr bool whole_scales(const ops::LinearSpec& s) { return s.weight == ops::WeightFormat::w4 && s.symmetric && s.group == 32; }

// Inputs that share an activation scale in W4A8 (ActivationFormat::int8_group): a group, or four with whole scales (the last span
// may be shorter).
constexpr int activation_span(const ops::LinearSpec& s) { return whole_scales(s) ? 128 : s.group; }

struct W4Layout {
  size_t scales, zeros, quants, bytes;  // offsets in a block, and its size
};
inline constexpr const char* w4_layout_name = "w4-x16-whole12";  // converted files say it: a change of the bytes needs a new one
W4Layout w4_layout(int in, int group, bool symmetric);

struct W8Layout {
  size_t quants, bytes;
};
W8Layout w8_layout(int in);

// Blocks of a linear: of one half when gated.
struct BlockCount { int units, blocks_per_unit; };
BlockCount block_count(const ops::LinearSpec& spec);

size_t w4_packed_bytes(const ops::LinearSpec&);
void w4_pack(const ops::LinearSpec&, const ops::HostLinear& from, int begin, int end, void* to);
size_t w8_packed_bytes(const ops::LinearSpec&);
void w8_pack(const ops::LinearSpec&, const ops::HostLinear& from, int begin, int end, void* to);
size_t dense_packed_bytes(const ops::LinearSpec&);
void dense_pack(const ops::LinearSpec&, const ops::HostLinear& from, int begin, int end, void* to);

}  // namespace hearth::kernels::cpu
