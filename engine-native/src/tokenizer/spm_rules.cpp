#include "tokenizer/spm_rules.h"

#include <algorithm>
#include <cmath>

#include "core/utf8.h"
#include "tokenizer/decoder.h"

namespace hearth::tokenizer {
namespace {

constexpr size_t max_piece_bytes = 1024;  // splitting a piece everywhere costs its length squared

// The dense rank of every distinct score, highest first: equal scores must tie, so that the leftmost pair wins.
std::vector<float> sorted_scores(const std::vector<ScoredPiece>& pieces) {
  std::vector<float> scores;
  for (const ScoredPiece& p : pieces) {
    if (p.type == PieceType::normal) scores.push_back(p.score);
  }
  std::sort(scores.begin(), scores.end(), std::greater<>());
  scores.erase(std::unique(scores.begin(), scores.end()), scores.end());
  return scores;
}

Status check(const std::vector<ScoredPiece>& pieces) {
  for (size_t id = 0; id < pieces.size(); ++id) {
    const ScoredPiece& p = pieces[id];
    if (!std::isfinite(p.score)) return corrupt("score of token " + std::to_string(id) + " is not a number");
    if (p.text.size() > max_piece_bytes) return unsupported("token " + std::to_string(id) + " is longer than 1024 bytes");
    if (!utf8::is_valid(p.text)) return corrupt("token " + std::to_string(id) + " is not UTF-8");
  }
  return Status::ok();
}

class Builder {
 public:
  explicit Builder(const std::vector<ScoredPiece>& pieces) : pieces_(pieces), scores_(sorted_scores(pieces)) {
    rules_.first_virtual = static_cast<int32_t>(pieces.size());
    rules_.fuse_unk = true;
    rules_.can_cut = true;
  }

  BpeRules run() {
    each_normal([&](int32_t id, std::string_view text) { ids_.insert(text, id); });
    each_normal([&](int32_t, std::string_view text) { begin_chars(text); });
    each_normal([&](int32_t id, std::string_view text) { split(id, text), note_joints(text, rules_); });
    for (size_t id = 0; id < pieces_.size(); ++id) {
      int byte = pieces_[id].type == PieceType::byte ? byte_fallback_value(pieces_[id].text) : -1;
      if (byte >= 0) rules_.byte_tokens[static_cast<size_t>(byte)] = static_cast<int32_t>(id);
    }
    return std::move(rules_);
  }

 private:
  template <class Visit>
  void each_normal(Visit visit) {
    for (size_t id = 0; id < pieces_.size(); ++id) {
      if (pieces_[id].type == PieceType::normal && !pieces_[id].text.empty()) visit(static_cast<int32_t>(id), pieces_[id].text);
    }
  }

  // Every character of a piece is a symbol: a token's id, or a virtual one where no piece is that character alone.
  void begin_chars(std::string_view text) {
    for (const char* p = text.data(); p != text.data() + text.size();) {
      const char* at = p;
      char32_t c = utf8::next(p);
      if (rules_.char_symbols.find(c)) continue;
      const int32_t* id = ids_.find({at, static_cast<size_t>(p - at)});
      int32_t symbol = id ? *id : rules_.first_virtual + static_cast<int32_t>(rules_.virtual_chars.size());
      if (!id) rules_.virtual_chars.push_back(c);
      rules_.char_symbols.insert(c, symbol);
    }
  }

  int32_t symbol_of(std::string_view part) const {
    if (const int32_t* id = ids_.find(part)) return *id;
    if (utf8::length_of(static_cast<unsigned char>(part[0])) != part.size()) return -1;
    const char* p = part.data();
    const int32_t* symbol = rules_.char_symbols.find(utf8::next(p));
    return symbol ? *symbol : -1;
  }

  void split(int32_t id, std::string_view text) {
    auto place = std::lower_bound(scores_.begin(), scores_.end(), pieces_[static_cast<size_t>(id)].score, std::greater<>());
    auto rank = static_cast<uint32_t>(place - scores_.begin());
    for (size_t at = utf8::length_of(static_cast<unsigned char>(text[0])); at < text.size(); at += utf8::length_of(static_cast<unsigned char>(text[at]))) {
      int32_t left = symbol_of(text.substr(0, at)), right = symbol_of(text.substr(at));
      if (left >= 0 && right >= 0) rules_.merges.push_back({left, right, rank, id});
    }
  }

  const std::vector<ScoredPiece>& pieces_;
  std::vector<float> scores_;
  StringMap ids_;
  BpeRules rules_;
};

}  // namespace

void note_joints(std::string_view token, BpeRules& rules) {
  int32_t previous = -1;
  for (const char* p = token.data(); p != token.data() + token.size();) {
    const int32_t* symbol = rules.char_symbols.find(utf8::next(p));
    if (previous >= 0 && symbol) rules.joints.insert(pair_key(previous, *symbol), 1);
    previous = symbol ? *symbol : -1;
  }
}

Result<BpeRules> bpe_rules_from_scores(const std::vector<ScoredPiece>& pieces) {
  HEARTH_TRY(check(pieces));
  return Builder(pieces).run();
}

}  // namespace hearth::tokenizer
