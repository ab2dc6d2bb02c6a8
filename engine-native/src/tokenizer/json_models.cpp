// The "model" of a tokenizer.json.
#include <algorithm>
#include <cmath>

#include "core/utf8.h"
#include "tokenizer/bpe.h"
#include "tokenizer/json_stages.h"
#include "tokenizer/spm_rules.h"
#include "tokenizer/unigram.h"

namespace hearth::tokenizer {
namespace {

bool is_special(const Parts& parts, std::string_view text) {
  const AddedToken* token = parts.added.find(text);
  return token && token->special;
}

int32_t id_or(const StringMap& vocab, std::string_view text, int32_t otherwise) {
  const int32_t* id = vocab.find(text);
  return id ? *id : otherwise;
}

void find_byte_tokens(const StringMap& vocab, std::array<int32_t, 256>& out) {
  const char* digits = "0123456789ABCDEF";
  for (size_t b = 0; b < 256; ++b) {
    std::string name = std::string("<0x") + digits[b >> 4] + digits[b & 15] + ">";
    out[b] = id_or(vocab, name, -1);
  }
}

Result<int32_t> unk_in(const Json& json, const Parts& parts) {
  HEARTH_ASSIGN(std::string unk, string_or(json, "unk_token", ""));
  if (unk.empty()) return -1;
  auto id = parts.find(unk);
  if (!id) return corrupt("unk_token \"" + unk + "\" is not in the vocabulary");
  return *id;
}

Status refuse_affixes(const Json& json) {
  if (const Json& dropout = member(json, "dropout"); dropout.is_number() && dropout.get<double>() > 0)
    return unsupported("dropout (it makes encoding random)");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    HEARTH_ASSIGN(std::string affix, string_or(json, key, ""));
    if (!affix.empty()) return unsupported(std::string(key) + " \"" + affix + "\"");
  }
  return Status::ok();
}

class BpeReader {
 public:
  BpeReader(const Json& json, const Parts& parts, const StringMap& vocab) : json_(json), parts_(parts), vocab_(vocab) {}

  Result<BpeRules> run() {
    HEARTH_TRY(refuse_affixes(json_));
    HEARTH_ASSIGN(rules_.fuse_unk, bool_or(json_, "fuse_unk", false));
    HEARTH_ASSIGN(rules_.ignore_merges, bool_or(json_, "ignore_merges", false));
    HEARTH_ASSIGN(rules_.unk, unk_in(json_, parts_));
    HEARTH_ASSIGN(bool byte_fallback, bool_or(json_, "byte_fallback", false));
    rules_.byte_level = parts_.pre_tokenizer.byte_level;
    if (byte_fallback) find_byte_tokens(vocab_, rules_.byte_tokens);
    begin_symbols();
    HEARTH_TRY(merges());
    return std::move(rules_);
  }

 private:
  void begin_symbols() {
    rules_.can_cut = !rules_.byte_level;
    for (size_t id = 0; id < parts_.texts.size(); ++id) {
      const std::string& text = parts_.texts[id];
      if (text.empty() || is_special(parts_, text) || id_or(vocab_, text, -1) != static_cast<int32_t>(id)) continue;
      if (rules_.ignore_merges) rules_.words.insert(rules_.byte_level ? byte_level_bytes(text) : text, static_cast<int32_t>(id));
      if (utf8::length_of(static_cast<unsigned char>(text[0])) != text.size()) continue;
      const char* p = text.data();
      char32_t c = utf8::next(p);
      if (int byte = byte_of_char(c); rules_.byte_level && byte >= 0) rules_.byte_symbols[static_cast<size_t>(byte)] = static_cast<int32_t>(id);
      rules_.char_symbols.insert(c, static_cast<int32_t>(id));
    }
  }

  Status merges() {
    const Json& list = member(json_, "merges");
    if (!list.is_array()) return wrong_type("merges", "a list");
    rules_.merges.reserve(list.size());
    for (size_t rank = 0; rank < list.size(); ++rank) HEARTH_TRY(merge(list[rank], static_cast<uint32_t>(rank)));
    return Status::ok();
  }

  // "left right", or since tokenizers 0.20 ["left", "right"].
  Status merge(const Json& item, uint32_t rank) {
    std::string_view left, right;
    if (item.is_string()) {
      std::string_view both = item.get_ref<const std::string&>();
      size_t blank = both.find(' ');
      if (blank == both.npos || both.find(' ', blank + 1) != both.npos) return corrupt("merge " + std::to_string(rank) + " is not two words");
      left = both.substr(0, blank), right = both.substr(blank + 1);
    } else if (item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string()) {
      left = item[0].get_ref<const std::string&>(), right = item[1].get_ref<const std::string&>();
    } else {
      return corrupt("merge " + std::to_string(rank) + " is not a pair of strings");
    }
    std::string both = std::string(left) + std::string(right);
    int32_t a = id_or(vocab_, left, -1), b = id_or(vocab_, right, -1), whole = id_or(vocab_, both, -1);
    if (a < 0 || b < 0 || whole < 0)
      return corrupt("merge " + std::to_string(rank) + " (\"" + std::string(left) + "\" \"" + std::string(right) + "\") names a token that is not in the vocabulary");
    if (is_special(parts_, both)) return Status::ok();  // control tokens never come out of text
    rules_.merges.push_back({a, b, rank, whole});
    if (rules_.byte_level) return Status::ok();
    note_joints(both, rules_);
    // Merges of byte-fallback tokens reach across characters that are no symbols; then nothing is cut.
    if (byte_fallback_value(left) >= 0 || byte_fallback_value(right) >= 0) rules_.can_cut = false;
    return Status::ok();
  }

  const Json& json_;
  const Parts& parts_;
  const StringMap& vocab_;  // the model's own, without added tokens
  BpeRules rules_;
};

// The vocabulary of BPE and WordLevel: {"text": id}.
Status read_vocab_object(const Json& json, Parts& parts) {
  const Json& vocab = member(json, "vocab");
  if (!vocab.is_object()) return wrong_type("vocab", "an object");
  if (vocab.empty()) return corrupt("\"vocab\" is empty");
  for (auto it = vocab.begin(); it != vocab.end(); ++it) {
    HEARTH_ASSIGN(int64_t id, integer_of(it.value(), "vocab"));
    HEARTH_TRY(parts.add_text(id, it.key()));
  }
  return Status::ok();
}

// The vocabulary of Unigram: [["text", score], …], the index is the id.
Status read_vocab_list(const Json& json, Parts& parts, std::vector<double>& scores) {
  const Json& vocab = member(json, "vocab");
  if (!vocab.is_array() || vocab.empty()) return wrong_type("vocab", "a list that holds something");
  for (size_t id = 0; id < vocab.size(); ++id) {
    const Json& entry = vocab[id];
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number())
      return corrupt("vocab entry " + std::to_string(id) + " is not [text, score]");
    scores.push_back(entry[1].get<double>());
    if (!std::isfinite(scores.back())) return corrupt("vocab entry " + std::to_string(id) + ": the score is not a number");
    HEARTH_TRY(parts.add_text(static_cast<int64_t>(id), entry[0].get_ref<const std::string&>()));
  }
  return Status::ok();
}

Status read_unigram(const Json& json, Parts& parts, const StringMap& vocab, const std::vector<double>& scores) {
  UnigramRules rules;
  rules.scores = scores;
  rules.scores.resize(parts.texts.size());
  if (const Json& unk = member(json, "unk_id"); !unk.is_null()) {
    HEARTH_ASSIGN(int64_t id, integer_of(unk, "unk_id"));
    if (id < 0 || static_cast<size_t>(id) >= scores.size()) return corrupt("\"unk_id\" is outside the vocabulary");
    rules.unk = static_cast<int32_t>(id);
  }
  HEARTH_ASSIGN(bool byte_fallback, bool_or(json, "byte_fallback", false));
  if (byte_fallback) find_byte_tokens(vocab, rules.byte_tokens);
  rules.unknown_score = *std::min_element(scores.begin(), scores.end()) - 10.0;
  for (size_t id = 0; id < scores.size(); ++id) {
    const std::string& text = parts.texts[id];
    if (text.size() > UnigramRules::max_piece_bytes) return unsupported("token " + std::to_string(id) + " is longer than 1024 bytes");
    bool never = text.empty() || static_cast<int32_t>(id) == rules.unk || is_special(parts, text);
    if (!never) rules.trie.insert(text, static_cast<int32_t>(id));
  }
  if (rules.unk >= 0) parts.unk = rules.unk;
  parts.model = std::make_unique<UnigramModel>(std::move(rules));
  return Status::ok();
}

Status read_bpe(const Json& json, Parts& parts, const StringMap& vocab) {
  HEARTH_ASSIGN(BpeRules rules, BpeReader(json, parts, vocab).run());
  if (rules.unk >= 0) parts.unk = rules.unk;
  parts.model = std::make_unique<BpeModel>(std::move(rules));
  return Status::ok();
}

Status read_word_level(const Json& json, Parts& parts, const StringMap& vocab) {
  HEARTH_ASSIGN(int32_t unk, unk_in(json, parts));
  StringMap words;
  for (size_t id = 0; id < parts.texts.size(); ++id) {
    const std::string& text = parts.texts[id];
    if (id_or(vocab, text, -1) == static_cast<int32_t>(id) && !is_special(parts, text)) words.insert(text, static_cast<int32_t>(id));
  }
  if (unk >= 0) parts.unk = unk;
  parts.model = std::make_unique<WordLevelModel>(std::move(words), unk);
  return Status::ok();
}

// {"id", "content", "special", …}; a content that the vocabulary has keeps the vocabulary's id.
Status read_added_token(const Json& item, Parts& parts) {
  AddedToken token;
  HEARTH_ASSIGN(token.content, string_of(item, "content"));
  HEARTH_ASSIGN(int64_t id, integer_of(member(item, "id"), "id"));
  HEARTH_ASSIGN(token.special, bool_or(item, "special", false));
  HEARTH_ASSIGN(token.normalized, bool_or(item, "normalized", !token.special));
  HEARTH_ASSIGN(token.single_word, bool_or(item, "single_word", false));
  HEARTH_ASSIGN(token.lstrip, bool_or(item, "lstrip", false));
  HEARTH_ASSIGN(token.rstrip, bool_or(item, "rstrip", false));
  if (token.content.empty()) return Status::ok();
  if (auto known = parts.find(token.content)) id = *known;
  HEARTH_TRY(parts.add_text(id, token.content));
  token.id = static_cast<int32_t>(id);
  parts.added.add(std::move(token));
  return Status::ok();
}

}  // namespace

Status read_added_tokens(const Json& list, Parts& parts) {
  if (list.is_null()) return Status::ok();
  if (!list.is_array()) return wrong_type("added_tokens", "a list");
  for (const Json& item : list) HEARTH_TRY(read_added_token(item, parts).with("added_tokens"));
  return Status::ok();
}

Status read_model(const Json& root, Parts& parts) {
  const Json& json = member(root, "model");
  if (!json.is_object()) return wrong_type("model", "an object");
  // Old files do not say; then the vocabulary tells.
  const char* guess = !member(json, "merges").is_null() ? "BPE" : member(json, "vocab").is_array() ? "Unigram" : "";
  HEARTH_ASSIGN(std::string type, string_or(json, "type", guess));
  if (type != "BPE" && type != "Unigram" && type != "WordLevel") {
    return unsupported("model type \"" + type + "\" (Hearth has BPE, Unigram, WordLevel)");
  }
  std::vector<double> scores;
  HEARTH_TRY(type == "Unigram" ? read_vocab_list(json, parts, scores) : read_vocab_object(json, parts));
  const StringMap vocab = parts.ids;
  HEARTH_TRY(read_added_tokens(member(root, "added_tokens"), parts));
  if (parts.pre_tokenizer.byte_level && type != "BPE") return unsupported("a ByteLevel pre_tokenizer with a " + type + " model");
  if (type == "BPE") return read_bpe(json, parts, vocab).with("model BPE");
  if (type == "Unigram") return read_unigram(json, parts, vocab, scores).with("model Unigram");
  return read_word_level(json, parts, vocab).with("model WordLevel");
}

}  // namespace hearth::tokenizer
