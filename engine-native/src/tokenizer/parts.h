// The stages of one tokenizer, put together by a reader. Text runs through them in the order of the members.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/decoder.h"
#include "tokenizer/flat_map.h"
#include "tokenizer/model.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"

namespace hearth::tokenizer {

// Ids above this are refused: arrays are sized by the highest id, and a file must not choose their size.
inline constexpr int64_t max_token_id = (1 << 22) - 1;

struct Parts {
  AddedTokens added;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::unique_ptr<Model> model;
  std::string text_opening;             // SentencePiece's blank before a text that begins with a user-defined token
  std::vector<int32_t> prefix, suffix;  // what add_special_tokens puts around a text
  Decoder decoder;

  std::vector<std::string> texts;  // by id; empty where an id is unused
  StringMap ids;                   // text -> id
  std::optional<int32_t> bos, eos, pad, unk;

  // Filled by finish().
  std::string byte_arena;
  std::vector<uint32_t> byte_offsets;  // by id, and one more
  std::vector<bool> special;

  // Adds a vocabulary entry. Errors: an id out of range, or one that already has another text.
  Status add_text(int64_t id, std::string_view text);
  std::optional<int32_t> find(std::string_view text) const;
  // Computes the tables and checks that every id used exists. Call last.
  Status finish();

  std::string_view bytes(int32_t id) const;
  bool has(int32_t id) const { return id >= 0 && static_cast<size_t>(id) < texts.size(); }
};

}  // namespace hearth::tokenizer
