#include "quantize/calibration.h"

#include "formats/json_text.h"
#include "formats/mapped_file.h"

namespace hearth::quantize {

Result<std::string> read_text(const std::string& file) {
  HEARTH_ASSIGN(const auto mapped, formats::MappedFile::open(file));
  return std::string(reinterpret_cast<const char*>(mapped->bytes().data()), mapped->bytes().size());
}

Result<std::shared_ptr<const tokenizer::Tokenizer>> open_tokenizer(const formats::Checkpoint& checkpoint) {
  if (checkpoint.vocabulary()) return tokenizer::Tokenizer::from_gguf(*checkpoint.vocabulary());
  const std::string& path = checkpoint.path();
  const bool own = formats::file_exists(path + "/tokenizer.json") || formats::file_exists(path + "/tokenizer.model");
  return tokenizer::Tokenizer::load_folder(own || !formats::file_exists(path + "/llm") ? path : path + "/llm");
}

Result<Calibration> read_calibration(const tokenizer::Tokenizer& tokenizer, const std::string& file, int64_t tokens, int64_t length) {
  HEARTH_ASSIGN(const std::string text, read_text(file));
  Calibration calibration;
  HEARTH_TRY(tokenizer.encode(text, {.add_special_tokens = true}, calibration.ids));
  const int64_t sequences = std::min(tokens, static_cast<int64_t>(calibration.ids.size())) / length;
  if (sequences < 1) {
    return invalid(file + ": " + std::to_string(calibration.ids.size()) + " tokens, fewer than one sequence of " + std::to_string(length));
  }
  calibration.tokens = {sequences, length};
  calibration.ids.resize(static_cast<size_t>(sequences * length));
  return calibration;
}

}  // namespace hearth::quantize
