#include "tokenizer/companions.h"

#include <charconv>

#include "tokenizer/json_stages.h"

namespace hearth::tokenizer {
namespace {

// A special token is written as a string, or as an object with "content".
std::optional<std::string> token_name(const Json& json, const char* key) {
  const Json& value = member(json, key);
  const Json& content = value.is_object() ? member(value, "content") : value;
  if (!content.is_string()) return std::nullopt;
  return content.get<std::string>();
}

Status named_ids(const Json& config, const Json& map, Parts& parts) {
  for (auto [key, slot] : {std::pair{"bos_token", &parts.bos}, std::pair{"eos_token", &parts.eos}, std::pair{"pad_token", &parts.pad},
                           std::pair{"unk_token", &parts.unk}}) {
    auto name = token_name(config, key);
    if (!name) name = token_name(map, key);
    if (!name || name->empty()) continue;
    auto id = parts.find(*name);
    // Some checkpoints name a token that their vocabulary lacks; then there is none.
    if (id) *slot = id;
  }
  return Status::ok();
}

// added_tokens.json: content -> id. They are not special unless another file says so.
Status plain_added(const Json& json, Parts& parts) {
  Json list = Json::array();
  for (auto it = json.begin(); it != json.end(); ++it) {
    list.push_back({{"content", it.key()}, {"id", it.value()}, {"special", false}, {"normalized", false}});
  }
  return read_added_tokens(list, parts);
}

// tokenizer_config.json's added_tokens_decoder: id -> {"content", "special", …}.
Status decoder_added(const Json& json, Parts& parts) {
  if (!json.is_object()) return json.is_null() ? Status::ok() : wrong_type("added_tokens_decoder", "an object");
  Json list = Json::array();
  for (auto it = json.begin(); it != json.end(); ++it) {
    int64_t id = 0;
    const std::string& key = it.key();
    auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || !it.value().is_object())
      return wrong_type("added_tokens_decoder", "an object of id: token");
    Json item = it.value();
    item["id"] = id;
    list.push_back(std::move(item));
  }
  return read_added_tokens(list, parts);
}

// transformers' Llama and Gemma classes build their template from these two settings, whatever tokenizer.json says.
Status bos_and_eos_settings(const Json& config, Parts& parts) {
  HEARTH_ASSIGN(std::string name, string_or(config, "tokenizer_class", ""));
  if (name.find("Llama") == name.npos && name.find("Gemma") == name.npos) return Status::ok();
  for (auto [key, side, id] : {std::tuple{"add_bos_token", &parts.prefix, parts.bos}, std::tuple{"add_eos_token", &parts.suffix, parts.eos}}) {
    const Json& value = member(config, key);
    if (!value.is_boolean()) continue;
    side->clear();
    if (value.get<bool>() && id) side->push_back(*id);
  }
  return Status::ok();
}

Result<Json> parse_or_empty(std::string_view text, const char* what) {
  if (text.empty()) return Json::object();
  return parse_json(text, what);
}

}  // namespace

Status apply_companions(const Companions& files, Parts& parts) {
  HEARTH_ASSIGN(Json config, parse_or_empty(files.tokenizer_config, "tokenizer_config.json"));
  HEARTH_ASSIGN(Json map, parse_or_empty(files.special_tokens_map, "special_tokens_map.json"));
  HEARTH_ASSIGN(Json added, parse_or_empty(files.added_tokens, "added_tokens.json"));
  HEARTH_TRY(decoder_added(member(config, "added_tokens_decoder"), parts).with("tokenizer_config.json"));
  HEARTH_TRY(plain_added(added, parts).with("added_tokens.json"));
  HEARTH_TRY(named_ids(config, map, parts));
  return bos_and_eos_settings(config, parts).with("tokenizer_config.json");
}

}  // namespace hearth::tokenizer
