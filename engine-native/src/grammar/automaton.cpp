#include "grammar/automaton.h"

#include <algorithm>
#include <chrono>
#include <numeric>

namespace hearth::grammar {
namespace {

constexpr int32_t unknown = -2;
constexpr int tables_max = 16384;           // 1 KB each
constexpr size_t mask_bytes_max = 8 << 20;

uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  return x ^ (x >> 29);
}

}  // namespace

void Automaton::clear() {
  frames_.assign(1, {-1, -1});
  frame_index_.clear();
  configs_.clear();
  config_index_.clear();
  masks_.clear();
  mask_of_.clear();
  next_mask_ = 0;
  tables_ = 0;
  ++epoch_;
}

void Automaton::trim() {
  if (tables_ >= tables_max) clear();
}

int32_t Automaton::frame(int32_t state, int32_t below) {
  uint64_t key = static_cast<uint64_t>(static_cast<uint32_t>(state)) << 32 | static_cast<uint32_t>(below);
  auto [at, fresh] = frame_index_.try_emplace(key, static_cast<int32_t>(frames_.size()));
  if (fresh) frames_.push_back({state, below});
  return at->second;
}

// Everything reachable without a byte: through empty edges, into called rules, and out of finished ones. Gives up, leaving
// more stacks than are allowed, when the grammar is too ambiguous.
void Automaton::close(int32_t state, int32_t below, std::vector<int32_t>& frames, bool& finish) {
  pending_.push_back({state, below});
  while (!pending_.empty()) {
    auto [at, under] = pending_.back();
    pending_.pop_back();
    uint64_t key = static_cast<uint64_t>(static_cast<uint32_t>(at)) << 32 | static_cast<uint32_t>(under);
    if (visited_.size() > static_cast<size_t>(closure_max)) {
      frames.assign(config_stacks_max + 1, 0);
      std::iota(frames.begin(), frames.end(), 0);
      pending_.clear();
      return;
    }
    if (!visited_.insert(key).second) continue;
    const State& s = state_[at];
    if (s.has_bytes) frames.push_back(frame(at, under));
    if (s.accepts) {
      if (under == 0) finish = true;
      else pending_.push_back({frames_[under].state, frames_[under].below});
    }
    for (int32_t i = s.first_edge; i < s.first_edge + s.edge_count; ++i) {
      const Edge& edge = edge_[i];
      if (edge.set >= 0) continue;
      if (edge.rule >= 0) pending_.push_back({rule_start_[edge.rule], frame(edge.target, under)});
      else pending_.push_back({edge.target, under});
    }
  }
}

int32_t Automaton::intern(std::vector<int32_t>& frames, bool finish) {
  if (frames.empty() && !finish) return dead;
  std::sort(frames.begin(), frames.end());
  frames.erase(std::unique(frames.begin(), frames.end()), frames.end());
  if (frames.size() > static_cast<size_t>(config_stacks_max)) return dead;
  uint64_t hash = finish;
  for (int32_t f : frames) hash = mix(hash ^ static_cast<uint64_t>(f)) + 0x9e3779b97f4a7c15ull;
  auto [begin, end] = config_index_.equal_range(hash);
  for (auto at = begin; at != end; ++at)
    if (configs_[at->second].frames == frames && configs_[at->second].can_finish == finish) return at->second;
  configs_.push_back({frames, finish, nullptr, -1});
  config_index_.emplace(hash, static_cast<int32_t>(configs_.size()) - 1);
  return static_cast<int32_t>(configs_.size()) - 1;
}

int32_t Automaton::start() {
  scratch_.clear();
  visited_.clear();
  bool finish = false;
  close(rule_start_[0], 0, scratch_, finish);
  return intern(scratch_, finish);
}

int32_t Automaton::step(int32_t config, uint8_t byte) {
  if (config < 0) return dead;
  int32_t* next = configs_[config].next.get();
  if (next && next[byte] != unknown) return next[byte];
  return work_out_step(config, byte);
}

int32_t Automaton::work_out_step(int32_t config, uint8_t byte) {
  if (!configs_[config].next) {
    configs_[config].next.reset(new int32_t[256]);
    std::fill_n(configs_[config].next.get(), 256, unknown);
    ++tables_;
  }
  scratch_.clear();
  visited_.clear();
  bool finish = false;
  for (size_t i = 0; i < configs_[config].frames.size(); ++i) {
    Frame f = frames_[configs_[config].frames[i]];
    const State& s = state_[f.state];
    for (int32_t e = s.first_edge; e < s.first_edge + s.edge_count; ++e)
      if (edge_[e].set >= 0 && sets_[edge_[e].set].has(byte)) close(edge_[e].target, f.below, scratch_, finish);
  }
  int32_t to = intern(scratch_, finish);
  configs_[config].next[byte] = to;
  return to;
}

int32_t Automaton::run(int32_t config, std::string_view bytes) {
  for (char byte : bytes) {
    config = step(config, static_cast<uint8_t>(byte));
    if (config < 0) return dead;
  }
  return config;
}

// ---- Masks ----------------------------------------------------------------------------------------------------------

// Tokens of at least `shortest` bytes from a config whose bottom stands for whatever lies below.
void Automaton::walk(int32_t config, int shortest, Local& out) {
  const auto& nodes = trie_->nodes();
  const auto& tokens = trie_->token_list();
  std::vector<int32_t>& at = walk_config_;
  at.assign(trie_->longest() + 1, dead);
  at[0] = config;
  std::vector<int32_t> accepted;
  int left_at = INT32_MAX;  // depth of the prefix that left the rule
  for (int32_t i = 0; i < static_cast<int32_t>(nodes.size());) {
    const TokenTrie::Node& node = nodes[i];
    if (node.deepest < shortest) {
      i = node.next;
      continue;
    }
    if (node.depth <= left_at) left_at = INT32_MAX;
    int32_t next = step(at[node.depth - 1], node.byte);
    at[node.depth] = next;
    bool leaving = left_at < node.depth;
    int32_t count = node.depth < shortest ? 0 : node.token_count;
    for (int32_t k = node.tokens; k < node.tokens + count; ++k) {
      if (next >= 0) accepted.push_back(tokens[k]);
      else if (leaving) out.leaving.push_back(tokens[k]);
    }
    if (next >= 0 && configs_[next].can_finish && left_at == INT32_MAX) left_at = node.depth;
    i = next < 0 && !leaving ? node.next : i + 1;
  }
  if (accepted.size() < static_cast<size_t>(trie_->mask_words())) {
    out.accepted_ids = std::move(accepted);
  } else {
    out.accepted.assign(trie_->mask_words(), 0);
    for (int32_t id : accepted) out.accepted[id >> 5] |= 1u << (id & 31);
  }
  out.done = true;
}

void Automaton::take_short_tokens(const Local& from, int below, Local& out) const {
  auto is_short = [&](int32_t id) { return static_cast<int>(trie_->bytes(id).size()) < below; };
  std::copy_if(from.leaving.begin(), from.leaving.end(), std::back_inserter(out.leaving), is_short);
  std::copy_if(from.accepted_ids.begin(), from.accepted_ids.end(), std::back_inserter(out.accepted_ids), is_short);
  if (from.accepted.empty()) return;
  std::vector<uint32_t> mask = from.accepted;
  for (int32_t id : trie_->at_least(std::min(below, trie_->longest() + 1))) mask[id >> 5] &= ~(1u << (id & 31));
  for (size_t w = 0; w < out.accepted.size(); ++w) mask[w] |= out.accepted[w];
  out.accepted = std::move(mask);
}

const Automaton::Local& Automaton::local(int32_t state) {
  int32_t own = local_of(state), twin = state_[own].alias;
  Local& found = local_[own];
  if (found.done) return found;
  std::vector<int32_t> frames = {frame(own, 0)};
  int32_t config = intern(frames, false);
  if (twin == own) {
    walk(config, 1, found);
    return found;
  }
  int shortest = state_[own].differs_from;
  take_short_tokens(local(twin), shortest, found);
  Local longer;
  walk(config, shortest, longer);
  take_short_tokens(longer, INT32_MAX, found);
  found.done = true;
  return found;
}

std::span<const uint32_t> Automaton::mask(int32_t config) {
  if (config < 0) {
    scratch_mask_.assign(trie_->mask_words(), 0);
    return scratch_mask_;
  }
  if (configs_[config].mask >= 0) return masks_[configs_[config].mask];
  std::vector<uint32_t> out(trie_->mask_words(), 0);
  std::vector<int32_t> leaving, frames = configs_[config].frames;
  std::vector<int32_t> seen;
  for (int32_t f : frames) {
    int32_t own = local_of(frames_[f].state);
    if (std::find(seen.begin(), seen.end(), own) != seen.end()) continue;
    seen.push_back(own);
    const Local& l = local(frames_[f].state);
    for (size_t w = 0; w < l.accepted.size(); ++w) out[w] |= l.accepted[w];
    for (int32_t id : l.accepted_ids) out[id >> 5] |= 1u << (id & 31);
    leaving.insert(leaving.end(), l.leaving.begin(), l.leaving.end());
  }
  for (int32_t id : leaving) {
    if ((out[id >> 5] >> (id & 31)) & 1) continue;
    if (run(config, trie_->bytes(id)) >= 0) out[id >> 5] |= 1u << (id & 31);
  }
  if (configs_[config].can_finish)
    for (int32_t id : trie_->end_tokens()) out[id >> 5] |= 1u << (id & 31);
  return keep_mask(config, std::move(out));
}

std::span<const uint32_t> Automaton::keep_mask(int32_t config, std::vector<uint32_t> mask) {
  size_t most = std::max<size_t>(16, mask_bytes_max / (4 * static_cast<size_t>(trie_->mask_words()) + 1));
  size_t slot = masks_.size();
  if (slot < most) {
    masks_.emplace_back();
    mask_of_.push_back(config);
  } else {
    slot = next_mask_++ % most;
    configs_[mask_of_[slot]].mask = -1;
    mask_of_[slot] = config;
  }
  masks_[slot] = std::move(mask);
  configs_[config].mask = static_cast<int32_t>(slot);
  return masks_[slot];
}

void Automaton::warm_up(double milliseconds) {
  auto begin = std::chrono::steady_clock::now();
  // States that take many bytes first: those are the ones that walk most of the vocabulary.
  std::vector<std::pair<int, int32_t>> order;
  for (size_t s = 0; s < state_.size(); ++s) {
    if (!state_[s].has_bytes || local_of(static_cast<int32_t>(s)) != static_cast<int32_t>(s)) continue;
    int bytes = 0;
    for (int32_t e = state_[s].first_edge; e < state_[s].first_edge + state_[s].edge_count; ++e)
      if (edge_[e].set >= 0)
        for (uint64_t word : sets_[edge_[e].set].words) bytes += __builtin_popcountll(word);
    order.push_back({-bytes, static_cast<int32_t>(s)});
  }
  std::sort(order.begin(), order.end());
  for (auto [bytes, s] : order) {
    local(s);
    if (std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count() > milliseconds) return;
    trim();
  }
}

}  // namespace hearth::grammar
