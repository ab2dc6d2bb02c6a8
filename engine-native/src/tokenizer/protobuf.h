// Just enough of protobuf's wire format to read a SentencePiece model, with every length checked.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

#include "core/status.h"

namespace hearth::tokenizer {

struct ProtobufField {
  uint32_t number = 0;
  uint32_t wire = 0;         // 0 varint, 1 64 bit, 2 bytes, 5 32 bit
  uint64_t value = 0;        // wire 0, 1, 5
  std::string_view bytes{};  // wire 2

  float as_float() const {
    auto bits = static_cast<uint32_t>(value);
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
  }
};

class ProtobufReader {
 public:
  explicit ProtobufReader(std::string_view data) : data_(data) {}
  bool done() const { return at_ >= data_.size(); }

  // The next field. Call only when not done.
  Status next(ProtobufField& field) {
    uint64_t key = 0;
    HEARTH_TRY(varint(key));
    field.number = static_cast<uint32_t>(key >> 3);
    field.wire = static_cast<uint32_t>(key & 7);
    if (key >> 3 == 0 || key >> 3 > 0x1FFFFFFF) return corrupt("bad field number");
    switch (field.wire) {
      case 0: return varint(field.value);
      case 1: return fixed(field.value, 8);
      case 5: return fixed(field.value, 4);
      case 2: break;
      default: return corrupt("unknown wire type");
    }
    uint64_t length = 0;
    HEARTH_TRY(varint(length));
    if (length > data_.size() - at_) return corrupt("a field reaches beyond the end");
    field.bytes = data_.substr(at_, static_cast<size_t>(length));
    at_ += static_cast<size_t>(length);
    return Status::ok();
  }

 private:
  Status varint(uint64_t& out) {
    out = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at_ >= data_.size()) return corrupt("a number is cut off");
      auto byte = static_cast<unsigned char>(data_[at_++]);
      out |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (!(byte & 0x80)) return Status::ok();
    }
    return corrupt("a number of more than 64 bits");
  }
  Status fixed(uint64_t& out, size_t size) {
    if (size > data_.size() - at_) return corrupt("a number is cut off");
    out = 0;
    for (size_t i = 0; i < size; ++i) out |= static_cast<uint64_t>(static_cast<unsigned char>(data_[at_ + i])) << (8 * i);
    at_ += size;
    return Status::ok();
  }
  std::string_view data_;
  size_t at_ = 0;
};

}  // namespace hearth::tokenizer
