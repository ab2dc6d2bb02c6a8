// What the tokenizer tests share: fixture files, a small reader of GGUF metadata, random text.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "core/utf8.h"
#include "tokenizer/tokenizer.h"

namespace hearth::tokenizer::test {

using Json = nlohmann::json;
using Ids = std::vector<int32_t>;
using Shared = std::shared_ptr<const Tokenizer>;

inline std::string fixture(const std::string& name) { return std::string(HEARTH_SOURCE_DIR) + "/test/fixtures/tokenizers/" + name; }

inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

inline Shared must(Result<Shared> result) {
  EXPECT_TRUE(result.is_ok()) << result.status().message();
  return result ? *result : nullptr;
}

inline Shared load_json(const std::string& name) { return must(Tokenizer::from_tokenizer_json(read_file(fixture(name)))); }
inline Shared load_model(const std::string& name) {
  std::string data = read_file(fixture(name));
  return must(Tokenizer::from_sentencepiece(std::as_bytes(std::span(data))));
}

inline Ids encode(const Tokenizer& t, std::string_view text, bool special = false, std::vector<ByteRange> literal = {}) {
  Ids ids;
  Status status = t.encode(text, {special, literal}, ids);
  EXPECT_TRUE(status.is_ok()) << status.message();
  return ids;
}
inline Ids encode_literal(const Tokenizer& t, std::string_view text) {
  return encode(t, text, false, {{0, static_cast<uint32_t>(text.size())}});
}

// Reads the key-value part of a GGUF file, version 3, little-endian; enough for a vocabulary.
class GgufMetadata {
 public:
  explicit GgufMetadata(std::string data) : data_(std::move(data)) {
    EXPECT_EQ(data_.substr(0, 4), "GGUF");
    at_ = 4;
    take<uint32_t>();
    take<uint64_t>();
    for (auto count = take<uint64_t>(); count > 0; --count) {
      std::string key = text();
      values_[key] = value(take<uint32_t>());
    }
  }
  const Json& at(const std::string& key) const {
    static const Json none;
    auto it = values_.find("tokenizer.ggml." + key);
    return it == values_.end() ? none : it->second;
  }

 private:
  template <class T>
  T take() {
    T v;
    std::memcpy(&v, data_.data() + at_, sizeof v);
    at_ += sizeof v;
    return v;
  }
  std::string text() {
    auto n = take<uint64_t>();
    at_ += n;
    return data_.substr(at_ - n, n);
  }
  Json value(uint32_t type) {
    switch (type) {
      case 0: return take<uint8_t>();
      case 1: return take<int8_t>();
      case 2: return take<uint16_t>();
      case 3: return take<int16_t>();
      case 4: return take<uint32_t>();
      case 5: return take<int32_t>();
      case 6: return take<float>();
      case 7: return take<uint8_t>() != 0;
      case 8: return text();
      case 10: return take<uint64_t>();
      case 11: return take<int64_t>();
      case 12: return take<double>();
      case 9: break;
      default: ADD_FAILURE() << "GGUF type " << type; return {};
    }
    Json list = Json::array();
    auto element = take<uint32_t>();
    for (auto n = take<uint64_t>(); n > 0; --n) list.push_back(value(element));
    return list;
  }
  std::string data_;
  size_t at_ = 0;
  std::map<std::string, Json> values_;
};

inline GgufVocabulary gguf_vocabulary(const std::string& name) {
  GgufMetadata data(read_file(fixture(name)));
  GgufVocabulary v;
  v.model = data.at("model").get<std::string>();
  if (data.at("pre").is_string()) v.pre = data.at("pre").get<std::string>();
  v.tokens = data.at("tokens").get<std::vector<std::string>>();
  if (data.at("scores").is_array()) v.scores = data.at("scores").get<std::vector<float>>();
  if (data.at("token_type").is_array()) v.types = data.at("token_type").get<std::vector<int32_t>>();
  if (data.at("merges").is_array()) v.merges = data.at("merges").get<std::vector<std::string>>();
  if (data.at("bos_token_id").is_number()) v.bos = data.at("bos_token_id").get<int32_t>();
  if (data.at("eos_token_id").is_number()) v.eos = data.at("eos_token_id").get<int32_t>();
  if (data.at("unknown_token_id").is_number()) v.unk = data.at("unknown_token_id").get<int32_t>();
  if (data.at("add_bos_token").is_boolean()) v.add_bos = data.at("add_bos_token").get<bool>();
  if (data.at("add_space_prefix").is_boolean()) v.add_space_prefix = data.at("add_space_prefix").get<bool>();
  return v;
}

// Any code point but surrogates; every plane, with a lean towards the characters that rules speak of.
inline char32_t random_char(std::mt19937& rng) {
  static const char32_t favourites[] = {' ', ' ', ' ', '\n', '\r', '\t', '\'', 's', 'l', 'e', 'v', 'r', 't', 'M', 'D', '1', '2', '.', 0,
                                        0x85, 0xA0, 0x17F, 0x301, 0x2028, 0x3000, 0x180E, 0x200B, 0xFEFF, 0x2581, 0xFFFD, 0x10FFFF};
  auto below = [&](uint32_t n) { return std::uniform_int_distribution<uint32_t>(0, n - 1)(rng); };
  switch (below(8)) {
    case 0: case 1: case 2: return favourites[below(std::size(favourites))];
    case 3: case 4: return below(128);
    case 5: return below(0x800);
    case 6: {
      char32_t c = below(0x10000);
      return c >= 0xD800 && c < 0xE000 ? U'x' : c;
    }
    default: return 0x10000 + below(0x100000);
  }
}

inline std::string random_text(std::mt19937& rng, size_t chars) {
  std::string text;
  for (size_t i = 0; i < chars; ++i) utf8::append(text, random_char(rng));
  return text;
}

}  // namespace hearth::tokenizer::test
