// Text to token ids and back, for every vocabulary Hearth loads: Hugging Face tokenizer.json (byte-level BPE,
// SentencePiece-style BPE with byte fallback, Unigram, WordLevel), SentencePiece .model files, GGUF metadata.
//
// A Tokenizer never changes after it was loaded, so any number of threads may share one. Text may be any bytes:
// ill-formed UTF-8 counts as U+FFFD, NUL is a character like another. Vocabulary files are untrusted input: whatever
// they hold, loading ends in a Tokenizer or in a Status that says what is wrong.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/status.h"

namespace hearth::tokenizer {

struct Parts;  // the stages of one tokenizer (parts.h)

// Bytes [begin, end) of the text in which special and added tokens must not match: text typed by users.
// Added tokens made of nothing but white space (runs of blanks in Phi-2 and Gemma) still match there: they are
// spelling, not control, and leaving them out would give ids the model never saw in training.
struct ByteRange {
  uint32_t begin = 0, end = 0;
};

struct EncodeOptions {
  bool add_special_tokens = false;       // what the model's post-processor adds: BOS, sometimes EOS
  std::span<const ByteRange> literal{};  // in any order; may overlap
};

// Files that may lie beside tokenizer.json or tokenizer.model; empty where absent.
struct Companions {
  std::string_view tokenizer_config{};    // tokenizer_config.json: bos_token, add_bos_token, added_tokens_decoder, …
  std::string_view special_tokens_map{};  // special_tokens_map.json: consulted for what the former lacks
  std::string_view added_tokens{};        // added_tokens.json: content -> id
};

// A vocabulary as GGUF metadata holds it (keys tokenizer.ggml.*). Absent ids are -1.
struct GgufVocabulary {
  std::string model;                 // "llama" (SentencePiece by scores) or "gpt2" (byte-level BPE)
  std::string pre;                   // "gpt-2", "llama-bpe", "qwen2", "smollm", "default", …; unused for "llama"
  std::vector<std::string> tokens;   // by id
  std::vector<float> scores;         // "llama": one a token
  std::vector<int32_t> types;        // 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte; may be empty
  std::vector<std::string> merges;   // "gpt2": "left right", by rank
  int32_t bos = -1, eos = -1, unk = -1, pad = -1;
  std::optional<bool> add_bos, add_eos, add_space_prefix;
};

class Tokenizer {
 public:
  // A Hugging Face folder: tokenizer.json if there is one, else tokenizer.model, with the companions of either.
  static Result<std::shared_ptr<const Tokenizer>> load_folder(const std::string& dir);
  static Result<std::shared_ptr<const Tokenizer>> from_tokenizer_json(std::string_view json, const Companions& companions = {});
  static Result<std::shared_ptr<const Tokenizer>> from_sentencepiece(std::span<const std::byte> model, const Companions& companions = {});
  static Result<std::shared_ptr<const Tokenizer>> from_gguf(const GgufVocabulary& vocabulary);

  explicit Tokenizer(std::unique_ptr<Parts> parts);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Appends the ids of text. Errors: a literal range outside the text; a pattern of the vocabulary's own that ran
  // into the matcher's limits. On an error ids is as it was.
  Status encode(std::string_view text, const EncodeOptions& options, std::vector<int32_t>& ids) const;

  // The text of ids as one whole: well-formed UTF-8, with the leading blank of SentencePiece vocabularies taken off.
  // Ids outside the vocabulary give nothing.
  std::string decode(std::span<const int32_t> ids, bool skip_special) const;

  // The bytes a token adds in the middle of a text; often only part of a character. Views live as long as the tokenizer.
  std::string_view token_bytes(int32_t id) const;
  std::string_view token_text(int32_t id) const;  // as the vocabulary spells it: "Ġthe", "▁the", "<0x0A>"
  bool is_special(int32_t id) const;
  int32_t vocab_size() const;  // highest id + 1; ids between may be unused
  std::optional<int32_t> id_of(std::string_view token) const;  // exact spelling, vocabulary and added tokens

  std::optional<int32_t> bos() const;
  std::optional<int32_t> eos() const;
  std::optional<int32_t> pad() const;
  std::optional<int32_t> unk() const;

 private:
  friend class Detokenizer;
  std::unique_ptr<const Parts> parts_;
};

// Ids to text, one at a time. What push gives is always whole characters; joined up to flush it equals decode().
class Detokenizer {
 public:
  // continues: the ids carry on a text that is already there (a completion's prompt), so the first token keeps the
  // blank that SentencePiece vocabularies put before a word.
  explicit Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special, bool continues = false);
  void push(int32_t id, std::string& out);  // appends what is complete now
  void flush(std::string& out);             // appends U+FFFD for a character that never was completed

 private:
  friend class Tokenizer;
  void feed(const Parts& parts, int32_t id, std::string& out);

  std::shared_ptr<const Tokenizer> tokenizer_;
  bool skip_special_;
  bool first_ = true;       // no token has been shown yet
  uint32_t strip_left_ = 0; // leading characters still to be taken off
  std::string pending_;     // the bytes of an unfinished character, at most 3
};

}  // namespace hearth::tokenizer
