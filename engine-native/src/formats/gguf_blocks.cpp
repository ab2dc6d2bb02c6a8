// GGUF's block formats. All are little-endian; d and m are FP16.
#include "core/dtype.h"
#include "formats/gguf.h"
#include "formats/packing.h"

namespace hearth::formats {

namespace {

float half_at(const std::byte* at) { return to_float(load_at<Half>(at, 0)); }
int byte_at(const std::byte* at, int64_t i) { return std::to_integer<int>(at[i]); }

// d, 16 bytes: element j in the low nibble of byte j, element j + 16 in the high one; w = d (q - 8).
void q4_0(const std::byte* block, float* to) {
  const float d = half_at(block);
  for (int j = 0; j < 16; j++) {
    to[j] = d * static_cast<float>((byte_at(block + 2, j) & 15) - 8);
    to[j + 16] = d * static_cast<float>((byte_at(block + 2, j) >> 4) - 8);
  }
}

// d, m, 16 bytes as in Q4_0; w = d q + m.
void q4_1(const std::byte* block, float* to) {
  const float d = half_at(block), m = half_at(block + 2);
  for (int j = 0; j < 16; j++) {
    to[j] = d * static_cast<float>(byte_at(block + 4, j) & 15) + m;
    to[j + 16] = d * static_cast<float>(byte_at(block + 4, j) >> 4) + m;
  }
}

// d, 32 signed bytes; w = d q.
void q8_0(const std::byte* block, float* to) {
  const float d = half_at(block);
  for (int j = 0; j < 32; j++) to[j] = d * static_cast<float>(load_at<int8_t>(block + 2, j));
}

// Eight 6-bit scales and eight 6-bit minimums in 12 bytes: the first four of each in the low six bits of bytes 0-3 and
// 4-7; the last four have their low four bits in bytes 8-11 and their high two in the top of bytes 0-7.
void scale_and_min(const std::byte* packed, int i, int& scale, int& minimum) {
  if (i < 4) {
    scale = byte_at(packed, i) & 63;
    minimum = byte_at(packed, i + 4) & 63;
  } else {
    scale = (byte_at(packed, i + 4) & 15) | (byte_at(packed, i - 4) >> 6) << 4;
    minimum = (byte_at(packed, i + 4) >> 4) | (byte_at(packed, i) >> 6) << 4;
  }
}

// d, dmin, 12 bytes of scales, 128 bytes: four runs of 32 bytes, each 32 low nibbles then 32 high ones;
// w = d scale q - dmin minimum.
void q4_k(const std::byte* block, float* to) {
  const float d = half_at(block), dmin = half_at(block + 2);
  for (int i = 0; i < 8; i++) {
    int scale = 0, minimum = 0;
    scale_and_min(block + 4, i, scale, minimum);
    const float step = d * static_cast<float>(scale), low = dmin * static_cast<float>(minimum);
    const std::byte* codes = block + 16 + (i / 2) * 32;
    for (int j = 0; j < 32; j++) to[i * 32 + j] = step * static_cast<float>(byte_at(codes, j) >> (i % 2 * 4) & 15) - low;
  }
}

// 128 bytes of low nibbles, 64 of high bit pairs, 16 signed scales, d; w = d scale (q - 32). Two halves of 128 elements,
// each four runs of 32 whose low bits share 64 bytes and whose high bits share 32.
void q6_k(const std::byte* block, float* to) {
  const float d = half_at(block + 208);
  for (int half = 0; half < 2; half++) {
    const std::byte *low = block + half * 64, *high = block + 128 + half * 32, *scales = block + 192 + half * 8;
    for (int run = 0; run < 4; run++) {
      for (int j = 0; j < 32; j++) {
        const int code = (byte_at(low, j + run % 2 * 32) >> (run / 2 * 4) & 15) | (byte_at(high, j) >> (run * 2) & 3) << 4;
        const float scale = static_cast<float>(load_at<int8_t>(scales, run * 2 + j / 16));
        to[half * 128 + run * 32 + j] = d * scale * static_cast<float>(code - 32);
      }
    }
  }
}

template <class T>
void plain(const std::byte* from, int64_t elements, float* to) {
  for (int64_t i = 0; i < elements; i++) {
    if constexpr (std::is_same_v<T, float>) to[i] = load_at<float>(from, i);
    else to[i] = to_float(load_at<T>(from, i));
  }
}

}  // namespace

GgmlBlock block_of(GgmlType type) {
  switch (type) {
    case GgmlType::f32: return {1, 4};
    case GgmlType::f16: case GgmlType::bf16: return {1, 2};
    case GgmlType::q4_0: return {32, 18};
    case GgmlType::q4_1: return {32, 20};
    case GgmlType::q8_0: return {32, 34};
    case GgmlType::q4_k: return {256, 144};
    case GgmlType::q6_k: return {256, 210};
  }
  return {};
}

const char* name_of(GgmlType type) {
  switch (type) {
    case GgmlType::f32: return "F32";
    case GgmlType::f16: return "F16";
    case GgmlType::bf16: return "BF16";
    case GgmlType::q4_0: return "Q4_0";
    case GgmlType::q4_1: return "Q4_1";
    case GgmlType::q8_0: return "Q8_0";
    case GgmlType::q4_k: return "Q4_K";
    case GgmlType::q6_k: return "Q6_K";
  }
  return "unknown";
}

void dequantize_blocks(GgmlType type, const std::byte* blocks, int64_t elements, float* to) {
  if (type == GgmlType::f32) return plain<float>(blocks, elements, to);
  if (type == GgmlType::f16) return plain<Half>(blocks, elements, to);
  if (type == GgmlType::bf16) return plain<BFloat16>(blocks, elements, to);
  const GgmlBlock block = block_of(type);
  for (int64_t i = 0; i < elements / block.elements; i++) {
    const std::byte* from = blocks + i * block.bytes;
    float* at = to + i * block.elements;
    switch (type) {
      case GgmlType::q4_0: q4_0(from, at); break;
      case GgmlType::q4_1: q4_1(from, at); break;
      case GgmlType::q8_0: q8_0(from, at); break;
      case GgmlType::q4_k: q4_k(from, at); break;
      default: q6_k(from, at); break;
    }
  }
}

void unpack_q4_0(const std::byte* blocks, int64_t elements, uint8_t* codes, float* scales) {
  for (int64_t i = 0; i < elements / 32; i++) {
    const std::byte* block = blocks + i * 18;
    scales[i] = half_at(block);
    for (int j = 0; j < 16; j += 2) {
      const int first = byte_at(block + 2, j), second = byte_at(block + 2, j + 1);
      codes[i * 16 + j / 2] = static_cast<uint8_t>((first & 15) | (second & 15) << 4);
      codes[i * 16 + 8 + j / 2] = static_cast<uint8_t>(first >> 4 | (second >> 4) << 4);
    }
  }
}

}  // namespace hearth::formats
