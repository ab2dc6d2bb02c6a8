#include "runtime/vocabulary.h"

#include <algorithm>

#include "core/utf8.h"

namespace hearth::runtime {
namespace {

class TokenizerStream final : public TextStream {
 public:
  TokenizerStream(std::shared_ptr<const tokenizer::Tokenizer> tokenizer, bool skip_special, bool continues)
      : detokenizer_(std::move(tokenizer), skip_special, continues) {}
  void push(int32_t id, std::string& out) override { detokenizer_.push(id, out); }
  void flush(std::string& out) override { detokenizer_.flush(out); }

 private:
  tokenizer::Detokenizer detokenizer_;
};

class TokenizerVocabulary final : public Vocabulary {
 public:
  explicit TokenizerVocabulary(std::shared_ptr<const tokenizer::Tokenizer> tokenizer) : tokenizer_(std::move(tokenizer)) {}
  int size() const override { return tokenizer_->vocab_size(); }
  Status encode(std::string_view text, bool add_special, std::span<const ByteRange> literal,
                std::vector<int32_t>& ids) const override {
    return tokenizer_->encode(text, {add_special, literal}, ids);
  }
  std::string decode(std::span<const int32_t> ids, bool skip_special) const override {
    return tokenizer_->decode(ids, skip_special);
  }
  std::string_view token_bytes(int32_t id) const override { return tokenizer_->token_bytes(id); }
  std::string_view token_text(int32_t id) const override { return tokenizer_->token_text(id); }
  bool is_special(int32_t id) const override { return tokenizer_->is_special(id); }
  std::optional<int32_t> bos() const override { return tokenizer_->bos(); }
  std::vector<std::pair<const char*, int32_t>> named_tokens() const override {
    std::vector<std::pair<const char*, int32_t>> named;
    if (auto id = tokenizer_->bos()) named.emplace_back("bos_token", *id);
    if (auto id = tokenizer_->eos()) named.emplace_back("eos_token", *id);
    if (auto id = tokenizer_->unk()) named.emplace_back("unk_token", *id);
    if (auto id = tokenizer_->pad()) named.emplace_back("pad_token", *id);
    return named;
  }
  std::unique_ptr<TextStream> stream(bool skip_special, bool continues) const override {
    return std::make_unique<TokenizerStream>(tokenizer_, skip_special, continues);
  }

 private:
  std::shared_ptr<const tokenizer::Tokenizer> tokenizer_;
};

class ByteStream final : public TextStream {
 public:
  explicit ByteStream(const Vocabulary& vocabulary) : vocabulary_(vocabulary) { pending_.reserve(64); }
  void push(int32_t id, std::string& out) override {
    pending_.append(vocabulary_.token_bytes(id));
    size_t whole = utf8::complete_length(pending_);
    utf8::append_lossy(out, std::string_view(pending_).substr(0, whole));
    pending_.erase(0, whole);
  }
  void flush(std::string& out) override {
    utf8::append_lossy(out, pending_);
    pending_.clear();
  }

 private:
  const Vocabulary& vocabulary_;
  std::string pending_;
};

class ByteVocabulary final : public Vocabulary {
 public:
  explicit ByteVocabulary(int size) : words_(size) {
    for (int id = 0; id < size; ++id)
      words_[id] = id < 256 ? std::string(1, static_cast<char>(id)) : " t" + std::to_string(id);
  }
  int size() const override { return static_cast<int>(words_.size()); }
  Status encode(std::string_view text, bool, std::span<const ByteRange> literal, std::vector<int32_t>& ids) const override {
    for (ByteRange range : literal)
      if (range.begin > range.end || range.end > text.size()) return invalid("a literal range lies outside the text");
    for (char byte : text) ids.push_back(static_cast<uint8_t>(byte) % size());
    return Status::ok();
  }
  std::string decode(std::span<const int32_t> ids, bool) const override {
    std::string bytes;
    for (int32_t id : ids) bytes.append(token_bytes(id));
    return utf8::lossy(bytes);
  }
  std::string_view token_bytes(int32_t id) const override { return words_[id]; }
  std::string_view token_text(int32_t id) const override { return words_[id]; }
  bool is_special(int32_t) const override { return false; }
  std::optional<int32_t> bos() const override { return std::nullopt; }
  std::vector<std::pair<const char*, int32_t>> named_tokens() const override { return {}; }
  std::unique_ptr<TextStream> stream(bool, bool) const override { return std::make_unique<ByteStream>(*this); }

 private:
  std::vector<std::string> words_;
};

}  // namespace

int Vocabulary::token_bytes_max() const {
  size_t longest = 0;
  for (int id = 0; id < size(); ++id) longest = std::max(longest, token_bytes(id).size());
  return static_cast<int>(longest);
}

std::shared_ptr<const Vocabulary> make_vocabulary(std::shared_ptr<const tokenizer::Tokenizer> tokenizer) {
  return std::make_shared<TokenizerVocabulary>(std::move(tokenizer));
}

std::shared_ptr<const Vocabulary> make_byte_vocabulary(int size) { return std::make_shared<ByteVocabulary>(size); }

}  // namespace hearth::runtime
