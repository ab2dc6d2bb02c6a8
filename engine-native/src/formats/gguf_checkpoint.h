// A .gguf file as a Checkpoint: names and metadata in Hugging Face terms.
#pragma once

#include <memory>
#include <string>

#include "formats/checkpoint.h"
#include "formats/gguf.h"
#include "tokenizer/tokenizer.h"

namespace hearth::formats {

Result<std::unique_ptr<Checkpoint>> open_gguf(const std::string& path);
tokenizer::GgufVocabulary read_vocabulary(const Gguf& gguf);

}  // namespace hearth::formats
