// The GGUF container, version 3 (and 2, which differs in nothing that matters here): key-values, tensor infos, aligned
// data. Parsed without copying: strings and arrays are views into the file.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/status.h"

namespace hearth::formats {

enum class GgufType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

// A metadata value. Scalars are in `integer` or `number`; `count` elements of an array start at `bytes`.
struct GgufValue {
  GgufType type = GgufType::u8;
  GgufType element = GgufType::u8;  // of an array
  int64_t integer = 0;              // integers and booleans; u64 beyond 2^63-1 is refused
  double number = 0;
  std::string_view text;
  uint64_t count = 0;
  std::span<const std::byte> bytes;
};

// How a tensor's elements are stored. The numbers are the file's.
enum class GgmlType : uint32_t { f32 = 0, f16 = 1, q4_0 = 2, q4_1 = 3, q8_0 = 8, q4_k = 12, q6_k = 14, bf16 = 30 };
struct GgmlBlock { int64_t elements = 0, bytes = 0; };  // 0: a type that is not read
GgmlBlock block_of(GgmlType type);
const char* name_of(GgmlType type);

struct GgufTensor {
  std::string name;
  GgmlType type = GgmlType::f32;
  std::vector<int64_t> shape;  // outermost first, as everywhere here (the file has them innermost first)
  std::span<const std::byte> data;
};

struct Gguf {
  std::map<std::string, GgufValue, std::less<>> values;
  std::vector<GgufTensor> tensors;
  std::optional<int64_t> integer(std::string_view key) const;
  std::optional<double> number(std::string_view key) const;  // of an integer too
  std::optional<bool> boolean(std::string_view key) const;
  std::string text(std::string_view key) const;
  std::vector<std::string> texts(std::string_view key) const;     // an array of strings, else empty
  std::vector<float> numbers(std::string_view key) const;         // an array of f32, else empty
  std::vector<int32_t> integers(std::string_view key) const;      // an array of i32 or u32, else empty
};

Result<Gguf> parse_gguf(std::span<const std::byte> file, const std::string& path);

// What a converted folder keeps of the GGUF file it was made from: its keys (vocabulary, chat template), no tensors.
inline constexpr const char* gguf_texts_name = "tokenizer.gguf";
Result<std::string> gguf_without_tensors(std::span<const std::byte> file, const std::string& path);
// The file that has a model's vocabulary in GGUF's form: `path` itself, or the one in a converted folder; empty without.
std::string gguf_texts_file(const std::string& path);

// Elements of one row of whole blocks, as f32.
void dequantize_blocks(GgmlType type, const std::byte* blocks, int64_t elements, float* to);
// Q4_0 rows in the canonical form (group 32, symmetric): codes [elements/2] low nibble first, scales [elements/32].
void unpack_q4_0(const std::byte* blocks, int64_t elements, uint8_t* codes, float* scales);

}  // namespace hearth::formats
