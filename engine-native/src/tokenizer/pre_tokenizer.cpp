#include "tokenizer/pre_tokenizer.h"

#include "core/utf8.h"
#include "tokenizer/unicode.h"

namespace hearth::tokenizer {
namespace {

std::string_view slice(const std::string& text, Piece piece) {
  return std::string_view(text).substr(piece.begin, piece.end - piece.begin);
}

void find_string(std::string_view text, std::string_view wanted, std::vector<Match>& matches) {
  if (wanted.empty()) return;
  for (size_t at = 0; (at = text.find(wanted, at)) != text.npos; at += wanted.size()) {
    matches.push_back({static_cast<uint32_t>(at), static_cast<uint32_t>(at + wanted.size())});
  }
}

void find_class(std::string_view text, uint8_t mask, std::vector<Match>& matches) {
  const char* p = text.data();
  while (p != text.data() + text.size()) {
    auto at = static_cast<uint32_t>(p - text.data());
    if (class_of(utf8::next(p)) & mask) matches.push_back({at, static_cast<uint32_t>(p - text.data())});
  }
}

// One run over a text: the buffer, the pieces so far, and room for the next step's.
struct Run {
  std::string& text;
  bool at_start;
  std::vector<Piece>& pieces;
  std::vector<Piece> next{};
  std::vector<Match> matches{};

  template <class Find>
  Status cut(SplitBehaviour behaviour, bool invert, Find find) {
    next.clear();
    for (Piece piece : pieces) {
      matches.clear();
      HEARTH_TRY(find(slice(text, piece)));
      split_at(matches, piece.end - piece.begin, behaviour, invert, piece.begin, next);
    }
    pieces.swap(next);
    return Status::ok();
  }

  Status operator()(const ScanSplit& step) {
    next.clear();
    for (Piece piece : pieces) scan(step.kind, slice(text, piece), piece.begin, next);
    pieces.swap(next);
    return Status::ok();
  }
  Status operator()(const RegexSplit& step) {
    return cut(step.behaviour, step.invert, [&](std::string_view part) { return step.regex.find_all(part, matches); });
  }
  Status operator()(const StringSplit& step) {
    return cut(step.behaviour, step.invert, [&](std::string_view part) { return find_string(part, step.text, matches), Status::ok(); });
  }
  Status operator()(const ClassSplit& step) {
    return cut(step.behaviour, false, [&](std::string_view part) { return find_class(part, step.mask, matches), Status::ok(); });
  }

  // Rewrites every piece into a new buffer; write(piece's text, index, buffer) appends.
  template <class Write>
  void rewrite(Write write) {
    std::string fresh;
    fresh.reserve(text.size() + text.size() / 8 + 8);
    for (size_t i = 0; i < pieces.size(); ++i) {
      size_t begin = fresh.size();
      write(slice(text, pieces[i]), i, fresh);
      pieces[i] = {static_cast<uint32_t>(begin), static_cast<uint32_t>(fresh.size())};
    }
    text = std::move(fresh);
  }
  Status operator()(const PrefixSpace&) {
    rewrite([](std::string_view part, size_t, std::string& out) {
      if (!part.starts_with(' ')) out.push_back(' ');
      out.append(part);
    });
    return Status::ok();
  }
  Status operator()(const MetaspaceSplit& step) {
    rewrite([&](std::string_view part, size_t index, std::string& out) {
      bool wanted = step.scheme == PrependScheme::always || (step.scheme == PrependScheme::first && at_start && index == 0);
      if (wanted && !part.starts_with(' ') && !part.starts_with(step.replacement)) out.append(step.replacement);
      for (char c : part) c == ' ' ? static_cast<void>(out.append(step.replacement)) : out.push_back(c);
    });
    if (!step.split) return Status::ok();
    return cut(SplitBehaviour::merged_with_next, false,
               [&](std::string_view part) { return find_string(part, step.replacement, matches), Status::ok(); });
  }
};

}  // namespace

Status PreTokenizer::run(std::string& text, bool at_start, std::vector<Piece>& pieces) const {
  pieces.clear();
  if (text.empty()) return Status::ok();
  // Blanks may grow to three bytes each; offsets are 32 bits wide.
  if (text.size() > (1u << 30)) return invalid("a text of more than 1 GiB");
  pieces.push_back({0, static_cast<uint32_t>(text.size())});
  Run run{text, at_start, pieces};
  for (const PreTokenizerStep& step : steps_) HEARTH_TRY(std::visit(run, step));
  return Status::ok();
}

}  // namespace hearth::tokenizer
