#include "formats/packing.h"

#include <algorithm>

namespace hearth::formats {

namespace {

// Tiles of a transposition: 64 bytes of input a row, 64 bytes of output a row.
constexpr int64_t tile_words = 16, tile_inputs = 128;

}  // namespace

void transpose_packed_out(const std::byte* words, int64_t in, int64_t out, const std::array<int, 8>& order, uint8_t* rows) {
  const int64_t columns = out / 8, row_bytes = in / 2;
  for (int64_t c0 = 0; c0 < columns; c0 += tile_words) {
    for (int64_t k0 = 0; k0 < in; k0 += tile_inputs) {
      const int64_t c1 = std::min(columns, c0 + tile_words), k1 = std::min(in, k0 + tile_inputs);
      for (int64_t c = c0; c < c1; c++) {
        for (int64_t k = k0; k < k1; k += 2) {
          const uint32_t low = load_at<uint32_t>(words, k * columns + c), high = load_at<uint32_t>(words, (k + 1) * columns + c);
          for (int i = 0; i < 8; i++) {
            rows[(8 * c + order[static_cast<size_t>(i)]) * row_bytes + k / 2] =
                static_cast<uint8_t>((low >> (4 * i) & 15) | (high >> (4 * i) & 15) << 4);
          }
        }
      }
    }
  }
}

void transpose_packed_in(const std::byte* words, int64_t in, int64_t out, uint8_t* rows) {
  const int64_t row_words = in / 8;
  for (int64_t n0 = 0; n0 < out; n0 += tile_words) {
    const int64_t n1 = std::min(out, n0 + tile_words);
    for (int64_t r = 0; r < row_words; r++) {
      for (int64_t n = n0; n < n1; n++) {  // eight codes, lowest nibble first: a word of the canonical row as it is
        __builtin_memcpy(rows + (n * row_words + r) * 4, words + (r * out + n) * 4, 4);
      }
    }
  }
}

void unpack_gemv_fast(const std::byte* halves, int64_t in, int64_t out, uint8_t* rows) {
  for (int64_t n = 0; n < out; n++) {
    uint8_t* row = rows + n * (in / 2);
    const int64_t line = (n / 4) * in;
    for (int64_t k = 0; k < in; k += 2) {
      const int64_t i = k % 32;
      const int64_t column = (k / 64) * 64 + (n % 4) * 16 + ((k % 64) / 32) * 8 + i % 8;
      const int shift = static_cast<int>(i / 8) * 4;
      const int low = load_at<uint16_t>(halves, line + column) >> shift & 15;
      const int high = load_at<uint16_t>(halves, line + column + 1) >> shift & 15;
      row[k / 2] = static_cast<uint8_t>(low | high << 4);
    }
  }
}

std::vector<uint8_t> unpack_zeros(const std::byte* words, int64_t rows, int64_t columns, const std::array<int, 8>& order, int offset) {
  std::vector<uint8_t> zeros(static_cast<size_t>(rows * columns));
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t c = 0; c < columns / 8; c++) {
      const uint32_t word = load_at<uint32_t>(words, r * (columns / 8) + c);
      for (int i = 0; i < 8; i++) {
        const int64_t column = 8 * c + order[static_cast<size_t>(i)];
        zeros[static_cast<size_t>(column * rows + r)] = static_cast<uint8_t>(((word >> (4 * i) & 15) + static_cast<uint32_t>(offset)) & 15);
      }
    }
  }
  return zeros;
}

void permute_columns(uint8_t* rows, int64_t in, int64_t out, std::span<const int32_t> columns) {
  std::vector<uint8_t> codes(static_cast<size_t>(in));
  for (int64_t n = 0; n < out; n++) {
    uint8_t* row = rows + n * (in / 2);
    for (int64_t k = 0; k < in; k++) codes[static_cast<size_t>(k)] = static_cast<uint8_t>(row[k / 2] >> (k % 2 * 4) & 15);
    for (int64_t k = 0; k < in; k += 2) {
      const size_t low = static_cast<size_t>(columns[static_cast<size_t>(k)]), high = static_cast<size_t>(columns[static_cast<size_t>(k + 1)]);
      row[k / 2] = static_cast<uint8_t>(codes[low] | codes[high] << 4);
    }
  }
}

void pack_awq_gemm(const uint8_t* rows, int64_t in, int64_t out, int32_t* words) {
  const int64_t columns = out / 8, row_bytes = in / 2;
  for (int64_t k = 0; k < in; k++) {
    for (int64_t c = 0; c < columns; c++) {
      uint32_t word = 0;
      for (int i = 0; i < 8; i++) {
        const uint32_t byte = rows[(8 * c + awq_order[static_cast<size_t>(i)]) * row_bytes + k / 2];
        word |= (byte >> (k % 2 * 4) & 15u) << (4 * i);
      }
      words[k * columns + c] = static_cast<int32_t>(word);
    }
  }
}

std::vector<int32_t> pack_awq_zeros(const uint8_t* zeros, int64_t out, int64_t groups) {
  std::vector<int32_t> words(static_cast<size_t>(groups * (out / 8)));
  for (int64_t g = 0; g < groups; g++) {
    for (int64_t c = 0; c < out / 8; c++) {
      uint32_t word = 0;
      for (int i = 0; i < 8; i++) word |= static_cast<uint32_t>(zeros[(8 * c + awq_order[static_cast<size_t>(i)]) * groups + g]) << (4 * i);
      words[static_cast<size_t>(g * (out / 8) + c)] = static_cast<int32_t>(word);
    }
  }
  return words;
}

}  // namespace hearth::formats
