// The normalizers of tokenizer.json and of SentencePiece models, run in order over one stretch of text.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "core/status.h"
#include "tokenizer/charsmap.h"
#include "tokenizer/regex.h"
#include "tokenizer/tracked_text.h"
#include "tokenizer/unicode.h"

namespace hearth::tokenizer {

struct PrependText { std::string text; };  // before any text that is not empty
struct ReplaceText { std::string from; std::optional<Regex> pattern; std::string to; };
struct Normalize { NormalForm form; };
struct Lowercase {};
struct StripSpace { bool left, right; };
struct StripAccents {};
struct ApplyCharsmap { std::shared_ptr<const Charsmap> charsmap; };
// SentencePiece's normalizer_spec, after "sentencepiece/src/normalizer.cc": character map, white space, escaping.
struct SentencePieceNormalize {
  std::shared_ptr<const Charsmap> charsmap;  // may be null
  bool add_dummy_prefix = true, remove_extra_whitespaces = true, escape_whitespaces = true;
};

using NormalizerStep = std::variant<PrependText, ReplaceText, Normalize, Lowercase, StripSpace, StripAccents, ApplyCharsmap, SentencePieceNormalize>;

// Whether the stretch is text that goes on: SentencePiece then leaves the white space at that end alone.
struct Neighbours {
  bool before = false, after = false;
};

class Normalizer {
 public:
  template <class Step>
  void add(Step step) { steps_.emplace_back(std::in_place_type<Step>, std::move(step)); }
  bool empty() const { return steps_.empty(); }
  Status apply(TrackedText& text, Neighbours neighbours = {}) const;

 private:
  std::vector<NormalizerStep> steps_;
};

}  // namespace hearth::tokenizer
