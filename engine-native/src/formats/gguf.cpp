#include "formats/gguf.h"

#include <algorithm>
#include <limits>

#include "formats/json_text.h"
#include "formats/packing.h"
#include "formats/tensor_store.h"

namespace hearth::formats {

namespace {

constexpr uint64_t items_max = 1 << 20, alignment_max = 1 << 16, name_bytes_max = 4096;

// Bytes of a scalar; 0 for strings, arrays and unknown types.
size_t scalar_bytes(GgufType type) {
  switch (type) {
    case GgufType::u8: case GgufType::i8: case GgufType::boolean: return 1;
    case GgufType::u16: case GgufType::i16: return 2;
    case GgufType::u32: case GgufType::i32: case GgufType::f32: return 4;
    case GgufType::u64: case GgufType::i64: case GgufType::f64: return 8;
    default: return 0;
  }
}

class Parser {
 public:
  Parser(std::span<const std::byte> bytes, const std::string& path) : bytes_(bytes), path_(path) {}
  Result<Gguf> parse();
  // The header for no tensors, and the bytes of the keys.
  Result<std::string> keys_only();

 private:
  Result<std::pair<uint64_t, uint64_t>> parse_header();
  Status error(const std::string& what) const { return corrupt(path_ + ": " + what); }
  uint64_t left() const { return bytes_.size() - position_; }

  template <class T>
  Result<T> take() {
    if (left() < sizeof(T)) return error("truncated at byte " + std::to_string(position_));
    const T value = load_at<T>(bytes_.data() + position_, 0);
    position_ += sizeof(T);
    return value;
  }

  Result<std::string_view> take_string() {
    HEARTH_ASSIGN(const uint64_t size, take<uint64_t>());
    if (size > left()) return error("a string of " + std::to_string(size) + " bytes at byte " + std::to_string(position_));
    const std::string_view text(reinterpret_cast<const char*>(bytes_.data()) + position_, size);
    position_ += size;
    return text;
  }

  Status parse_scalar(GgufValue& value, const std::string& key);
  Status parse_array(GgufValue& value, const std::string& key);
  Status parse_values(Gguf& gguf, uint64_t count);
  Result<GgufTensor> parse_tensor(uint64_t& offset);
  Status place_tensors(Gguf& gguf, const std::vector<uint64_t>& offsets);

  std::span<const std::byte> bytes_;
  const std::string& path_;
  uint64_t position_ = 0;
};

Status Parser::parse_scalar(GgufValue& value, const std::string& key) {
  const size_t size = scalar_bytes(value.type);
  if (size == 0) return error("key '" + key + "' has unknown type " + std::to_string(static_cast<uint32_t>(value.type)));
  if (left() < size) return error("truncated in key '" + key + "'");
  const std::byte* at = bytes_.data() + position_;
  position_ += size;
  switch (value.type) {
    case GgufType::u8: case GgufType::boolean: value.integer = load_at<uint8_t>(at, 0); break;
    case GgufType::i8: value.integer = load_at<int8_t>(at, 0); break;
    case GgufType::u16: value.integer = load_at<uint16_t>(at, 0); break;
    case GgufType::i16: value.integer = load_at<int16_t>(at, 0); break;
    case GgufType::u32: value.integer = load_at<uint32_t>(at, 0); break;
    case GgufType::i32: value.integer = load_at<int32_t>(at, 0); break;
    case GgufType::f32: value.number = load_at<float>(at, 0); break;
    case GgufType::f64: value.number = load_at<double>(at, 0); break;
    case GgufType::i64: value.integer = load_at<int64_t>(at, 0); break;
    default: value.integer = load_at<int64_t>(at, 0); break;
  }
  if (value.type == GgufType::u64 && value.integer < 0) return error("key '" + key + "' is over 2^63-1");
  return Status::ok();
}

Status Parser::parse_array(GgufValue& value, const std::string& key) {
  HEARTH_ASSIGN(const uint32_t element, take<uint32_t>());
  HEARTH_ASSIGN(value.count, take<uint64_t>());
  value.element = static_cast<GgufType>(element);
  const uint64_t begin = position_;
  const size_t size = scalar_bytes(value.element);
  if (size > 0) {
    if (value.count > left() / size) return error("key '" + key + "': an array of " + std::to_string(value.count) + " elements in a file too short");
    position_ += value.count * size;
  } else if (value.element == GgufType::string) {
    if (value.count > left() / sizeof(uint64_t))
      return error("key '" + key + "': an array of " + std::to_string(value.count) + " strings in a file too short");
    for (uint64_t i = 0; i < value.count; i++) HEARTH_TRY(take_string().status());
  } else {
    return error("key '" + key + "': an array of type " + std::to_string(element));
  }
  value.bytes = bytes_.subspan(begin, position_ - begin);
  return Status::ok();
}

Status Parser::parse_values(Gguf& gguf, uint64_t count) {
  for (uint64_t i = 0; i < count; i++) {
    HEARTH_ASSIGN(const std::string_view name, take_string());
    if (name.size() > name_bytes_max) return error("a key of " + std::to_string(name.size()) + " bytes");
    const std::string key(name);
    GgufValue value;
    HEARTH_ASSIGN(const uint32_t type, take<uint32_t>());
    value.type = static_cast<GgufType>(type);
    if (value.type == GgufType::string) {
      HEARTH_ASSIGN(value.text, take_string());
    } else {
      HEARTH_TRY(value.type == GgufType::array ? parse_array(value, key) : parse_scalar(value, key));
    }
    if (!gguf.values.emplace(key, value).second) return error("key '" + key + "' appears twice");
  }
  return Status::ok();
}

Result<GgufTensor> Parser::parse_tensor(uint64_t& offset) {
  HEARTH_ASSIGN(const std::string_view name, take_string());
  if (name.empty() || name.size() > name_bytes_max) return error("a tensor name of " + std::to_string(name.size()) + " bytes");
  GgufTensor tensor{.name = std::string(name), .type = GgmlType::f32, .shape = {}, .data = {}};
  const std::string what = "tensor '" + tensor.name + "'";
  HEARTH_ASSIGN(const uint32_t dimensions, take<uint32_t>());
  if (dimensions < 1 || dimensions > 4) return error(what + " has " + std::to_string(dimensions) + " dimensions");
  for (uint32_t i = 0; i < dimensions; i++) {
    HEARTH_ASSIGN(const uint64_t size, take<uint64_t>());
    if (size == 0 || size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return error(what + " has a size of " + std::to_string(size));
    tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(size));
  }
  HEARTH_ASSIGN(const uint32_t type, take<uint32_t>());
  tensor.type = static_cast<GgmlType>(type);
  HEARTH_ASSIGN(offset, take<uint64_t>());
  const GgmlBlock block = block_of(tensor.type);
  if (block.elements == 0) {
    return unsupported(path_ + ": " + what + " has ggml type " + std::to_string(type) + "; F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K and Q6_K are read");
  }
  if (tensor.shape.back() % block.elements != 0) {
    return error(what + ": rows of " + std::to_string(tensor.shape.back()) + " are not whole blocks of " + name_of(tensor.type));
  }
  return tensor;
}

// Data ranges: aligned, inside the file, apart from each other.
Status Parser::place_tensors(Gguf& gguf, const std::vector<uint64_t>& offsets) {
  const int64_t alignment = gguf.integer("general.alignment").value_or(32);
  if (alignment < 1 || alignment > static_cast<int64_t>(alignment_max) || (alignment & (alignment - 1)) != 0) {
    return error("general.alignment is " + std::to_string(alignment));
  }
  const uint64_t unit = static_cast<uint64_t>(alignment);
  const uint64_t begin = (position_ + unit - 1) / unit * unit;
  if (begin > bytes_.size() && !gguf.tensors.empty()) return error("truncated before the tensors");
  std::vector<std::pair<uint64_t, size_t>> order;  // offset, tensor
  for (size_t i = 0; i < gguf.tensors.size(); i++) {
    GgufTensor& tensor = gguf.tensors[i];
    const GgmlBlock block = block_of(tensor.type);
    std::vector<int64_t> blocks = tensor.shape;
    blocks.back() /= block.elements;
    const auto size = checked_bytes(blocks, block.bytes);
    const std::string what = "tensor '" + tensor.name + "'";
    if (offsets[i] % unit != 0) return error(what + ": offset " + std::to_string(offsets[i]) + " is not aligned to " + std::to_string(unit));
    const uint64_t room = bytes_.size() - begin;
    if (!size || offsets[i] > room || static_cast<uint64_t>(*size) > room - offsets[i]) {
      return error(what + " of shape " + shape_text(tensor.shape) + " ends outside the file: it is truncated or its header is wrong");
    }
    tensor.data = bytes_.subspan(begin + offsets[i], static_cast<size_t>(*size));
    order.emplace_back(offsets[i], i);
  }
  std::sort(order.begin(), order.end());
  for (size_t i = 1; i < order.size(); i++) {
    const GgufTensor &before = gguf.tensors[order[i - 1].second], &after = gguf.tensors[order[i].second];
    if (before.data.data() + before.data.size() > after.data.data()) return error("tensor '" + after.name + "' overlaps '" + before.name + "'");
  }
  return Status::ok();
}

// Numbers of tensors and keys.
Result<std::pair<uint64_t, uint64_t>> Parser::parse_header() {
  HEARTH_ASSIGN(const uint32_t magic, take<uint32_t>());
  if (magic != 0x46554747) return error("not a GGUF file");
  HEARTH_ASSIGN(const uint32_t version, take<uint32_t>());
  if (version != 2 && version != 3) return unsupported(path_ + ": GGUF version " + std::to_string(version) + "; 2 and 3, little-endian, are read");
  HEARTH_ASSIGN(const uint64_t tensors, take<uint64_t>());
  HEARTH_ASSIGN(const uint64_t values, take<uint64_t>());
  if (tensors > items_max || values > items_max) return error(std::to_string(tensors) + " tensors and " + std::to_string(values) + " keys");
  return std::pair{tensors, values};
}

Result<std::string> Parser::keys_only() {
  HEARTH_ASSIGN(const auto counts, parse_header());
  Gguf gguf;
  HEARTH_TRY(parse_values(gguf, counts.second));
  std::string kept(reinterpret_cast<const char*>(bytes_.data()), position_);
  constexpr size_t tensor_count = 8;  // after magic and version
  kept.replace(tensor_count, sizeof(uint64_t), sizeof(uint64_t), '\0');
  return kept;
}

Result<Gguf> Parser::parse() {
  HEARTH_ASSIGN(const auto counts, parse_header());
  const auto [tensors, values] = counts;
  Gguf gguf;
  HEARTH_TRY(parse_values(gguf, values));
  std::vector<uint64_t> offsets;
  for (uint64_t i = 0; i < tensors; i++) {
    uint64_t offset = 0;
    HEARTH_ASSIGN(auto tensor, parse_tensor(offset));
    gguf.tensors.push_back(std::move(tensor));
    offsets.push_back(offset);
  }
  HEARTH_TRY(place_tensors(gguf, offsets));
  return gguf;
}

const GgufValue* find_value(const Gguf& gguf, std::string_view key) {
  const auto found = gguf.values.find(key);
  return found == gguf.values.end() ? nullptr : &found->second;
}

bool is_integer(GgufType type) {
  return type != GgufType::f32 && type != GgufType::f64 && type != GgufType::string && type != GgufType::array && type != GgufType::boolean;
}

}  // namespace

Result<Gguf> parse_gguf(std::span<const std::byte> file, const std::string& path) { return Parser(file, path).parse(); }

Result<std::string> gguf_without_tensors(std::span<const std::byte> file, const std::string& path) { return Parser(file, path).keys_only(); }

std::string gguf_texts_file(const std::string& path) {
  if (path.empty() || path.ends_with(".gguf")) return path;
  const std::string kept = path + "/" + gguf_texts_name;
  return file_exists(kept) ? kept : std::string();
}

std::optional<int64_t> Gguf::integer(std::string_view key) const {
  const GgufValue* value = find_value(*this, key);
  return value && is_integer(value->type) ? std::optional(value->integer) : std::nullopt;
}

std::optional<double> Gguf::number(std::string_view key) const {
  const GgufValue* value = find_value(*this, key);
  if (value && (value->type == GgufType::f32 || value->type == GgufType::f64)) return value->number;
  const auto whole = integer(key);
  return whole ? std::optional(static_cast<double>(*whole)) : std::nullopt;
}

std::optional<bool> Gguf::boolean(std::string_view key) const {
  const GgufValue* value = find_value(*this, key);
  return value && value->type == GgufType::boolean ? std::optional(value->integer != 0) : std::nullopt;
}

std::string Gguf::text(std::string_view key) const {
  const GgufValue* value = find_value(*this, key);
  return value && value->type == GgufType::string ? std::string(value->text) : std::string();
}

std::vector<std::string> Gguf::texts(std::string_view key) const {
  const GgufValue* value = find_value(*this, key);
  std::vector<std::string> texts;
  if (!value || value->type != GgufType::array || value->element != GgufType::string) return texts;
  texts.reserve(value->count);
  const std::byte* at = value->bytes.data();
  for (uint64_t i = 0; i < value->count; i++) {  // walked and checked when it was parsed
    const uint64_t size = load_at<uint64_t>(at, 0);
    texts.emplace_back(reinterpret_cast<const char*>(at) + sizeof size, size);
    at += sizeof size + size;
  }
  return texts;
}

std::vector<float> Gguf::numbers(std::string_view key) const {
  const GgufValue* value = find_value(*this, key);
  std::vector<float> numbers;
  if (!value || value->type != GgufType::array || value->element != GgufType::f32) return numbers;
  for (uint64_t i = 0; i < value->count; i++) numbers.push_back(load_at<float>(value->bytes.data(), static_cast<int64_t>(i)));
  return numbers;
}

std::vector<int32_t> Gguf::integers(std::string_view key) const {
  const GgufValue* value = find_value(*this, key);
  std::vector<int32_t> integers;
  if (!value || value->type != GgufType::array || (value->element != GgufType::i32 && value->element != GgufType::u32)) return integers;
  for (uint64_t i = 0; i < value->count; i++) integers.push_back(load_at<int32_t>(value->bytes.data(), static_cast<int64_t>(i)));
  return integers;
}

}  // namespace hearth::formats
