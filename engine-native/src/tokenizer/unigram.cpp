#include "tokenizer/unigram.h"

#include <algorithm>

#include "core/utf8.h"

namespace hearth::tokenizer {
namespace {

constexpr uint32_t unreached = UINT32_MAX;

struct Best {
  double score = 0;
  uint32_t begin = unreached;  // where the last piece of the best path to here begins
  int32_t id = -1;             // -1: an unknown character
};

// The best path to every place of text.
std::vector<Best> viterbi(const UnigramRules& rules, std::string_view text) {
  std::vector<Best> best(text.size() + 1);
  for (size_t at = 0; at < text.size();) {
    const double till_here = best[at].score;
    const uint32_t length = utf8::length_of(static_cast<unsigned char>(text[at]));
    bool has_single = false;
    auto offer = [&](size_t size, int32_t id, double score) {
      Best& target = best[at + size];
      if (target.begin == unreached || till_here + score > target.score) target = {till_here + score, static_cast<uint32_t>(at), id};
    };
    rules.trie.prefixes(text, at, [&](size_t size, int32_t id) {
      offer(size, id, rules.scores[static_cast<size_t>(id)]);
      has_single |= size == length;
    });
    if (!has_single) offer(length, -1, rules.unknown_score);
    at += length;
  }
  return best;
}

}  // namespace

bool UnigramModel::emit_bytes(std::string_view text, std::vector<int32_t>& ids) const {
  auto token = [&](char b) { return rules_.byte_tokens[static_cast<unsigned char>(b)]; };
  if (std::any_of(text.begin(), text.end(), [&](char b) { return token(b) < 0; })) return false;
  for (char b : text) ids.push_back(token(b));
  return true;
}

void UnigramModel::encode(std::string_view piece, std::vector<int32_t>& ids) const {
  std::vector<Best> best = viterbi(rules_, piece);
  std::vector<Best> path;  // score is not used; begin and id of each piece, last first
  for (uint32_t at = static_cast<uint32_t>(piece.size()); at > 0; at = best[at].begin) path.push_back(best[at]);
  auto end = [&](size_t i) { return i == 0 ? piece.size() : static_cast<size_t>(path[i - 1].begin); };
  bool after_unknown = false;
  for (size_t i = path.size(); i-- > 0;) {
    if (path[i].id >= 0) {
      ids.push_back(path[i].id);
      after_unknown = false;
    } else if (!emit_bytes(piece.substr(path[i].begin, end(i) - path[i].begin), ids)) {
      if (rules_.unk >= 0 && !(after_unknown && rules_.fuse_unk)) ids.push_back(rules_.unk);
      after_unknown = true;
    }
  }
}

}  // namespace hearth::tokenizer
