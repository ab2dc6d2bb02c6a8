// Constrained output: a grammar compiled to a byte-level pushdown automaton, and for each of its states the mask of
// tokens that may come next.
//
// The spec, as it stands under "grammar" in request_json (include/hearth.h). "type" says what "spec" is:
//   {"type":"json_object"}                             any JSON object
//   {"type":"json_schema","spec":SCHEMA}               JSON that fulfils the schema (json_schema.h lists the keywords)
//   {"type":"regex","spec":PATTERN}                    text the whole of which matches (regex.h lists the syntax)
//   {"type":"choice","spec":[TEXT,...]}                exactly one of the texts
//   {"type":"tools","spec":{                           calls of functions, in whatever markup a model family uses
//       "calls":[{"begin":TEXT,"schema":SCHEMA,"end":TEXT},...],   one entry a function; SCHEMA is its arguments'
//       "trigger":TEXT,       "auto": free text may come first and never contains this; every "begin" starts with it
//       "required":bool,      true: at least one call, and no free text (default false)
//       "answer":SCHEMA,      with "required": JSON that fulfils it may come instead of the calls
//       "parallel":bool,      more than one call (default true)
//       "separator":TEXT,     between two calls (default empty)
//       "prefix":TEXT, "suffix":TEXT}}                 around all calls together (default empty)
//   Any of them may have "after":TEXT beside "type": free text comes first and ends with TEXT (</think>), then the rest;
//   with "open":TEXT as well only where TEXT (<think>) begins it, or else the rest comes at once.
// Any other key is an error, and so is a keyword or a piece of syntax that is not implemented: the message names its
// JSON path. White space in JSON: after each of { [ , : and before } and ] there may be one blank, or a line feed and at most
// 16 blanks and tabs (without a bound small models write blanks for ever). Object members come in the schema's order, then additional ones.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/status.h"

namespace hearth::grammar {

// A vocabulary as a trie of bytes. Tokens without bytes and special tokens are never allowed by a mask, but for the end
// tokens where the grammar is complete. Special tokens that stand in markup (begin, end, trigger, after ...) are matched
// as the one token they are or as their text.
class TokenTrie {
 public:
  struct Token {
    std::string_view bytes;
    bool special = false;
  };
  static std::shared_ptr<const TokenTrie> build(int size, const std::function<Token(int32_t)>& token,
                                                std::vector<int32_t> end_tokens);

  int size() const { return size_; }
  int mask_words() const { return (size_ + 31) / 32; }
  int longest() const { return longest_; }
  std::string_view bytes(int32_t id) const { return {text_.data() + begin_[id], begin_[id + 1] - begin_[id]}; }
  std::span<const int32_t> end_tokens() const { return end_tokens_; }
  // Texts of special tokens, longest first.
  const std::vector<std::string>& special_texts() const { return special_texts_; }

  // Nodes in depth-first order: a rejected node's subtree is skipped by going on at `next`.
  struct Node {
    uint8_t byte;
    uint8_t depth;       // 1 for the first byte
    uint8_t deepest;     // depth of the longest token of the subtree
    int32_t next;        // first node outside the subtree
    int32_t tokens;      // ids that end here: token_list[tokens, tokens + token_count)
    int32_t token_count;
  };
  const std::vector<Node>& nodes() const { return nodes_; }
  const std::vector<int32_t>& token_list() const { return token_list_; }
  // Ids of the tokens of at least so many bytes.
  std::span<const int32_t> at_least(int bytes) const { return {longest_first_.data(), static_cast<size_t>(long_count_[bytes])}; }

  // Special tokens' text stands between these bytes, which no UTF-8 text has.
  static constexpr char special_open = '\xfe', special_close = '\xff';

 private:
  // The stages of build(): the texts, giving the ids that have one; nodes of the ids in the order of their texts; at_least().
  std::vector<int32_t> collect_texts(const std::function<Token(int32_t)>& token);
  void make_nodes(std::span<const int32_t> sorted);
  void sort_by_length(std::vector<int32_t> ids);

  int size_ = 0, longest_ = 0;
  std::string text_;
  std::vector<size_t> begin_;
  std::vector<int32_t> end_tokens_, token_list_, longest_first_;
  std::vector<int32_t> long_count_;  // [longest + 2]
  std::vector<std::string> special_texts_;
  std::vector<Node> nodes_;
};

class Automaton;  // automaton.h

// A compiled grammar. Its caches grow as it is used: one thread at a time may use it and its matchers.
class Grammar {
 public:
  // `spec` is the object with "type". Bounded in time and size; errors name the JSON path.
  static Result<std::shared_ptr<Grammar>> compile(const nlohmann::ordered_json& spec, std::shared_ptr<const TokenTrie> trie);
  ~Grammar();

 private:
  friend class Matcher;
  explicit Grammar(std::unique_ptr<Automaton> automaton);
  std::unique_ptr<Automaton> automaton_;
};

// One output as it grows.
class Matcher {
 public:
  explicit Matcher(std::shared_ptr<Grammar> grammar);

  // Takes a token. False when the grammar does not allow it there; then nothing changed.
  bool accept(int32_t token);
  // Takes bytes, for tests.
  bool accept_bytes(std::string_view bytes);
  // Tokens allowed next. Valid until the grammar is used again.
  std::span<const uint32_t> mask();
  // Looking ahead: after rewind(here()) the matcher stands where it stood. Only back, never forward.
  struct Place { int32_t config; uint64_t epoch; size_t history; };
  Place here() const { return {config_, epoch_, history_.size()}; }
  void rewind(const Place& place) { config_ = place.config, epoch_ = place.epoch, history_.resize(place.history); }
  // The output may end here; and when nothing can follow, it must.
  bool complete();
  bool exhausted();

 private:
  int32_t config();
  std::shared_ptr<Grammar> grammar_;
  int32_t config_ = 0;
  uint64_t epoch_ = 0;
  std::string history_;  // all bytes so far: replayed when the automaton's cache was emptied
};

// Compiled grammars by the hash and text of their spec, least recently used dropped. Any thread.
class GrammarCache {
 public:
  explicit GrammarCache(std::shared_ptr<const TokenTrie> trie, size_t capacity = 64);
  ~GrammarCache();
  // A grammar is used by one thread (the step thread); preparing threads only compile.
  Result<std::shared_ptr<Grammar>> get(const nlohmann::ordered_json& spec);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace hearth::grammar
