// Vocabularies as GGUF metadata holds them. The patterns behind each "pre" name are llama.cpp's (src/llama-vocab.cpp),
// which is what defines them.
#include <new>

#include "core/utf8.h"
#include "tokenizer/parts.h"
#include "tokenizer/spm_rules.h"

namespace hearth::tokenizer {
namespace {

constexpr std::string_view lower_block = "\xE2\x96\x81";

PieceType type_of(const GgufVocabulary& v, size_t id) {
  return v.types.empty() ? PieceType::normal : static_cast<PieceType>(v.types[id]);
}

Status check(const GgufVocabulary& v) {
  if (v.tokens.empty()) return corrupt("no tokens");
  if (static_cast<int64_t>(v.tokens.size()) > max_token_id) return unsupported("more than 4 million tokens");
  if (!v.types.empty() && v.types.size() != v.tokens.size()) return corrupt("token_type has another length than tokens");
  if (v.model == "llama" && v.scores.size() != v.tokens.size()) return corrupt("scores has another length than tokens");
  for (int32_t type : v.types) {
    if (type < 1 || type > 6) return unsupported("token_type " + std::to_string(type));
  }
  return Status::ok();
}

Status fill_vocabulary(const GgufVocabulary& v, Parts& parts) {
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    if (v.tokens[id].empty()) continue;
    HEARTH_TRY(parts.add_text(static_cast<int64_t>(id), v.tokens[id]));
    PieceType type = type_of(v, id);
    AddedToken token;
    token.content = v.tokens[id];
    token.id = static_cast<int32_t>(id);
    token.special = type == PieceType::control || type == PieceType::unknown;
    if (token.special || type == PieceType::user_defined) parts.added.add(std::move(token));
  }
  // Trailing unused tokens count too: ids index the model's output.
  parts.texts.resize(v.tokens.size());
  return Status::ok();
}

Status fill_special(const GgufVocabulary& v, bool add_bos_default, Parts& parts) {
  for (auto [id, slot] : {std::pair{v.bos, &parts.bos}, std::pair{v.eos, &parts.eos}, std::pair{v.unk, &parts.unk}, std::pair{v.pad, &parts.pad}}) {
    if (id == -1) continue;
    if (!parts.has(id)) return corrupt("special token id " + std::to_string(id) + " is outside the vocabulary");
    *slot = id;
  }
  if (v.add_bos.value_or(add_bos_default) && parts.bos) parts.prefix = {*parts.bos};
  if (v.add_eos.value_or(false) && parts.eos) parts.suffix = {*parts.eos};
  return Status::ok();
}

Status fill_llama(const GgufVocabulary& v, Parts& parts) {
  std::vector<ScoredPiece> pieces;
  for (size_t id = 0; id < v.tokens.size(); ++id) pieces.push_back({v.tokens[id], v.scores[id], type_of(v, id)});
  HEARTH_ASSIGN(BpeRules rules, bpe_rules_from_scores(pieces));
  HEARTH_TRY(fill_special(v, true, parts));
  rules.unk = parts.unk.value_or(-1);
  parts.model = std::make_unique<BpeModel>(std::move(rules));
  SentencePieceNormalize step;
  step.add_dummy_prefix = v.add_space_prefix.value_or(true);
  step.remove_extra_whitespaces = false;
  parts.normalizer.add(std::move(step));
  parts.decoder.steps.emplace_back(ReplaceInToken{std::string(lower_block), " "});
  parts.decoder.steps.emplace_back(ByteFallbackToken{});
  parts.decoder.strip_start = v.add_space_prefix.value_or(true) ? 1 : 0;
  return Status::ok();
}

Status split_by(std::string_view pattern, PreTokenizer& out) {
  HEARTH_ASSIGN(Regex regex, Regex::compile(pattern));
  out.add(RegexSplit{std::move(regex), SplitBehaviour::isolated, false});
  return Status::ok();
}

// The steps of a "pre" name; sets what else the name implies.
Status fill_pre(const std::string& pre, Parts& parts, BpeRules& rules, bool& add_bos_default) {
  PreTokenizer& out = parts.pre_tokenizer;
  out.byte_level = true;
  if (pre == "gpt-2" || pre == "phi-2") return out.add(ScanSplit{ScannerKind::gpt2}), Status::ok();
  if (pre == "qwen2") return out.add(ScanSplit{ScannerKind::qwen2}), Status::ok();
  if (pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3") {
    rules.ignore_merges = true;
    add_bos_default = true;
    return out.add(ScanSplit{ScannerKind::llama3}), Status::ok();
  }
  if (pre == "smollm") {
    HEARTH_TRY(split_by("\\p{N}", out));
    return out.add(ScanSplit{ScannerKind::gpt2}), Status::ok();
  }
  if (pre == "default" || pre.empty()) {
    HEARTH_TRY(split_by("[\\p{P}\\$\\+<=>\\^~\\|]+", out));
    out.add(ScanSplit{ScannerKind::gpt2});
    HEARTH_TRY(split_by("\\p{N}+", out));
    return split_by("[0-9][0-9][0-9]", out);
  }
  return unsupported("tokenizer.ggml.pre \"" + pre + "\" (Hearth has gpt-2, phi-2, llama-bpe, llama3, qwen2, smollm, default)");
}

Status fill_merges(const GgufVocabulary& v, const Parts& parts, BpeRules& rules) {
  auto normal = [&](std::string_view text) -> int32_t {
    auto id = parts.find(text);
    return id && type_of(v, static_cast<size_t>(*id)) == PieceType::normal ? *id : -1;
  };
  for (int b = 0; b < 256; ++b) {
    std::string text;
    utf8::append(text, char_of_byte(static_cast<uint8_t>(b)));
    rules.byte_symbols[static_cast<size_t>(b)] = normal(text);
  }
  for (size_t id = 0; rules.ignore_merges && id < v.tokens.size(); ++id) {
    if (normal(v.tokens[id]) == static_cast<int32_t>(id)) rules.words.insert(byte_level_bytes(v.tokens[id]), static_cast<int32_t>(id));
  }
  for (size_t rank = 0; rank < v.merges.size(); ++rank) {
    const std::string& merge = v.merges[rank];
    size_t blank = merge.find(' ', 1);  // a token may itself begin with a blank in files made by hand
    if (blank == merge.npos) return corrupt("merge " + std::to_string(rank) + " is not two words");
    std::string left = merge.substr(0, blank), right = merge.substr(blank + 1);
    int32_t a = normal(left), b = normal(right), whole = normal(left + right);
    if (a >= 0 && b >= 0 && whole >= 0) rules.merges.push_back({a, b, static_cast<uint32_t>(rank), whole});
    else if (!parts.find(left + right)) return corrupt("merge " + std::to_string(rank) + " (\"" + merge + "\") makes no token of the vocabulary");
  }
  return Status::ok();
}

Status fill_gpt2(const GgufVocabulary& v, Parts& parts) {
  BpeRules rules;
  rules.byte_level = true;
  bool add_bos_default = false;
  HEARTH_TRY(fill_pre(v.pre, parts, rules, add_bos_default));
  HEARTH_TRY(fill_special(v, add_bos_default, parts));
  HEARTH_TRY(fill_merges(v, parts, rules));
  rules.unk = -1;  // llama.cpp drops bytes that the vocabulary lacks
  parts.model = std::make_unique<BpeModel>(std::move(rules));
  parts.decoder.byte_level = true;
  return Status::ok();
}

Status read_vocabulary(const GgufVocabulary& v, Parts& parts) {
  if (v.model != "llama" && v.model != "gpt2") return unsupported("tokenizer.ggml.model \"" + v.model + "\" (Hearth has llama and gpt2)");
  HEARTH_TRY(check(v));
  HEARTH_TRY(fill_vocabulary(v, parts));
  HEARTH_TRY(v.model == "llama" ? fill_llama(v, parts) : fill_gpt2(v, parts));
  return parts.finish();
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> Tokenizer::from_gguf(const GgufVocabulary& vocabulary) try {
  auto parts = std::make_unique<Parts>();
  HEARTH_TRY(read_vocabulary(vocabulary, *parts).with("GGUF vocabulary"));
  return std::shared_ptr<const Tokenizer>(std::make_shared<Tokenizer>(std::move(parts)));
} catch (const std::bad_alloc&) {
  return out_of_memory("reading a GGUF vocabulary");
}

}  // namespace hearth::tokenizer
