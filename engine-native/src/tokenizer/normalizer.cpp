#include "tokenizer/normalizer.h"

#include "core/utf8.h"

namespace hearth::tokenizer {
namespace {

constexpr std::string_view lower_block = "\xE2\x96\x81";  // U+2581, SentencePiece's visible blank

Status run(const PrependText& step, TrackedText& text) {
  if (text.text.empty()) return Status::ok();
  Edit edit(text);
  edit.put(step.text, 0, 0);
  edit.keep(0, text.text.size());
  edit.finish();
  return Status::ok();
}

Status run(const ReplaceText& step, TrackedText& text) {
  Edit edit(text);
  std::string_view source = edit.source();
  size_t done = 0;
  if (step.pattern) {
    std::vector<Match> matches;
    HEARTH_TRY(step.pattern->find_all(source, matches));
    for (const Match& m : matches) {
      edit.keep(done, m.begin);
      edit.put(step.to, m.begin, m.end);
      done = m.end;
    }
  } else if (!step.from.empty()) {
    for (size_t at; (at = source.find(step.from, done)) != source.npos; done = at + step.from.size()) {
      edit.keep(done, at);
      edit.put(step.to, at, at + step.from.size());
    }
  }
  edit.keep(done, source.size());
  edit.finish();
  return Status::ok();
}

// Cuts the text where normal forms cannot reach across: finely when bytes are tracked, else only around characters
// below U+0300, which are their own NFC; long stretches of ASCII are copied.
Status run(const Normalize& step, TrackedText& text) {
  Edit edit(text);
  std::string_view source = edit.source();
  std::string normal;
  size_t begin = 0;     // of the segment under way
  bool plain = true;    // it is all below U+0080: its own form under every rule
  auto close = [&](size_t end) {
    if (begin == end) return;
    if (plain) return edit.keep(begin, end);
    normal.clear();
    append_normalized(normal, source.substr(begin, end - begin), step.form);
    edit.put(normal, begin, end);
  };
  const char* p = source.data();
  while (p != source.data() + source.size()) {
    size_t at = static_cast<size_t>(p - source.data());
    char32_t c = utf8::next(p);
    if (plain && c < 0x80 && !edit.tracked()) continue;
    if (c < 0x300 || (edit.tracked() && starts_segment(c))) {
      close(at);
      begin = at;
      plain = c < 0x80;
    } else {
      plain = false;
    }
  }
  close(source.size());
  edit.finish();
  return Status::ok();
}

template <class Change>
Status each_char(TrackedText& text, Change change) {
  Edit edit(text);
  std::string_view source = edit.source();
  std::string out;
  const char* p = source.data();
  while (p != source.data() + source.size()) {
    size_t at = static_cast<size_t>(p - source.data());
    char32_t c = utf8::next(p);
    out.clear();
    change(c, out);
    edit.put(out, at, static_cast<size_t>(p - source.data()));
  }
  edit.finish();
  return Status::ok();
}

Status run(const Lowercase&, TrackedText& text) {
  return each_char(text, [](char32_t c, std::string& out) { append_lowercase(out, c); });
}

Status run(const StripAccents&, TrackedText& text) {
  return each_char(text, [](char32_t c, std::string& out) {
    if (!(class_of(c) & class_mark)) utf8::append(out, c);
  });
}

Status run(const StripSpace& step, TrackedText& text) {
  Edit edit(text);
  std::string_view source = edit.source();
  size_t begin = 0, end = source.size();
  while (step.left && begin < end) {
    const char* p = source.data() + begin;
    if (!is_space(utf8::next(p))) break;
    begin = static_cast<size_t>(p - source.data());
  }
  while (step.right && begin < end) {
    size_t at = utf8::previous(source, end);
    const char* p = source.data() + at;
    if (!is_space(utf8::next(p))) break;
    end = at;
  }
  edit.keep(begin, end);
  edit.finish();
  return Status::ok();
}

// One step of a character map at text[at]: the bytes taken, and what they become.
Charsmap::Found map_at(const Charsmap* charsmap, std::string_view text, size_t at) {
  if (charsmap) {
    if (auto found = charsmap->longest(text, at)) return *found;
  }
  uint32_t length = utf8::length_of(static_cast<unsigned char>(text[at]));
  return {length, text.substr(at, length)};
}

// Rules may be of any bytes; a broken one must not break the text.
Status sound(TrackedText& text) {
  if (utf8::is_valid(text.text)) return Status::ok();
  return corrupt("the normalizer's character map makes ill-formed UTF-8");
}

Status run(const ApplyCharsmap& step, TrackedText& text) {
  Edit edit(text);
  std::string_view source = edit.source();
  for (size_t at = 0; at < source.size();) {
    auto found = map_at(step.charsmap.get(), source, at);
    edit.put(found.text, at, at + found.length);
    at += found.length;
  }
  edit.finish();
  return sound(text);
}

Status run(const SentencePieceNormalize& step, TrackedText& text, Neighbours neighbours) {
  Edit edit(text);
  std::string_view source = edit.source();
  const Charsmap* charsmap = step.charsmap.get();
  std::string_view blank = step.escape_whitespaces ? lower_block : std::string_view(" ");
  size_t at = 0;
  while (step.remove_extra_whitespaces && !neighbours.before && at < source.size()) {
    auto found = map_at(charsmap, source, at);
    if (found.text != " ") break;
    at += found.length;
  }
  if (at < source.size() && step.add_dummy_prefix && !neighbours.before) edit.put(blank, 0, 0);
  bool after_blank = step.remove_extra_whitespaces && !neighbours.before;
  while (at < source.size()) {
    auto found = map_at(charsmap, source, at);
    std::string_view part = found.text;
    while (after_blank && part.starts_with(' ')) part.remove_prefix(1);
    for (size_t i = 0; i < part.size(); ++i) edit.put(part[i] == ' ' ? blank : part.substr(i, 1), at, at + found.length);
    if (!part.empty()) after_blank = part.ends_with(' ');
    if (!step.remove_extra_whitespaces) after_blank = false;
    at += found.length;
  }
  while (step.remove_extra_whitespaces && !neighbours.after && edit.text().ends_with(blank)) edit.drop_last(blank.size());
  edit.finish();
  return sound(text);
}

}  // namespace

Status Normalizer::apply(TrackedText& text, Neighbours neighbours) const {
  for (const NormalizerStep& step : steps_) {
    Status status = std::visit(
        [&](const auto& s) {
          if constexpr (std::is_same_v<std::decay_t<decltype(s)>, SentencePieceNormalize>) return run(s, text, neighbours);
          else return run(s, text);
        },
        step);
    HEARTH_TRY(status);
    // A replacement may blow the text up; offsets are 32 bits wide.
    if (text.text.size() > (1u << 31)) return invalid("the text grows beyond 2 GiB when normalized");
  }
  return Status::ok();
}

}  // namespace hearth::tokenizer
