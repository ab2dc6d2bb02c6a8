// SentencePiece .model files (sentencepiece_model.proto), BPE and unigram, read as untrusted input.
#include <algorithm>
#include <cmath>
#include <limits>
#include <new>

#include "core/utf8.h"
#include "tokenizer/companions.h"
#include "tokenizer/parts.h"
#include "tokenizer/protobuf.h"
#include "tokenizer/spm_rules.h"
#include "tokenizer/unigram.h"

namespace hearth::tokenizer {
namespace {

constexpr std::string_view lower_block = "\xE2\x96\x81";

struct SpmModel {
  std::vector<ScoredPiece> pieces;
  uint64_t model_type = 1;  // 1 unigram, 2 BPE, 3 word, 4 char
  bool byte_fallback = false, whitespace_as_suffix = false;
  int32_t unk = 0, bos = 1, eos = 2, pad = -1;
  std::string_view charsmap, denormalizer;
  bool add_dummy_prefix = true, remove_extra_whitespaces = true, escape_whitespaces = true;
};

template <class Visit>
Status each_field(std::string_view message, Visit visit) {
  ProtobufReader reader(message);
  ProtobufField field;
  while (!reader.done()) {
    field = {};
    HEARTH_TRY(reader.next(field));
    HEARTH_TRY(visit(field));
  }
  return Status::ok();
}

Status read_piece(std::string_view message, SpmModel& model) {
  if (static_cast<int64_t>(model.pieces.size()) > max_token_id) return unsupported("more than 4 million pieces");
  ScoredPiece piece{"", 0.0f, PieceType::normal};
  HEARTH_TRY(each_field(message, [&](const ProtobufField& f) {
    if (f.number == 1 && f.wire == 2) piece.text.assign(f.bytes);
    if (f.number == 2 && f.wire == 5) piece.score = f.as_float();
    if (f.number == 3 && f.wire == 0) {
      if (f.value < 1 || f.value > 6) return unsupported("piece type " + std::to_string(f.value));
      piece.type = static_cast<PieceType>(f.value);
    }
    return Status::ok();
  }));
  if (piece.text.empty()) return corrupt("piece " + std::to_string(model.pieces.size()) + " is empty");
  model.pieces.push_back(std::move(piece));
  return Status::ok();
}

Status read_trainer(std::string_view message, SpmModel& model) {
  return each_field(message, [&](const ProtobufField& f) {
    if (f.wire != 0) return Status::ok();
    if (f.number == 3) model.model_type = f.value;
    if (f.number == 24) model.whitespace_as_suffix = f.value != 0;
    if (f.number == 35) model.byte_fallback = f.value != 0;
    if (f.number == 40) model.unk = static_cast<int32_t>(f.value);
    if (f.number == 41) model.bos = static_cast<int32_t>(f.value);
    if (f.number == 42) model.eos = static_cast<int32_t>(f.value);
    if (f.number == 43) model.pad = static_cast<int32_t>(f.value);
    return Status::ok();
  });
}

Status read_normalizer_spec(std::string_view message, SpmModel& model) {
  return each_field(message, [&](const ProtobufField& f) {
    if (f.number == 2 && f.wire == 2) model.charsmap = f.bytes;
    if (f.number == 3 && f.wire == 0) model.add_dummy_prefix = f.value != 0;
    if (f.number == 4 && f.wire == 0) model.remove_extra_whitespaces = f.value != 0;
    if (f.number == 5 && f.wire == 0) model.escape_whitespaces = f.value != 0;
    return Status::ok();
  });
}

Result<SpmModel> read_proto(std::string_view data) {
  SpmModel model;
  HEARTH_TRY(each_field(data, [&](const ProtobufField& f) {
    if (f.wire != 2) return Status::ok();
    if (f.number == 1) return read_piece(f.bytes, model);
    if (f.number == 2) return read_trainer(f.bytes, model).with("trainer_spec");
    if (f.number == 3) return read_normalizer_spec(f.bytes, model).with("normalizer_spec");
    if (f.number == 5) {
      return each_field(f.bytes, [&](const ProtobufField& g) { return g.number == 2 && g.wire == 2 ? (model.denormalizer = g.bytes, Status::ok()) : Status::ok(); });
    }
    return Status::ok();
  }));
  if (model.pieces.empty()) return corrupt("no pieces");
  if (model.model_type != 1 && model.model_type != 2) return unsupported("a word or char model (Hearth has unigram and BPE)");
  if (model.whitespace_as_suffix) return unsupported("treat_whitespace_as_suffix");
  if (!model.denormalizer.empty()) return unsupported("a denormalizer");
  return model;
}

Status fill_vocabulary(const SpmModel& model, Parts& parts) {
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const ScoredPiece& piece = model.pieces[id];
    if (parts.find(piece.text)) return corrupt("piece \"" + piece.text + "\" occurs twice");
    HEARTH_TRY(parts.add_text(static_cast<int64_t>(id), piece.text));
    AddedToken token;
    token.content = piece.text;
    token.id = static_cast<int32_t>(id);
    if (piece.type == PieceType::control || piece.type == PieceType::unknown) {
      token.special = true;
    } else if (piece.type == PieceType::user_defined) {
      token.joins_text = true;
      // Runs of blanks are found after blanks became U+2581, so in the normalized text, as they stand.
      token.normalized = token.verbatim = piece.text.find(lower_block) != std::string::npos;
    } else {
      continue;
    }
    parts.added.add(std::move(token));
  }
  auto known = [&](int32_t id) { return parts.has(id) ? std::optional(id) : std::nullopt; };
  parts.unk = known(model.unk), parts.bos = known(model.bos), parts.eos = known(model.eos), parts.pad = known(model.pad);
  return Status::ok();
}

Status fill_normalizer(const SpmModel& model, Parts& parts) {
  SentencePieceNormalize step;
  step.add_dummy_prefix = model.add_dummy_prefix;
  step.remove_extra_whitespaces = model.remove_extra_whitespaces;
  step.escape_whitespaces = model.escape_whitespaces;
  if (!model.charsmap.empty()) {
    HEARTH_ASSIGN(Charsmap map, Charsmap::parse(model.charsmap));
    step.charsmap = std::make_shared<const Charsmap>(std::move(map));
  }
  if (step.add_dummy_prefix) parts.text_opening = step.escape_whitespaces ? lower_block : std::string_view(" ");
  parts.normalizer.add(std::move(step));
  return Status::ok();
}

void fill_decoder(const SpmModel& model, Parts& parts) {
  if (model.escape_whitespaces) parts.decoder.steps.emplace_back(ReplaceInToken{std::string(lower_block), " "});
  if (model.byte_fallback) parts.decoder.steps.emplace_back(ByteFallbackToken{});
  if (model.remove_extra_whitespaces) parts.decoder.strip_start = UINT32_MAX;
  else if (model.add_dummy_prefix) parts.decoder.strip_start = 1;
}

Status fill_unigram(const SpmModel& model, Parts& parts) {
  UnigramRules rules;
  rules.unk = parts.unk.value_or(-1);
  rules.scores.resize(model.pieces.size());
  float lowest = std::numeric_limits<float>::max();
  for (const ScoredPiece& p : model.pieces) {
    if (!std::isfinite(p.score)) return corrupt("a score that is not a number");
    if (p.type != PieceType::normal) continue;
    lowest = std::min(lowest, p.score);
  }
  rules.unknown_score = static_cast<double>(lowest) - 10.0;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const ScoredPiece& p = model.pieces[id];
    if (p.text.size() > UnigramRules::max_piece_bytes) return unsupported("piece " + std::to_string(id) + " is longer than 1024 bytes");
    if (p.type == PieceType::byte) {
      int byte = model.byte_fallback ? byte_fallback_value(p.text) : -1;
      if (byte >= 0) rules.byte_tokens[static_cast<size_t>(byte)] = static_cast<int32_t>(id);
    }
    if (p.type != PieceType::normal) continue;
    rules.scores[id] = p.score;
    rules.trie.insert(p.text, static_cast<int32_t>(id));
  }
  parts.model = std::make_unique<UnigramModel>(std::move(rules));
  return Status::ok();
}

Status fill_bpe(const SpmModel& model, Parts& parts) {
  for (const ScoredPiece& p : model.pieces) {
    if (p.type == PieceType::unused) return unsupported("a BPE model with unused pieces (it was restricted to a vocabulary)");
  }
  HEARTH_ASSIGN(BpeRules rules, bpe_rules_from_scores(model.pieces));
  if (!model.byte_fallback) rules.byte_tokens.fill(-1);
  rules.unk = parts.unk.value_or(-1);
  parts.model = std::make_unique<BpeModel>(std::move(rules));
  return Status::ok();
}

Status read_model_file(std::string_view data, const Companions& companions, Parts& parts) {
  HEARTH_ASSIGN(SpmModel model, read_proto(data));
  HEARTH_TRY(fill_vocabulary(model, parts));
  HEARTH_TRY(fill_normalizer(model, parts));
  fill_decoder(model, parts);
  HEARTH_TRY(model.model_type == 1 ? fill_unigram(model, parts) : fill_bpe(model, parts));
  // Every model served so far that came as a bare .model begins its texts with BOS; the configuration may say otherwise.
  if (parts.bos) parts.prefix = {*parts.bos};
  HEARTH_TRY(apply_companions(companions, parts));
  return parts.finish();
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> Tokenizer::from_sentencepiece(std::span<const std::byte> model, const Companions& companions) try {
  auto parts = std::make_unique<Parts>();
  std::string_view data(reinterpret_cast<const char*>(model.data()), model.size());
  HEARTH_TRY(read_model_file(data, companions, *parts).with("tokenizer.model"));
  return std::shared_ptr<const Tokenizer>(std::make_shared<Tokenizer>(std::move(parts)));
} catch (const std::bad_alloc&) {
  return out_of_memory("reading tokenizer.model");
}

}  // namespace hearth::tokenizer
