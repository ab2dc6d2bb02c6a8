#include "tokenizer/tokenizer.h"

#include <algorithm>

#include "core/utf8.h"
#include "tokenizer/parts.h"

namespace hearth::tokenizer {
namespace {

// The user's ranges, sorted and joined, so that one binary search answers whether a stretch touches any.
class LiteralRanges {
 public:
  static Result<LiteralRanges> make(std::span<const ByteRange> ranges, size_t text_size) {
    LiteralRanges made;
    for (ByteRange r : ranges) {
      if (r.begin > r.end || r.end > text_size) {
        return invalid("literal range " + std::to_string(r.begin) + ".." + std::to_string(r.end) + " lies outside the text of " +
                       std::to_string(text_size) + " bytes");
      }
      if (r.begin < r.end) made.ranges_.push_back(r);
    }
    std::sort(made.ranges_.begin(), made.ranges_.end(), [](ByteRange a, ByteRange b) { return a.begin < b.begin; });
    size_t kept = 0;
    for (ByteRange r : made.ranges_) {
      if (kept > 0 && r.begin <= made.ranges_[kept - 1].end) made.ranges_[kept - 1].end = std::max(made.ranges_[kept - 1].end, r.end);
      else made.ranges_[kept++] = r;
    }
    made.ranges_.resize(kept);
    return made;
  }

  bool empty() const { return ranges_.empty(); }
  bool touches(size_t begin, size_t end) const {
    auto after = first_after(begin);
    return after != ranges_.end() && after->begin < end;
  }
  // One flag a byte of [begin, end).
  std::vector<uint8_t> flags(size_t begin, size_t end) const {
    std::vector<uint8_t> out(end - begin);
    for (auto r = first_after(begin); r != ranges_.end() && r->begin < end; ++r) {
      for (size_t i = std::max<size_t>(r->begin, begin); i < std::min<size_t>(r->end, end); ++i) out[i - begin] = 1;
    }
    return out;
  }
  // The same ranges after text became utf8::lossy(text).
  void follow_repair(std::string_view text) {
    std::vector<uint32_t> moved(text.size() + 1);
    uint32_t to = 0;
    for (size_t at = 0; at < text.size();) {
      utf8::Decoded d = utf8::decode(text, at);
      for (uint32_t i = 0; i < d.length; ++i) moved[at + i] = to;
      at += d.length;
      to += d.valid ? d.length : static_cast<uint32_t>(utf8::replacement_bytes.size());
    }
    moved[text.size()] = to;
    for (ByteRange& r : ranges_) r = {moved[r.begin], after_char(text, moved, r.end)};
  }

 private:
  // A range that ends inside a character reaches to its end.
  static uint32_t after_char(std::string_view text, const std::vector<uint32_t>& moved, size_t end) {
    while (end < text.size() && end > 0 && moved[end] == moved[end - 1]) ++end;
    return moved[end];
  }
  // The first range that ends after a place.
  std::vector<ByteRange>::const_iterator first_after(size_t place) const {
    return std::upper_bound(ranges_.begin(), ranges_.end(), place, [](size_t at, ByteRange r) { return at < r.end; });
  }
  std::vector<ByteRange> ranges_;
};

// One call of encode: the stages in order, and the buffers they share.
class Encoding {
 public:
  Encoding(const Parts& parts, const LiteralRanges& literal, std::vector<int32_t>& ids) : parts_(parts), literal_(literal), ids_(ids) {}

  Status run(std::string_view text) {
    if (!parts_.added.any_raw()) return text.empty() ? Status::ok() : normalize(text, 0, {});
    auto sections = parts_.added.split_raw(text, [&](size_t b, size_t e) { return literal_.touches(b, e); });
    auto joins = [&](size_t i) { return i < sections.size() && sections[i].token && sections[i].token->joins_text; };
    for (size_t i = 0; i < sections.size(); ++i) {
      const Section& s = sections[i];
      bool opens = i == 0 || (sections[i - 1].token && !joins(i - 1));
      if (opens && joins(i) && !parts_.text_opening.empty()) parts_.model->encode(parts_.text_opening, ids_);
      if (s.token) ids_.push_back(s.token->id);
      else HEARTH_TRY(normalize(text.substr(s.begin, s.end - s.begin), s.begin, {i > 0 && joins(i - 1), joins(i + 1)}));
    }
    return Status::ok();
  }

 private:
  // begin: where the section lies in the whole text.
  Status normalize(std::string_view section, size_t begin, Neighbours neighbours) {
    TrackedText text{std::string(section), {}};
    if (!literal_.empty() && parts_.added.any_normalized()) text.literal = literal_.flags(begin, begin + section.size());
    HEARTH_TRY(parts_.normalizer.apply(text, neighbours));
    if (!parts_.added.any_normalized()) return pieces(text.text, begin == 0);
    auto sections = parts_.added.split_normalized(text.text, [&](size_t b, size_t e) { return text.any_literal(b, e); });
    for (const Section& s : sections) {
      if (s.token) {
        ids_.push_back(s.token->id);
        continue;
      }
      std::string part = text.text.substr(s.begin, s.end - s.begin);
      HEARTH_TRY(pieces(part, begin == 0 && s.begin == 0));
    }
    return Status::ok();
  }

  Status pieces(std::string& text, bool at_start) {
    HEARTH_TRY(parts_.pre_tokenizer.run(text, at_start, pieces_));
    for (Piece piece : pieces_) parts_.model->encode(std::string_view(text).substr(piece.begin, piece.end - piece.begin), ids_);
    return Status::ok();
  }

  const Parts& parts_;
  const LiteralRanges& literal_;
  std::vector<int32_t>& ids_;
  std::vector<Piece> pieces_;
};

}  // namespace

Status Parts::add_text(int64_t id, std::string_view text) {
  if (id < 0 || id > max_token_id) return corrupt("token id " + std::to_string(id) + " is out of range");
  if (!utf8::is_valid(text)) return corrupt("token " + std::to_string(id) + " is not UTF-8");
  if (static_cast<size_t>(id) >= texts.size()) texts.resize(static_cast<size_t>(id) + 1);
  std::string& slot = texts[static_cast<size_t>(id)];
  if (slot.empty()) slot.assign(text);
  else if (slot != text) return corrupt("token id " + std::to_string(id) + " stands for both \"" + slot + "\" and \"" + std::string(text) + "\"");
  ids.insert(text, static_cast<int32_t>(id));
  return Status::ok();
}

std::optional<int32_t> Parts::find(std::string_view text) const {
  const int32_t* id = ids.find(text);
  return id ? std::optional(*id) : std::nullopt;
}

Status Parts::finish() {
  HEARTH_TRY(added.prepare(normalizer));
  special.assign(texts.size(), false);
  std::vector<bool> is_added(texts.size(), false);
  for (const AddedToken& token : added.all()) {
    special[static_cast<size_t>(token.id)] = token.special;
    is_added[static_cast<size_t>(token.id)] = true;
  }
  byte_offsets.reserve(texts.size() + 1);
  for (size_t id = 0; id < texts.size(); ++id) {
    byte_offsets.push_back(static_cast<uint32_t>(byte_arena.size()));
    // Added tokens were never spelled in the alphabet of bytes.
    if (is_added[id] && decoder.byte_level) byte_arena += texts[id];
    else byte_arena += decoder.bytes_of(texts[id]);
    if (byte_arena.size() > UINT32_MAX) return corrupt("a vocabulary of more than 4 GiB");
  }
  byte_offsets.push_back(static_cast<uint32_t>(byte_arena.size()));
  for (auto id : {bos, eos, pad, unk}) {
    if (id && !has(*id)) return corrupt("special token id " + std::to_string(*id) + " is outside the vocabulary");
  }
  return Status::ok();
}

std::string_view Parts::bytes(int32_t id) const {
  if (!has(id)) return {};
  auto at = static_cast<size_t>(id);
  return std::string_view(byte_arena).substr(byte_offsets[at], byte_offsets[at + 1] - byte_offsets[at]);
}

Tokenizer::Tokenizer(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Tokenizer::~Tokenizer() = default;

Status Tokenizer::encode(std::string_view text, const EncodeOptions& options, std::vector<int32_t>& ids) const {
  if (text.size() > (1u << 30)) return invalid("a text of more than 1 GiB");
  HEARTH_ASSIGN(LiteralRanges literal, LiteralRanges::make(options.literal, text.size()));
  std::string repaired;
  if (!utf8::is_valid(text)) {
    literal.follow_repair(text);
    repaired = utf8::lossy(text);
    text = repaired;
  }
  const size_t before = ids.size();
  if (options.add_special_tokens) ids.insert(ids.end(), parts_->prefix.begin(), parts_->prefix.end());
  if (Status status = Encoding(*parts_, literal, ids).run(text); !status) {
    ids.resize(before);
    return status;
  }
  if (options.add_special_tokens) ids.insert(ids.end(), parts_->suffix.begin(), parts_->suffix.end());
  return Status::ok();
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  Detokenizer detokenizer(nullptr, skip_special);
  detokenizer.strip_left_ = parts_->decoder.strip_start;
  std::string out;
  for (int32_t id : ids) detokenizer.feed(*parts_, id, out);
  detokenizer.flush(out);
  return out;
}

std::string_view Tokenizer::token_bytes(int32_t id) const { return parts_->bytes(id); }
std::string_view Tokenizer::token_text(int32_t id) const {
  return parts_->has(id) ? std::string_view(parts_->texts[static_cast<size_t>(id)]) : std::string_view();
}
bool Tokenizer::is_special(int32_t id) const { return parts_->has(id) && parts_->special[static_cast<size_t>(id)]; }
int32_t Tokenizer::vocab_size() const { return static_cast<int32_t>(parts_->texts.size()); }
std::optional<int32_t> Tokenizer::id_of(std::string_view token) const { return parts_->find(token); }
std::optional<int32_t> Tokenizer::bos() const { return parts_->bos; }
std::optional<int32_t> Tokenizer::eos() const { return parts_->eos; }
std::optional<int32_t> Tokenizer::pad() const { return parts_->pad; }
std::optional<int32_t> Tokenizer::unk() const { return parts_->unk; }

}  // namespace hearth::tokenizer
