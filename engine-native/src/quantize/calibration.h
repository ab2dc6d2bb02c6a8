// The text that calibration runs on, as token ids in whole sequences.
#pragma once

#include <string>
#include <vector>

#include "core/status.h"
#include "formats/checkpoint.h"
#include "quantize/block.h"
#include "tokenizer/tokenizer.h"

namespace hearth::quantize {

struct Calibration {
  Tokens tokens;
  std::vector<int32_t> ids;  // [tokens.rows()]
};

// The tokenizer of a model's folder (VILA: of its llm folder) or .gguf file.
Result<std::shared_ptr<const tokenizer::Tokenizer>> open_tokenizer(const formats::Checkpoint& checkpoint);

// The text's first `tokens` tokens in sequences of `length`; an error when there is not one whole sequence.
Result<Calibration> read_calibration(const tokenizer::Tokenizer& tokenizer, const std::string& file, int64_t tokens, int64_t length);

Result<std::string> read_text(const std::string& file);

}  // namespace hearth::quantize
