#include "grammar/regex.h"

#include <algorithm>
#include <map>
#include <set>

#include "core/utf8.h"

namespace hearth::grammar {
namespace {

constexpr int nesting_max = 100;
constexpr int repetitions_max = 10000;
constexpr size_t nfa_states_max = 20000;
constexpr size_t product_work_max = 2000000;   // places and edges looked at for it
constexpr uint32_t last_code = 0x10ffff;

struct Node;
using NodePtr = std::shared_ptr<Node>;
struct Node {
  enum class Kind : uint8_t { empty, set, sequence, choice, repeat } kind = Kind::empty;
  CodeRanges set;
  std::vector<NodePtr> parts;
  int min = 0, max = 0;
};

NodePtr make(Node::Kind kind) {
  auto node = std::make_shared<Node>();
  node->kind = kind;
  return node;
}
NodePtr make_set(CodeRanges set) {
  auto node = make(Node::Kind::set);
  node->set = normalized(std::move(set));
  return node;
}
NodePtr make_repeat(NodePtr part, int min, int max) {
  auto node = make(Node::Kind::repeat);
  node->parts = {std::move(part)};
  node->min = min;
  node->max = max;
  return node;
}
NodePtr anything() { return make_repeat(make_set({{0, last_code}}), 0, -1); }

const CodeRanges digits = {{'0', '9'}};
const CodeRanges words = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
const CodeRanges spaces = {{9, 13}, {32, 32}, {0xa0, 0xa0}, {0x1680, 0x1680}, {0x2000, 0x200a}, {0x2028, 0x2029},
                           {0x202f, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000}, {0xfeff, 0xfeff}};
const CodeRanges line_ends = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

class Parser {
 public:
  Parser(std::string_view pattern, bool whole) : text_(pattern), whole_(whole) {}

  Result<NodePtr> run() {
    if (!utf8::is_valid(text_)) return invalid("the pattern is not UTF-8");
    NodePtr node = alternatives(0, true);
    if (error_.empty() && at_ < text_.size()) fail("an unmatched )");
    if (!error_.empty()) return Status(unsupported_ ? Code::unsupported : Code::invalid_argument, error_);
    return node;
  }

 private:
  bool more() const { return at_ < text_.size() && error_.empty(); }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool eat(std::string_view token) {
    if (text_.substr(at_, token.size()) != token) return false;
    at_ += token.size();
    return true;
  }
  void fail(const std::string& what, bool not_supported = false) {
    if (!error_.empty()) return;
    error_ = "pattern, byte " + std::to_string(at_) + ": " + what;
    unsupported_ = not_supported;
  }
  uint32_t character() {
    const char* p = text_.data() + at_;
    const char* begin = p;
    uint32_t code = utf8::next(p);
    at_ += static_cast<size_t>(p - begin);
    return code;
  }

  NodePtr alternatives(int depth, bool top) {
    if (depth > nesting_max) return fail("groups nest too deeply"), make(Node::Kind::empty);
    auto choice = make(Node::Kind::choice);
    do choice->parts.push_back(sequence(depth, top));
    while (more() && eat("|"));
    return choice->parts.size() == 1 ? choice->parts[0] : choice;
  }

  // A top-level alternative that is not anchored may have anything around it, unless the whole text is asked for.
  NodePtr sequence(int depth, bool top) {
    auto node = make(Node::Kind::sequence);
    bool open_front = top && !whole_, open_back = top && !whole_;
    while (more() && peek() != '|' && peek() != ')') {
      if (eat("^")) {
        if (!top || !node->parts.empty()) fail("^ anywhere but at the beginning is not supported", true);
        open_front = false;
      } else if (eat("$")) {
        if (!top || (at_ < text_.size() && peek() != '|')) fail("$ anywhere but at the end is not supported", true);
        open_back = false;
      } else {
        NodePtr atom_node = atom(depth);
        node->parts.push_back(quantified(std::move(atom_node)));
      }
    }
    if (open_front) node->parts.insert(node->parts.begin(), anything());
    if (open_back) node->parts.push_back(anything());
    return node;
  }

  NodePtr atom(int depth) {
    if (eat("(")) return group(depth);
    if (eat("[")) return make_set(char_class());
    if (eat(".")) return make_set(complement(line_ends));
    if (eat("\\")) return make_set(escape(false));
    if (peek() == '*' || peek() == '+' || peek() == '?') return fail("nothing to repeat"), make(Node::Kind::empty);
    uint32_t code = character();
    return make_set({{code, code}});
  }

  NodePtr group(int depth) {
    if (eat("?")) {
      if (eat(":")) {
      } else if (peek() == '<' && text_.substr(at_, 2) != "<=" && text_.substr(at_, 2) != "<!") {
        size_t end = text_.find('>', at_);
        if (end == std::string_view::npos) fail("an unfinished group name");
        else at_ = end + 1;
      } else {
        fail("look-around is not supported", true);
      }
    }
    NodePtr inside = alternatives(depth + 1, false);
    if (!eat(")")) fail("a missing )");
    return inside;
  }

  // One quantifier at most, as ECMA-262 has it: towers of them would be trees as deep as the pattern is long.
  NodePtr quantified(NodePtr node) {
    int min = 0, max = -1;
    if (eat("*")) {
    } else if (eat("+")) {
      min = 1;
    } else if (eat("?")) {
      max = 1;
    } else if (!braces(min, max)) {
      return node;
    }
    eat("?");  // lazy: the same language
    if (max >= 0 && min > max) fail("a repetition whose least is more than its most");
    if (more() && std::string_view("*+?{").find(peek()) != std::string_view::npos) fail("nothing to repeat");
    return make_repeat(std::move(node), min, max);
  }

  bool braces(int& min, int& max) {
    size_t begin = at_;
    if (!eat("{")) return false;
    if (!number(min)) return at_ = begin, literal_brace();
    max = min;
    if (eat(",")) {
      max = -1;
      if (peek() != '}' && !number(max)) return at_ = begin, literal_brace();
    }
    if (!eat("}")) return at_ = begin, literal_brace();
    return true;
  }
  bool literal_brace() {
    fail("a { that begins no repetition must be escaped");
    return false;
  }
  bool number(int& out) {
    if (peek() < '0' || peek() > '9') return false;
    for (out = 0; peek() >= '0' && peek() <= '9'; ++at_)
      if ((out = out * 10 + (peek() - '0')) > repetitions_max) return fail("a repetition of more than 10000"), false;
    return true;
  }

  uint32_t hex(int count) {
    uint32_t code = 0;
    for (int i = 0; i < count; ++i, ++at_) {
      char c = peek();
      int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
      if (digit < 0) return fail("a bad hexadecimal escape"), 0;
      code = code * 16 + static_cast<uint32_t>(digit);
    }
    return code;
  }
  uint32_t unicode_escape() {
    if (!eat("{")) {
      uint32_t high = hex(4);
      if (high < 0xd800 || high > 0xdbff || !eat("\\u")) return high;
      uint32_t low = hex(4);
      if (low < 0xdc00 || low > 0xdfff) return fail("half of a surrogate pair"), 0;
      return 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
    }
    size_t end = text_.find('}', at_);
    if (end == std::string_view::npos || end == at_ || end - at_ > 6) return fail("a bad \\u{...}"), 0;
    uint32_t code = hex(static_cast<int>(end - at_));
    eat("}");
    if (code > last_code) fail("a \\u{...} beyond Unicode");
    return code;
  }

  CodeRanges escape(bool in_class) {
    if (at_ >= text_.size()) return fail("a pattern that ends in \\"), CodeRanges{};
    uint32_t code = character();
    switch (code) {
      case 'd': return digits;
      case 'D': return complement(digits);
      case 'w': return words;
      case 'W': return complement(words);
      case 's': return spaces;
      case 'S': return complement(spaces);
      case 't': code = '\t'; break;
      case 'n': code = '\n'; break;
      case 'r': code = '\r'; break;
      case 'f': code = '\f'; break;
      case 'v': code = '\v'; break;
      case '0': code = 0; break;
      case 'x': code = hex(2); break;
      case 'u': code = unicode_escape(); break;
      case 'c':
        if (!std::isalpha(static_cast<unsigned char>(peek()))) return fail("a \\c without a letter"), CodeRanges{};
        code = character() & 31;
        break;
      case 'b':
        if (in_class) { code = 8; break; }
        [[fallthrough]];
      case 'B': return fail("word boundaries are not supported", true), CodeRanges{};
      case 'p': case 'P': return fail("\\p{...} is not supported", true), CodeRanges{};
      case 'k': return fail("back-references are not supported", true), CodeRanges{};
      default:
        if (code >= '1' && code <= '9') return fail("back-references are not supported", true), CodeRanges{};
        if (code < 128 && std::isalpha(static_cast<int>(code))) return fail("an unknown escape"), CodeRanges{};
    }
    return {{code, code}};
  }

  CodeRanges char_class() {
    bool negated = eat("^");
    CodeRanges out;
    while (more() && peek() != ']') {
      CodeRanges first = class_atom();
      if (peek() == '-' && at_ + 1 < text_.size() && text_[at_ + 1] != ']' && first.size() == 1 && first[0].first == first[0].second) {
        ++at_;
        CodeRanges last = class_atom();
        if (last.size() != 1 || last[0].first != last[0].second || last[0].first < first[0].first) fail("a bad range in a class");
        else first[0].second = last[0].first;
      }
      out.insert(out.end(), first.begin(), first.end());
    }
    if (!eat("]")) fail("a missing ]");
    out = normalized(std::move(out));
    return negated ? complement(out) : out;
  }
  CodeRanges class_atom() {
    if (eat("\\")) return escape(true);
    uint32_t code = character();
    return {{code, code}};
  }

  std::string_view text_;
  bool whole_;
  size_t at_ = 0;
  std::string error_;
  bool unsupported_ = false;
};

Expr to_expression(const Node& node, TextForm form) {
  std::vector<Expr> parts;
  switch (node.kind) {
    case Node::Kind::empty: return literal("");
    case Node::Kind::set: return form == TextForm::plain ? utf8_characters(node.set) : json_characters(node.set);
    case Node::Kind::repeat: return repeat(to_expression(*node.parts[0], form), node.min, node.max);
    default:
      for (const NodePtr& part : node.parts) parts.push_back(to_expression(*part, form));
      if (parts.empty()) return literal("");
      return node.kind == Node::Kind::sequence ? sequence(std::move(parts)) : choice(std::move(parts));
  }
}

// ---- Several patterns, and bounds on the length: their NFAs over characters, times one another and a counter ----------

struct CharNfa {
  struct Edge { const CodeRanges* set; int target; };  // null: empty
  std::vector<std::vector<Edge>> states;
  int add() { return states.emplace_back(), static_cast<int>(states.size()) - 1; }

  int emit(const Node& node, int from) {
    if (states.size() > nfa_states_max) return from;
    switch (node.kind) {
      case Node::Kind::empty: return from;
      case Node::Kind::set: {
        int to = add();
        states[from].push_back({&node.set, to});
        return to;
      }
      case Node::Kind::sequence:
        for (const NodePtr& part : node.parts) from = emit(*part, from);
        return from;
      case Node::Kind::choice: {
        int end = add();
        for (const NodePtr& part : node.parts) link(emit(*part, from), end);
        return end;
      }
      case Node::Kind::repeat: return emit_repeat(node, from);
    }
    return from;
  }
  int emit_repeat(const Node& node, int from) {
    int end = add();
    for (int i = 0; i < (node.max < 0 ? node.min : node.max); ++i) {
      if (i >= node.min) link(from, end);
      int begin = add();
      link(from, begin);
      from = emit(*node.parts[0], begin);
    }
    link(from, end);
    if (node.max < 0) {
      int loop = add();
      link(from, loop);
      link(emit(*node.parts[0], loop), loop);
      link(loop, end);
    }
    return end;
  }
  void link(int from, int to) { states[from].push_back({nullptr, to}); }
  // All states reachable from one by empty edges, itself among them.
  std::set<int> closed(int state) const {
    std::set<int> out = {state};
    std::vector<int> pending = {state};
    while (!pending.empty()) {
      int at = pending.back();
      pending.pop_back();
      for (const Edge& edge : states[at])
        if (!edge.set && out.insert(edge.target).second) pending.push_back(edge.target);
    }
    return out;
  }
};

CodeRanges common(const CodeRanges& a, const CodeRanges& b) {
  CodeRanges neither = complement(a), of_b = complement(b);
  neither.insert(neither.end(), of_b.begin(), of_b.end());
  return complement(normalized(std::move(neither)));
}

// What the first pattern, the second where there is one, and the bounds all allow.
class Product {
 public:
  Product(const std::vector<NodePtr>& patterns, TextForm form, int min_length, int max_length)
      : form_(form), min_(min_length), max_(max_length), two_(patterns.size() > 1) {
    for (size_t i = 0; i < patterns.size(); ++i) {
      int start = nfa_[i].add();
      starts_[i] = start;
      ends_[i] = nfa_[i].emit(*patterns[i], start);
    }
  }

  Result<Expr> run(Rules& rules) {
    const Status too_large = invalid("the pattern together with its format or length bounds is too large");
    if (nfa_[0].states.size() > nfa_states_max || nfa_[1].states.size() > nfa_states_max) return too_large;
    number({starts_[0], starts_[1], 0});
    size_t looked_at = 0;  // where much may be left out, as in (a?){999}, edges grow with the square of the states
    for (size_t i = 0; i < order_.size(); ++i) {
      const size_t edges_before = edges_.size(), looked_before = looked_at;
      looked_at += look(static_cast<int>(i));
      if (order_.size() > states_max || looked_at + edges_.size() > product_work_max) return too_large;
      if (!rules.spend(static_cast<int64_t>(edges_.size() - edges_before + looked_at - looked_before))) return too_large;
    }
    if (accepting_.empty()) return nothing();
    return graph(static_cast<int>(order_.size()), std::move(edges_), std::move(accepting_));
  }

 private:
  // Beyond min_length without a maximum the count stays where it is.
  struct Place {
    int first, second, count;
    auto operator<=>(const Place&) const = default;
  };

  int number(const Place& place) {
    auto [at, fresh] = index_.try_emplace(place, static_cast<int>(order_.size()));
    if (fresh) order_.push_back(place);
    return at->second;
  }

  size_t look(int from) {
    const Place place = order_[from];
    const std::set<int> first = nfa_[0].closed(place.first);
    const std::set<int> second = two_ ? nfa_[1].closed(place.second) : std::set<int>{};
    size_t looked_at = first.size() + second.size();
    if (first.contains(ends_[0]) && (!two_ || second.contains(ends_[1])) && place.count >= min_) accepting_.push_back(from);
    if (max_ >= 0 && place.count == max_) return looked_at;
    int count = max_ < 0 ? std::min(place.count + 1, min_) : place.count + 1;
    for (int s : first)
      for (const CharNfa::Edge& a : nfa_[0].states[s]) {
        if (!a.set) continue;
        if (!two_) edge(from, {a.target, 0, count}, label(a.set, nullptr));
        for (int t : second)
          for (const CharNfa::Edge& b : nfa_[1].states[t])
            if (b.set) ++looked_at, edge(from, {a.target, b.target, count}, label(a.set, b.set));
      }
    return looked_at;
  }

  void edge(int from, const Place& to, const Expr& label) {
    if (label->kind != Expression::Kind::nothing) edges_.push_back({from, number(to), label});
  }

  Expr label(const CodeRanges* a, const CodeRanges* b) {
    Expr& made = labels_[{a, b}];
    if (made) return made;
    const CodeRanges set = b ? common(*a, *b) : *a;
    return made = set.empty() ? nothing() : form_ == TextForm::plain ? utf8_characters(set) : json_characters(set);
  }

  const TextForm form_;
  const int min_, max_;
  const bool two_;
  CharNfa nfa_[2];
  int starts_[2] = {}, ends_[2] = {};
  std::map<Place, int> index_;
  std::vector<Place> order_;
  std::map<std::pair<const CodeRanges*, const CodeRanges*>, Expr> labels_;
  std::vector<GraphEdge> edges_;
  std::vector<int> accepting_;
};

}  // namespace

Result<Expr> compile_regex(const std::vector<Pattern>& patterns, TextForm form, Rules& rules, int min_length, int max_length) {
  std::vector<NodePtr> nodes;
  for (const Pattern& pattern : patterns) {
    HEARTH_ASSIGN(NodePtr node, Parser(pattern.text, pattern.whole).run());
    nodes.push_back(std::move(node));
  }
  if (nodes.size() == 1 && min_length <= 0 && max_length < 0) return to_expression(*nodes[0], form);
  return Product(nodes, form, min_length, max_length).run(rules);
}

}  // namespace hearth::grammar
