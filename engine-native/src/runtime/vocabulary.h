// Text and tokens as the runtime needs them: a model's tokenizer, or bytes for models of random weights, which have none.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/status.h"
#include "tokenizer/tokenizer.h"

namespace hearth::runtime {

using tokenizer::ByteRange;

// Ids to text, one at a time; what comes out is whole characters.
class TextStream {
 public:
  virtual ~TextStream() = default;
  virtual void push(int32_t id, std::string& out) = 0;
  virtual void flush(std::string& out) = 0;
};

class Vocabulary {
 public:
  virtual ~Vocabulary() = default;
  virtual int size() const = 0;
  virtual Status encode(std::string_view text, bool add_special, std::span<const ByteRange> literal,
                        std::vector<int32_t>& ids) const = 0;
  virtual std::string decode(std::span<const int32_t> ids, bool skip_special) const = 0;
  virtual std::string_view token_bytes(int32_t id) const = 0;
  virtual std::string_view token_text(int32_t id) const = 0;
  virtual bool is_special(int32_t id) const = 0;
  virtual std::optional<int32_t> bos() const = 0;
  // (name, id) of bos, eos, unk and pad, those there are.
  virtual std::vector<std::pair<const char*, int32_t>> named_tokens() const = 0;
  virtual std::unique_ptr<TextStream> stream(bool skip_special, bool continues) const = 0;

  // Longest token_bytes: bounds what one token can publish.
  int token_bytes_max() const;
};

std::shared_ptr<const Vocabulary> make_vocabulary(std::shared_ptr<const tokenizer::Tokenizer> tokenizer);
// Byte b is id b; ids from 256 on are " t<id>". For random weights, where only speed is asked for, and for tests.
std::shared_ptr<const Vocabulary> make_byte_vocabulary(int size);

}  // namespace hearth::runtime
