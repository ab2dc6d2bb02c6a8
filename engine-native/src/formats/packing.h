// Moves 4-bit codes between stored orders and the canonical rows. Formulas: docs/formats.md (A: AWQ gemm, C: gemv_fast).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace hearth::formats {

// Unaligned little-endian load of element `i`.
template <class T>
inline T load_at(const std::byte* data, int64_t i) {
  T value;
  __builtin_memcpy(&value, data + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

// In AWQ's gemm order, nibble i of word c holds column 8c + awq_order[i].
inline constexpr std::array<int, 8> awq_order{0, 2, 4, 6, 1, 3, 5, 7};
inline constexpr std::array<int, 8> plain_order{0, 1, 2, 3, 4, 5, 6, 7};

// [in, out/8] int32 words packed along out, to rows [out, in/2].
void transpose_packed_out(const std::byte* words, int64_t in, int64_t out, const std::array<int, 8>& order, uint8_t* rows);
// [in/8, out] int32 words packed along in, plain order, to rows [out, in/2].
void transpose_packed_in(const std::byte* words, int64_t in, int64_t out, uint8_t* rows);
// gemv_fast: int16 [out/4, in], to rows [out, in/2].
void unpack_gemv_fast(const std::byte* halves, int64_t in, int64_t out, uint8_t* rows);
// One nibble a value: [rows, columns/8] int32 words to [columns, rows] bytes, plus `offset`, modulo 16.
std::vector<uint8_t> unpack_zeros(const std::byte* words, int64_t rows, int64_t columns, const std::array<int, 8>& order, int offset);
// columns[i] of each row becomes its column i; [out, in/2] in place.
void permute_columns(uint8_t* rows, int64_t in, int64_t out, std::span<const int32_t> columns);

// The reverse of the first, for the AutoAWQ files we write.
void pack_awq_gemm(const uint8_t* rows, int64_t in, int64_t out, int32_t* words);
std::vector<int32_t> pack_awq_zeros(const uint8_t* zeros, int64_t out, int64_t groups);

}  // namespace hearth::formats
