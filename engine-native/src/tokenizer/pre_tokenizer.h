// The pre-tokenizers of tokenizer.json: normalized text to the pieces that the model encodes one by one.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "core/status.h"
#include "tokenizer/regex.h"
#include "tokenizer/scanner.h"
#include "tokenizer/split.h"

namespace hearth::tokenizer {

enum class PrependScheme { always, first, never };

struct ScanSplit { ScannerKind kind; };
struct RegexSplit { Regex regex; SplitBehaviour behaviour; bool invert; };
struct StringSplit { std::string text; SplitBehaviour behaviour; bool invert; };
// Characters of a class: Digits, Punctuation, WhitespaceSplit.
struct ClassSplit { uint8_t mask; SplitBehaviour behaviour; };
struct PrefixSpace {};  // ByteLevel's add_prefix_space
struct MetaspaceSplit { std::string replacement; PrependScheme scheme; bool split; };

using PreTokenizerStep = std::variant<ScanSplit, RegexSplit, StringSplit, ClassSplit, PrefixSpace, MetaspaceSplit>;

class PreTokenizer {
 public:
  template <class Step>
  void add(Step step) { steps_.emplace_back(std::in_place_type<Step>, std::move(step)); }
  // The last step was ByteLevel: the model works on bytes.
  bool byte_level = false;

  // Cuts text into pieces; steps may rewrite it. at_start: the text stands at the very beginning of the input.
  Status run(std::string& text, bool at_start, std::vector<Piece>& pieces) const;

 private:
  std::vector<PreTokenizerStep> steps_;
};

}  // namespace hearth::tokenizer
