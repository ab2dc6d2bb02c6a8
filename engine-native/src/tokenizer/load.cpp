// From files to a Tokenizer: tokenizer.json, and the choice between the files of a folder.
#include <algorithm>
#include <fstream>
#include <new>

#include "tokenizer/companions.h"
#include "tokenizer/json_stages.h"
#include "tokenizer/parts.h"

namespace hearth::tokenizer {
namespace {

constexpr size_t max_file_bytes = 256u << 20;

// Empty where the file is absent.
Result<std::string> read_file(const std::string& path, bool required) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return required ? Result<std::string>(not_found(path)) : Result<std::string>(std::string());
  std::streamoff size = file.tellg();
  if (size < 0) return io_error(path + " cannot be read");
  if (static_cast<size_t>(size) > max_file_bytes) return unsupported(path + " is larger than 256 MiB");
  std::string text(static_cast<size_t>(size), '\0');
  file.seekg(0);
  if (!file.read(text.data(), size)) return io_error(path + " cannot be read");
  return text;
}

bool exists(const std::string& path) { return std::ifstream(path).good(); }

Status read_tokenizer_json(std::string_view text, const Companions& companions, Parts& parts) {
  HEARTH_ASSIGN(Json json, parse_json(text, "tokenizer.json"));
  HEARTH_TRY(read_normalizer(member(json, "normalizer"), parts.normalizer));
  HEARTH_TRY(read_pre_tokenizer(member(json, "pre_tokenizer"), parts.pre_tokenizer));
  HEARTH_TRY(read_decoder(member(json, "decoder"), parts.decoder));
  HEARTH_TRY(read_model(json, parts));
  HEARTH_TRY(read_post_processor(member(json, "post_processor"), parts));
  HEARTH_TRY(apply_companions(companions, parts));
  return parts.finish();
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> Tokenizer::from_tokenizer_json(std::string_view json, const Companions& companions) try {
  auto parts = std::make_unique<Parts>();
  HEARTH_TRY(read_tokenizer_json(json, companions, *parts));
  return std::shared_ptr<const Tokenizer>(std::make_shared<Tokenizer>(std::move(parts)));
} catch (const std::bad_alloc&) {
  return out_of_memory("reading tokenizer.json");
}

Result<std::shared_ptr<const Tokenizer>> Tokenizer::load_folder(const std::string& dir) {
  const std::string json_path = dir + "/tokenizer.json", model_path = dir + "/tokenizer.model";
  HEARTH_ASSIGN(std::string config, read_file(dir + "/tokenizer_config.json", false));
  HEARTH_ASSIGN(std::string map, read_file(dir + "/special_tokens_map.json", false));
  HEARTH_ASSIGN(std::string added, read_file(dir + "/added_tokens.json", false));
  Companions companions{config, map, added};
  auto named = [&](auto result) { return result ? result : decltype(result)(result.status().with(dir)); };
  if (exists(json_path)) {
    HEARTH_ASSIGN(std::string json, read_file(json_path, true));
    return named(from_tokenizer_json(json, companions));
  }
  if (!exists(model_path)) return not_found(dir + " has neither tokenizer.json nor tokenizer.model");
  HEARTH_ASSIGN(std::string model, read_file(model_path, true));
  return named(from_sentencepiece(std::as_bytes(std::span(model)), companions));
}

}  // namespace hearth::tokenizer
