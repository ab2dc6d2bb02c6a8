// What a step writes into the ring. All of it fits the room the step reserved before it was launched.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "runtime/json_reader.h"
#include "runtime/model_runner.h"

namespace hearth::runtime {
namespace {

double milliseconds(Clock::duration d) { return std::chrono::duration<double, std::milli>(d).count(); }

}  // namespace

Status ModelRunner::not_numbers() {
  return corrupt("the model's output is not a number: its weights are damaged, or overflow this precision (bf16 and f32 reach further than f16)");
}

// Entries packed as include/hearth.h says: id, log-probability, size, bytes.
uint32_t ModelRunner::pack_top(const sampling::Drawn& drawn) {
  top_.clear();
  uint32_t count = 0;
  for (size_t i = 0; i < drawn.top_ids.size(); ++i) {
    int32_t id = drawn.top_ids[i];
    if (id < 0) continue;
    std::string_view bytes = vocabulary_->token_bytes(id);
    uint32_t size = static_cast<uint32_t>(bytes.size());
    char head[12];
    std::memcpy(head, &id, 4);
    std::memcpy(head + 4, &drawn.top_logprobs[i], 4);
    std::memcpy(head + 8, &size, 4);
    top_.append(head, sizeof head).append(bytes);
    ++count;
  }
  return count;
}

void ModelRunner::publish_prompt_token(LiveRequest& r, int index, const sampling::Drawn* drawn) {
  Record record;
  record.type = RecordType::prompt;
  record.request = r.id;
  record.index = static_cast<uint32_t>(index);
  record.token = r.tokens[index];
  record.bytes = vocabulary_->token_bytes(record.token);
  record.flags = vocabulary_->is_special(record.token) ? special_flag : 0;
  record.logprob = drawn ? drawn->logprob : NAN;
  if (drawn) {
    record.top_count = pack_top(*drawn);
    record.top = top_;
  }
  outbox_.ring().write(record);
  r.prompt_reported = index + 1;
}

void ModelRunner::note_token(LiveRequest& r, int32_t token) {
  r.tokens.push_back(token);
  ++r.generated;
  ++generation_tokens_;
  if (r.has_token) return;
  r.has_token = true;
  r.first_token = now_;
}

int ModelRunner::release_text(LiveRequest& r, int32_t token) {
  piece_.clear();
  r.stream->push(token, piece_);
  return r.stop.push(piece_, text_);
}

void ModelRunner::flush_text(LiveRequest& r) {
  text_.clear();
  piece_.clear();
  r.stream->flush(piece_);
  r.stop.push(piece_, text_);
  r.stop.flush(text_);
}

void ModelRunner::write_token(const LiveRequest& r, const sampling::Drawn& drawn, bool shown) {
  Record record;
  record.type = RecordType::token;
  record.request = r.id;
  record.index = static_cast<uint32_t>(r.generated - 1);
  record.token = drawn.token;
  record.flags = !shown || vocabulary_->is_special(drawn.token) ? special_flag : 0;
  record.logprob = r.options.logprobs ? drawn.logprob : NAN;
  record.bytes = vocabulary_->token_bytes(drawn.token);
  record.text = text_;
  record.top_count = pack_top(drawn);
  record.top = top_;
  outbox_.ring().write(record);
}

bool ModelRunner::publish_token(LiveRequest& r, const sampling::Drawn& drawn) {
  note_token(r, drawn.token);
  const bool ends = std::find(r.end_tokens.begin(), r.end_tokens.end(), drawn.token) != r.end_tokens.end();
  const bool shown = !ends || r.options.include_stop;
  text_.clear();
  const int stop = shown ? release_text(r, drawn.token) : -1;
  write_token(r, drawn, shown);
  bool exhausted = false;
  if (r.matcher && !ends && stop < 0) {
    if (!r.matcher->accept(drawn.token)) {
      // Only when no token of the vocabulary spells what the grammar wants.
      end(r, Reason::error, unsupported("the vocabulary cannot spell what the grammar asks for"));
      return true;
    }
    exhausted = r.matcher->exhausted();
  }
  if (stop < 0 && !ends && !exhausted && r.generated < r.max_new) return false;
  const Reason reason = stop >= 0 || ends || exhausted ? Reason::stop : Reason::length;
  if (stop >= 0) {
    finish(r, reason, r.stop_json[stop].c_str(), {});  // what stood before the stop string is out already
    return true;
  }
  char id[16];
  std::snprintf(id, sizeof id, "%d", drawn.token);
  flush_text(r);
  finish(r, reason, ends ? id : "null", text_);
  return true;
}

Status ModelRunner::publish_embedding(LiveRequest& r) {
  size_t count = r.options.dimensions > 0 ? r.options.dimensions : r.pooled.size();
  values_.resize(count);
  double norm = 0;
  for (size_t i = 0; i < count; ++i) norm += (r.pooled[i] / r.pooled_rows) * (r.pooled[i] / r.pooled_rows);
  if (!std::isfinite(norm)) return not_numbers();
  double scale = (r.options.normalize && norm > 0 ? 1 / std::sqrt(norm) : 1) / r.pooled_rows;
  for (size_t i = 0; i < count; ++i) values_[i] = static_cast<float>(r.pooled[i] * scale);
  Record record;
  record.type = RecordType::embedding;
  record.request = r.id;
  record.values = values_;
  outbox_.ring().write(record);
  return Status::ok();
}

// Without the closing brace, so that an error can follow.
std::string_view ModelRunner::finish_json(const LiveRequest& r, const char* stop_json) {
  Clock::time_point started = r.has_started ? r.started : now_, token = r.has_token ? r.first_token : now_;
  int size = std::snprintf(
      json_.data(), json_.size(),
      "{\"prompt_tokens\":%d,\"cached_tokens\":%d,\"image_tokens\":%d,\"completion_tokens\":%d,\"queue_ms\":%.3f,"
      "\"prefill_ms\":%.3f,\"decode_ms\":%.3f,\"draft_tokens\":%d,\"draft_accepted\":%d,"
      "\"predicted_tokens\":%d,\"predicted_accepted\":%d,\"stop\":%s",
      r.prompt, r.cached, r.image_tokens, r.generated, milliseconds(started - r.submitted), milliseconds(token - started),
      milliseconds(now_ - token), r.draft_tokens, r.draft_accepted, r.predicted_tokens,
      r.predicted_accepted, stop_json);
  return std::string_view(json_.data(), std::min<size_t>(size, json_.size() - 2));
}

// The end of a request inside a step, written against the step's reservation.
void ModelRunner::finish(LiveRequest& r, Reason reason, const char* stop_json, std::string_view text) {
  std::string_view json = finish_json(r, stop_json);
  json_[json.size()] = '}';
  Record record;
  record.type = RecordType::finished;
  record.request = r.id;
  record.reason = reason;
  record.logprob = NAN;
  record.bytes = {json.data(), json.size() + 1};
  record.text = text;
  outbox_.ring().write(record);
  detach(r);
  r.finished = true;
  on_finished_(r);
}

void ModelRunner::end(LiveRequest& r, Reason reason, const Status& status) {
  if (r.finished) return;
  now_ = Clock::now();
  text_.clear();
  if (r.stream && reason != Reason::error) flush_text(r);
  std::string json(finish_json(r, "null"));
  if (!status) json += ",\"error\":" + dump(error_json(status));
  json += '}';
  Record record;
  record.type = RecordType::finished;
  record.request = r.id;
  record.reason = reason;
  record.logprob = NAN;
  record.bytes = json;
  record.text = text_;
  detach(r);
  r.finished = true;
  outbox_.send(record);
  on_finished_(r);
}

void ModelRunner::end_all(Reason reason, const Status& status) {
  while (!live_.empty()) end(*live_.front(), reason, status);
  for (Step& step : steps_) outbox_.ring().unreserve(std::exchange(step.reserved, 0));  // nobody is left to write for
}

}  // namespace hearth::runtime
