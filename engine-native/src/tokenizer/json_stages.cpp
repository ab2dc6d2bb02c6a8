#include "tokenizer/json_stages.h"

#include <algorithm>
#include <cstring>

#include "core/utf8.h"

namespace hearth::tokenizer {
namespace {

constexpr int max_depth = 8;  // Sequences inside Sequences

Result<std::string> type_of(const Json& json, const char* stage) {
  auto type = string_of(json, "type");
  return type ? type : Result<std::string>(type.status().with(stage));
}

// Calls read for json, or for each member of a Sequence, in order.
template <class Read>
Status each_stage(const Json& json, const char* stage, const char* list, int depth, Read read) {
  if (json.is_null()) return Status::ok();
  if (depth > max_depth) return unsupported(std::string(stage) + ": Sequences nested too deeply");
  HEARTH_ASSIGN(std::string type, type_of(json, stage));
  if (type != "Sequence") return read(type, json).with(std::string(stage) + " " + type);
  const Json& members = member(json, list);
  if (!members.is_array()) return wrong_type(list, "a list").with(stage);
  for (const Json& m : members) HEARTH_TRY(each_stage(m, stage, list, depth + 1, read));
  return Status::ok();
}

struct Pattern {
  std::string text;
  bool is_regex;
};

Result<Pattern> pattern_in(const Json& json) {
  const Json& pattern = member(json, "pattern");
  if (member(pattern, "String").is_string()) return Pattern{pattern["String"].get<std::string>(), false};
  if (member(pattern, "Regex").is_string()) return Pattern{pattern["Regex"].get<std::string>(), true};
  return corrupt("\"pattern\" is neither {\"String\": …} nor {\"Regex\": …}");
}

Result<std::string> from_base64(const std::string& text) {
  std::string out;
  uint32_t bits = 0;
  int count = 0;
  for (char c : text) {
    if (c == '=' || c == '\n') continue;
    const char* alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char* at = c ? std::strchr(alphabet, c) : nullptr;
    if (!at) return corrupt("not base64");
    bits = bits << 6 | static_cast<uint32_t>(at - alphabet);
    if ((count += 6) >= 8) out.push_back(static_cast<char>(bits >> (count -= 8) & 0xFF));
  }
  return out;
}

Status read_replace(const Json& json, Normalizer& out) {
  HEARTH_ASSIGN(Pattern pattern, pattern_in(json));
  HEARTH_ASSIGN(std::string content, string_of(json, "content"));
  ReplaceText step{pattern.text, std::nullopt, content};
  if (pattern.is_regex) {
    HEARTH_ASSIGN(Regex regex, Regex::compile(pattern.text));
    step.pattern = std::move(regex);
  }
  out.add(std::move(step));
  return Status::ok();
}

Status read_normalizer_step(const std::string& type, const Json& json, Normalizer& out) {
  if (type == "NFC") return out.add(Normalize{NormalForm::nfc}), Status::ok();
  if (type == "NFD") return out.add(Normalize{NormalForm::nfd}), Status::ok();
  if (type == "NFKC") return out.add(Normalize{NormalForm::nfkc}), Status::ok();
  if (type == "NFKD") return out.add(Normalize{NormalForm::nfkd}), Status::ok();
  if (type == "Lowercase") return out.add(Lowercase{}), Status::ok();
  if (type == "StripAccents") return out.add(StripAccents{}), Status::ok();
  if (type == "Replace") return read_replace(json, out);
  if (type == "Prepend") {
    HEARTH_ASSIGN(std::string text, string_of(json, "prepend"));
    return out.add(PrependText{text}), Status::ok();
  }
  if (type == "Strip") {
    HEARTH_ASSIGN(bool left, bool_or(json, "strip_left", true));
    HEARTH_ASSIGN(bool right, bool_or(json, "strip_right", true));
    return out.add(StripSpace{left, right}), Status::ok();
  }
  if (type == "Precompiled") {
    HEARTH_ASSIGN(std::string text, string_of(json, "precompiled_charsmap"));
    HEARTH_ASSIGN(std::string blob, from_base64(text));
    if (blob.empty()) return Status::ok();
    HEARTH_ASSIGN(Charsmap map, Charsmap::parse(blob));
    return out.add(ApplyCharsmap{std::make_shared<const Charsmap>(std::move(map))}), Status::ok();
  }
  return unsupported("not implemented (Hearth has NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip, StripAccents, Precompiled)");
}

Result<SplitBehaviour> behaviour_in(const Json& json, SplitBehaviour otherwise) {
  HEARTH_ASSIGN(std::string name, string_or(json, "behavior", ""));
  if (name.empty()) return otherwise;
  if (name == "Removed") return SplitBehaviour::removed;
  if (name == "Isolated") return SplitBehaviour::isolated;
  if (name == "MergedWithPrevious") return SplitBehaviour::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehaviour::merged_with_next;
  if (name == "Contiguous") return SplitBehaviour::contiguous;
  return unsupported("behavior \"" + name + "\"");
}

Status read_split(const Json& json, PreTokenizer& out) {
  HEARTH_ASSIGN(Pattern pattern, pattern_in(json));
  if (member(json, "behavior").is_null()) return wrong_type("behavior", "a string");
  HEARTH_ASSIGN(SplitBehaviour behaviour, behaviour_in(json, SplitBehaviour::isolated));
  HEARTH_ASSIGN(bool invert, bool_or(json, "invert", false));
  if (!pattern.is_regex) return out.add(StringSplit{pattern.text, behaviour, invert}), Status::ok();
  // The well-known patterns cover every character, so "removed, inverted" keeps the same pieces as "isolated".
  bool keeps_all = behaviour == SplitBehaviour::isolated || (behaviour == SplitBehaviour::removed && invert);
  if (auto kind = scanner_for(pattern.text); kind && keeps_all) return out.add(ScanSplit{*kind}), Status::ok();
  HEARTH_ASSIGN(Regex regex, Regex::compile(pattern.text));
  return out.add(RegexSplit{std::move(regex), behaviour, invert}), Status::ok();
}

Result<PrependScheme> scheme_in(const Json& json) {
  HEARTH_ASSIGN(bool add_prefix_space, bool_or(json, "add_prefix_space", true));
  HEARTH_ASSIGN(std::string name, string_or(json, "prepend_scheme", add_prefix_space ? "always" : "never"));
  if (name == "always") return PrependScheme::always;
  if (name == "first") return PrependScheme::first;
  if (name == "never") return PrependScheme::never;
  return unsupported("prepend_scheme \"" + name + "\"");
}

Status read_byte_level(const Json& json, PreTokenizer& out) {
  HEARTH_ASSIGN(bool prefix, bool_or(json, "add_prefix_space", true));
  HEARTH_ASSIGN(bool use_regex, bool_or(json, "use_regex", true));
  if (prefix) out.add(PrefixSpace{});
  if (use_regex) out.add(ScanSplit{ScannerKind::gpt2});
  out.byte_level = true;
  return Status::ok();
}

Status read_metaspace(const Json& json, PreTokenizer& out) {
  HEARTH_ASSIGN(std::string replacement, string_or(json, "replacement", "\xE2\x96\x81"));
  HEARTH_ASSIGN(PrependScheme scheme, scheme_in(json));
  HEARTH_ASSIGN(bool split, bool_or(json, "split", true));
  if (replacement.empty()) return corrupt("\"replacement\" is empty");
  return out.add(MetaspaceSplit{replacement, scheme, split}), Status::ok();
}

Status read_pre_tokenizer_step(const std::string& type, const Json& json, PreTokenizer& out) {
  if (out.byte_level) return unsupported("after ByteLevel, where text is bytes already");
  if (type == "ByteLevel") return read_byte_level(json, out);
  if (type == "Split") return read_split(json, out);
  if (type == "Metaspace") return read_metaspace(json, out);
  if (type == "WhitespaceSplit") return out.add(ClassSplit{class_space, SplitBehaviour::removed}), Status::ok();
  if (type == "Digits") {
    HEARTH_ASSIGN(bool individual, bool_or(json, "individual_digits", false));
    return out.add(ClassSplit{class_number, individual ? SplitBehaviour::isolated : SplitBehaviour::contiguous}), Status::ok();
  }
  if (type == "Punctuation") {
    HEARTH_ASSIGN(SplitBehaviour behaviour, behaviour_in(json, SplitBehaviour::isolated));
    return out.add(ClassSplit{class_punctuation, behaviour}), Status::ok();
  }
  if (type == "Whitespace") {
    HEARTH_ASSIGN(Regex regex, Regex::compile(R"([\w\x{200C}\x{200D}]+|[^\w\s\x{200C}\x{200D}]+)"));
    return out.add(RegexSplit{std::move(regex), SplitBehaviour::removed, true}), Status::ok();
  }
  if (type == "CharDelimiterSplit") {
    HEARTH_ASSIGN(std::string delimiter, string_of(json, "delimiter"));
    return out.add(StringSplit{delimiter, SplitBehaviour::removed, false}), Status::ok();
  }
  return unsupported("not implemented (Hearth has ByteLevel, Split, Metaspace, Digits, Punctuation, Whitespace, WhitespaceSplit, CharDelimiterSplit)");
}

// Reads a decoder chain in order; what comes after Fuse works on the text as a whole.
class DecoderReader {
 public:
  explicit DecoderReader(Decoder& out) : out_(out) {}

  Status step(const std::string& type, const Json& json) {
    if (out_.byte_level) return unsupported("after ByteLevel");
    if (type == "ByteLevel") return out_.byte_level = true, out_.steps.empty() && !fused_ ? Status::ok() : unsupported("after another decoder");
    if (type == "Fuse") return fused_ = true, Status::ok();
    if (type == "Replace") return replace(json);
    if (type == "Strip") return strip(json);
    if (type == "ByteFallback") return fused_ ? unsupported("after Fuse") : (out_.steps.emplace_back(ByteFallbackToken{}), Status::ok());
    if (type == "Metaspace") return metaspace(json);
    return unsupported("not implemented (Hearth has ByteLevel, ByteFallback, Fuse, Metaspace, Replace, Strip)");
  }

 private:
  Status replace(const Json& json) {
    HEARTH_ASSIGN(Pattern pattern, pattern_in(json));
    HEARTH_ASSIGN(std::string content, string_of(json, "content"));
    if (pattern.is_regex) return unsupported("with a Regex");
    // One character is found in the fused text exactly where it is found in the tokens.
    bool one_char = !pattern.text.empty() && utf8::length_of(static_cast<unsigned char>(pattern.text[0])) == pattern.text.size();
    if (fused_ && !one_char) return unsupported("after Fuse, of more than one character");
    out_.steps.emplace_back(ReplaceInToken{pattern.text, content});
    return Status::ok();
  }
  Status strip(const Json& json) {
    HEARTH_ASSIGN(std::string content, string_of(json, "content"));
    HEARTH_ASSIGN(int64_t start, integer_of(member(json, "start"), "start"));
    HEARTH_ASSIGN(int64_t stop, integer_of(member(json, "stop"), "stop"));
    bool one_char = !content.empty() && utf8::length_of(static_cast<unsigned char>(content[0])) == content.size();
    if (!one_char || start < 0 || start > 1024 || stop < 0 || stop > 1024) return corrupt("content, start or stop out of range");
    const char* p = content.data();
    char32_t c = utf8::next(p);
    if (!fused_) return out_.steps.emplace_back(StripToken{c, static_cast<uint32_t>(start), static_cast<uint32_t>(stop)}), Status::ok();
    if (stop > 0) return unsupported("at the end of the whole text, which a stream cannot know");
    if (out_.strip_start > 0) return unsupported("twice");
    out_.strip_char = c;
    out_.strip_start = static_cast<uint32_t>(start);
    return Status::ok();
  }
  Status metaspace(const Json& json) {
    // Byte fallback may come first: it leaves all other tokens as they are.
    bool plain = std::all_of(out_.steps.begin(), out_.steps.end(), [](const DecoderStep& s) { return std::holds_alternative<ByteFallbackToken>(s); });
    if (fused_ || !plain) return unsupported("after another decoder");
    HEARTH_ASSIGN(std::string replacement, string_or(json, "replacement", "\xE2\x96\x81"));
    HEARTH_ASSIGN(PrependScheme scheme, scheme_in(json));
    if (replacement.empty()) return corrupt("\"replacement\" is empty");
    if (scheme != PrependScheme::never) out_.drop_in_first = replacement;
    return out_.steps.emplace_back(MetaspaceToken{replacement}), Status::ok();
  }

  Decoder& out_;
  bool fused_ = false;
};

// TemplateProcessing: the ids before and after the one sequence of "single".
Status read_template(const Json& json, Parts& parts) {
  const Json& single = member(json, "single");
  if (!single.is_array()) return wrong_type("single", "a list");
  std::vector<int32_t>* side = &parts.prefix;
  for (const Json& item : single) {
    const Json& special = member(item, "SpecialToken");
    if (special.is_null()) {
      if (!member(item, "Sequence").is_object()) return corrupt("\"single\" holds neither SpecialToken nor Sequence");
      if (side == &parts.suffix) return unsupported("\"single\" that repeats the sequence");
      side = &parts.suffix;
      continue;
    }
    HEARTH_ASSIGN(std::string name, string_of(special, "id"));
    const Json& ids = member(member(member(json, "special_tokens"), name.c_str()), "ids");
    if (!ids.is_array()) return corrupt("\"special_tokens\" lacks ids for \"" + name + "\"");
    for (const Json& value : ids) {
      HEARTH_ASSIGN(int64_t id, integer_of(value, "ids"));
      if (id < 0 || id > max_token_id || !parts.has(static_cast<int32_t>(id)))
        return corrupt("id " + std::to_string(id) + " of \"" + name + "\" is outside the vocabulary");
      side->push_back(static_cast<int32_t>(id));
    }
  }
  return Status::ok();
}

// BertProcessing and RobertaProcessing: [cls] text [sep].
Status read_bert(const Json& json, Parts& parts) {
  for (auto [key, side] : {std::pair{"cls", &parts.prefix}, std::pair{"sep", &parts.suffix}}) {
    const Json& pair = member(json, key);
    if (!pair.is_array() || pair.size() != 2) return wrong_type(key, "a pair [token, id]");
    HEARTH_ASSIGN(int64_t id, integer_of(pair[1], key));
    if (id < 0 || id > max_token_id || !parts.has(static_cast<int32_t>(id))) return corrupt("an id outside the vocabulary");
    side->push_back(static_cast<int32_t>(id));
  }
  return Status::ok();
}

}  // namespace

Status read_normalizer(const Json& json, Normalizer& out) {
  return each_stage(json, "normalizer", "normalizers", 0, [&](const std::string& type, const Json& j) { return read_normalizer_step(type, j, out); });
}

Status read_pre_tokenizer(const Json& json, PreTokenizer& out) {
  return each_stage(json, "pre_tokenizer", "pretokenizers", 0, [&](const std::string& type, const Json& j) { return read_pre_tokenizer_step(type, j, out); });
}

Status read_decoder(const Json& json, Decoder& out) {
  if (json.is_null()) {
    out.joined_by_blanks = true;
    out.strip_start = 1;
    return Status::ok();
  }
  DecoderReader reader(out);
  return each_stage(json, "decoder", "decoders", 0, [&](const std::string& type, const Json& j) { return reader.step(type, j); });
}

Status read_post_processor(const Json& json, Parts& parts) {
  return each_stage(json, "post_processor", "processors", 0, [&](const std::string& type, const Json& j) {
    if (type == "ByteLevel") return Status::ok();  // it only trims offsets, which nobody asks for here
    if (type != "TemplateProcessing" && type != "BertProcessing" && type != "RobertaProcessing") return unsupported("not implemented");
    if (!parts.prefix.empty() || !parts.suffix.empty()) return unsupported("after another that adds tokens");
    return type == "TemplateProcessing" ? read_template(j, parts) : read_bert(j, parts);
  });
}

}  // namespace hearth::tokenizer
