#include "grammar/grammar.h"

#include <algorithm>
#include <list>
#include <mutex>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "grammar/automaton.h"
#include "grammar/json_schema.h"
#include "grammar/regex.h"

namespace hearth::grammar {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t spec_bytes_max = 256 << 10;
constexpr int choices_max = 10000;
constexpr int calls_max = 512;
constexpr size_t stop_bytes_max = 1000;  // of what ends free text: its graph costs the square and more
constexpr double warm_up_ms = 25;

// Text in which special tokens may stand as the one token they are.
Expr markup(const std::string& text, const TokenTrie& trie) {
  std::vector<Expr> parts;
  std::string plain;
  for (size_t at = 0; at < text.size();) {
    const std::string* special = nullptr;
    for (const std::string& candidate : trie.special_texts())
      if (text.compare(at, candidate.size(), candidate) == 0) { special = &candidate; break; }
    if (!special) {
      plain += text[at++];
      continue;
    }
    parts.push_back(literal(plain));
    plain.clear();
    parts.push_back(choice({literal(*special), literal(TokenTrie::special_open + *special + TokenTrie::special_close)}));
    at += special->size();
  }
  parts.push_back(literal(plain));
  return sequence(std::move(parts));
}

// Any bytes in which `stop` does not stand, then (when `with_stop`) the stop itself: Knuth-Morris-Pratt as a graph.
Expr free_text(const std::string& stop, bool with_stop, const TokenTrie& trie) {
  int n = static_cast<int>(stop.size());
  std::vector<int> border(n + 1, 0);
  for (int i = 1, k = 0; i < n; ++i) {
    while (k > 0 && stop[i] != stop[k]) k = border[k];
    if (stop[i] == stop[k]) ++k;
    border[i + 1] = k;
  }
  std::vector<GraphEdge> edges;
  std::vector<int> accepting;
  for (int state = 0; state < n; ++state) {
    if (!with_stop) accepting.push_back(state);
    std::vector<ByteSet> to(n + 1);
    for (int byte = 0; byte < 0xfe; ++byte) {
      int k = state;
      while (k > 0 && static_cast<uint8_t>(stop[k]) != byte) k = border[k];
      if (static_cast<uint8_t>(stop[k]) == byte) ++k;
      to[k].add(byte, byte);
    }
    for (int k = 0; k < n; ++k)
      if (to[k] != ByteSet{}) edges.push_back({state, k, byte_set(to[k])});
    if (with_stop && to[n] != ByteSet{}) edges.push_back({state, n, byte_set(to[n])});
  }
  if (with_stop) {
    accepting.push_back(n);
    // The stop as one special token, wherever the text stands.
    bool special = std::find(trie.special_texts().begin(), trie.special_texts().end(), stop) != trie.special_texts().end();
    for (int state = 0; special && state < n; ++state)
      edges.push_back({state, n, literal(TokenTrie::special_open + stop + TokenTrie::special_close)});
  }
  return graph(n + 1, std::move(edges), std::move(accepting));
}

class SpecCompiler {
 public:
  SpecCompiler(Rules& rules, const TokenTrie& trie) : rules_(rules), trie_(trie) {}

  Result<Expr> run(const Json& object) {
    if (!object.is_object() || !object.contains("type") || !object["type"].is_string())
      return invalid("grammar: an object with a \"type\" is expected");
    for (auto& [key, value] : object.items())
      if (key != "type" && key != "spec" && key != "after" && key != "open") return invalid("grammar/" + key.substr(0, 60) + ": unknown key");
    const Json none;
    const Json& spec = object.contains("spec") ? object["spec"] : none;
    HEARTH_ASSIGN(Expr body, by_type(object["type"], spec));
    HEARTH_ASSIGN(std::string after, mark(object, "after"));
    HEARTH_ASSIGN(std::string open, mark(object, "open"));
    if (after.empty()) return open.empty() ? Result<Expr>(body) : invalid("grammar/open: needs \"after\"");
    Expr thoughts = sequence({free_text(after, true, trie_), ws_run()});
    if (open.empty()) return sequence({thoughts, body});
    return sequence({optional(sequence({markup(open, trie_), thoughts})), body});
  }

 private:
  // Text around what is free; empty when there is none.
  static Result<std::string> mark(const Json& object, const std::string& key) {
    if (!object.contains(key) || object[key].is_null()) return std::string();
    if (!object[key].is_string() || object[key].get_ref<const std::string&>().empty())
      return invalid("grammar/" + key + ": must be text that is not empty");
    if (object[key].get_ref<const std::string&>().size() > stop_bytes_max)
      return invalid("grammar/" + key + ": longer than " + std::to_string(stop_bytes_max) + " bytes");
    return object[key].get<std::string>();
  }

  static Expr ws_run() {
    ByteSet blank;
    blank.add(' ', ' '), blank.add('\n', '\n'), blank.add('\r', '\r'), blank.add('\t', '\t');
    return repeat(byte_set(blank), 0, 4);
  }

  Result<Expr> by_type(const std::string& type, const Json& spec) {
    if (type == "json_object") {
      if (!spec.is_null()) return invalid("grammar/spec: json_object takes none");
      return compile_schema(Json{{"type", "object"}}, rules_, "#");
    }
    if (type == "json_schema") return compile_schema(spec, rules_, "#");
    if (type == "regex") {
      if (!spec.is_string()) return invalid("grammar/spec: must be a pattern");
      return compile_regex({{spec.get<std::string>(), true}}, TextForm::plain, rules_);
    }
    if (type == "choice") return choices(spec);
    if (type == "tools") return tools(spec);
    return invalid("grammar/type: must be json_object, json_schema, regex, choice or tools");
  }

  Result<Expr> choices(const Json& spec) {
    if (!spec.is_array() || spec.empty() || spec.size() > choices_max)
      return invalid("grammar/spec: must be a list of 1 to " + std::to_string(choices_max) + " texts");
    std::vector<Expr> parts;
    for (const Json& text : spec) {
      if (!text.is_string()) return invalid("grammar/spec: must be a list of texts");
      parts.push_back(literal(text.get<std::string>()));
    }
    return choice(std::move(parts));
  }

  static Result<std::string> text_of(const Json& object, const char* key, bool needed) {
    if (!object.contains(key) || object[key].is_null())
      return needed ? Result<std::string>(invalid(std::string("grammar/spec/") + key + ": is missing")) : std::string();
    if (!object[key].is_string()) return invalid(std::string("grammar/spec/") + key + ": must be text");
    return object[key].get<std::string>();
  }
  static Result<bool> flag_of(const Json& object, const char* key, bool otherwise) {
    if (!object.contains(key) || object[key].is_null()) return otherwise;
    if (!object[key].is_boolean()) return invalid(std::string("grammar/spec/") + key + ": must be true or false");
    return object[key].get<bool>();
  }

  Result<Expr> tools(const Json& spec) {
    if (!spec.is_object()) return invalid("grammar/spec: must be an object");
    for (auto& [key, value] : spec.items())
      if (key != "calls" && key != "trigger" && key != "required" && key != "parallel" && key != "separator" && key != "prefix" && key != "suffix" &&
          key != "answer")
        return invalid("grammar/spec/" + key.substr(0, 60) + ": unknown key");
    if (!spec.contains("calls") || !spec["calls"].is_array() || spec["calls"].empty() || spec["calls"].size() > calls_max)
      return invalid("grammar/spec/calls: must be a list of 1 to " + std::to_string(calls_max) + " functions");
    HEARTH_ASSIGN(bool required, flag_of(spec, "required", false));
    HEARTH_ASSIGN(bool parallel, flag_of(spec, "parallel", true));
    HEARTH_ASSIGN(std::string trigger, text_of(spec, "trigger", !required));
    HEARTH_ASSIGN(std::string separator, text_of(spec, "separator", false));
    HEARTH_ASSIGN(std::string prefix, text_of(spec, "prefix", false));
    HEARTH_ASSIGN(std::string suffix, text_of(spec, "suffix", false));
    if (!required && trigger.empty()) return invalid("grammar/spec/trigger: must not be empty");
    if (trigger.size() > stop_bytes_max) return invalid("grammar/spec/trigger: longer than " + std::to_string(stop_bytes_max) + " bytes");
    std::vector<Expr> calls;
    for (size_t i = 0; i < spec["calls"].size(); ++i) {
      HEARTH_ASSIGN(Expr one, tool_call(spec["calls"][i], "grammar/spec/calls/" + std::to_string(i), required ? "" : trigger, prefix));
      calls.push_back(one);
    }
    int rule = rules_.add();
    rules_.define(rule, choice(std::move(calls)));
    Expr more = parallel ? repeat(sequence({markup(separator, trie_), call(rule)}), 0, -1) : literal("");
    Expr all = sequence({markup(prefix, trie_), call(rule), more, markup(suffix, trie_)});
    if (spec.contains("answer")) {
      if (!required) return invalid("grammar/spec/answer: only with required");
      HEARTH_ASSIGN(Expr answer, compile_schema(spec["answer"], rules_, "#"));
      return choice({all, answer});
    }
    if (required) return all;
    return sequence({free_text(trigger, false, trie_), optional(all)});
  }

  Result<Expr> tool_call(const Json& one, const std::string& path, const std::string& trigger, const std::string& prefix) {
    if (!one.is_object()) return invalid(path + ": must be an object");
    for (auto& [key, value] : one.items())
      if (key != "begin" && key != "schema" && key != "end") return invalid(path + "/" + key.substr(0, 60) + ": unknown key");
    for (const char* key : {"begin", "end"})
      if (!one.contains(key) || !one[key].is_string()) return invalid(path + "/" + key + ": must be text");
    if (!one.contains("schema")) return invalid(path + "/schema: is missing");
    std::string begin = one["begin"];
    if (!(prefix + begin).starts_with(trigger)) return invalid(path + "/begin: must start with the trigger");
    HEARTH_ASSIGN(Expr arguments, compile_schema(one["schema"], rules_, path + "/schema"));
    return sequence({markup(begin, trie_), arguments, markup(one["end"], trie_)});
  }

  Rules& rules_;
  const TokenTrie& trie_;
};

}  // namespace

Grammar::Grammar(std::unique_ptr<Automaton> automaton) : automaton_(std::move(automaton)) {}
Grammar::~Grammar() = default;

Result<std::shared_ptr<Grammar>> Grammar::compile(const Json& spec, std::shared_ptr<const TokenTrie> trie) {
  if (spec.dump(-1, ' ', false, Json::error_handler_t::replace).size() > spec_bytes_max)
    return invalid("grammar: larger than " + std::to_string(spec_bytes_max >> 10) + " KB");
  Rules rules;
  int root = rules.add();
  HEARTH_ASSIGN(Expr body, SpecCompiler(rules, *trie).run(spec));
  rules.define(root, body);
  HEARTH_ASSIGN(std::unique_ptr<Automaton> automaton, Automaton::build(rules, std::move(trie)));
  if (automaton->start() < 0) return invalid("grammar: too ambiguous: too many ways to read the same text");
  automaton->warm_up(warm_up_ms);
  return std::shared_ptr<Grammar>(new Grammar(std::move(automaton)));
}

// ---- Matcher --------------------------------------------------------------------------------------------------------

Matcher::Matcher(std::shared_ptr<Grammar> grammar) : grammar_(std::move(grammar)) {
  epoch_ = grammar_->automaton_->epoch();
  config_ = grammar_->automaton_->start();
}

int32_t Matcher::config() {
  Automaton& automaton = *grammar_->automaton_;
  automaton.trim();
  if (automaton.epoch() != epoch_) {
    epoch_ = automaton.epoch();
    config_ = automaton.run(automaton.start(), history_);
  }
  return config_;
}

bool Matcher::accept_bytes(std::string_view bytes) {
  int32_t next = grammar_->automaton_->run(config(), bytes);
  if (next < 0) return false;
  config_ = next;
  history_ += bytes;
  return true;
}

bool Matcher::accept(int32_t token) {
  const TokenTrie& trie = grammar_->automaton_->trie();
  auto ends = trie.end_tokens();
  if (std::find(ends.begin(), ends.end(), token) != ends.end()) return complete();
  if (token < 0 || token >= trie.size() || trie.bytes(token).empty()) return false;
  return accept_bytes(trie.bytes(token));
}

std::span<const uint32_t> Matcher::mask() { return grammar_->automaton_->mask(config()); }
bool Matcher::complete() { return grammar_->automaton_->can_finish(config()); }
bool Matcher::exhausted() { return complete() && !grammar_->automaton_->can_continue(config()); }

// ---- Cache ----------------------------------------------------------------------------------------------------------

struct GrammarCache::State {
  std::mutex mutex;
  std::shared_ptr<const TokenTrie> trie;
  size_t capacity;
  std::list<std::pair<std::string, std::shared_ptr<Grammar>>> recent;  // newest first
  std::unordered_map<std::string_view, decltype(recent)::iterator> index;
};

GrammarCache::GrammarCache(std::shared_ptr<const TokenTrie> trie, size_t capacity) : state_(new State) {
  state_->trie = std::move(trie);
  state_->capacity = capacity;
}
GrammarCache::~GrammarCache() = default;

Result<std::shared_ptr<Grammar>> GrammarCache::get(const Json& spec) {
  std::string key = spec.dump(-1, ' ', false, Json::error_handler_t::replace);
  {
    std::lock_guard lock(state_->mutex);
    if (auto at = state_->index.find(key); at != state_->index.end()) {
      state_->recent.splice(state_->recent.begin(), state_->recent, at->second);
      return at->second->second;
    }
  }
  HEARTH_ASSIGN(std::shared_ptr<Grammar> grammar, Grammar::compile(spec, state_->trie));
  std::lock_guard lock(state_->mutex);
  if (auto at = state_->index.find(key); at != state_->index.end()) return at->second->second;
  state_->recent.emplace_front(std::move(key), grammar);
  state_->index[state_->recent.front().first] = state_->recent.begin();
  if (state_->recent.size() > state_->capacity) {
    state_->index.erase(state_->recent.back().first);
    state_->recent.pop_back();
  }
  return grammar;
}

}  // namespace hearth::grammar
