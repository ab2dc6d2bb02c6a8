#include "runtime/prepare.h"

#include <algorithm>
#include <random>

#include "core/guard.h"
#include "runtime/draft.h"
#include "runtime/json_reader.h"
#include "runtime/loaded_model.h"

namespace hearth::runtime {
namespace {

constexpr int low_detail_side = 512;  // OpenAI's detail "low": at most 512 pixels a side

Status check_ids(const LiveRequest& r, const LoadedModel& m) {
  int size = m.model->info().vocabulary;
  auto bad = [&](int32_t id) { return id < 0 || id >= size; };
  for (int32_t id : r.given_ids)
    if (bad(id)) return invalid("token id " + std::to_string(id) + " is outside the vocabulary of " + std::to_string(size));
  for (int32_t id : r.options.stop_tokens)
    if (bad(id)) return invalid("\"stop_tokens\" has id " + std::to_string(id) + ", outside the vocabulary");
  for (auto [id, bias] : r.options.logit_bias)
    if (bad(id)) return invalid("\"logit_bias\" has id " + std::to_string(id) + ", outside the vocabulary");
  return Status::ok();
}

Status check_images(const LiveRequest& r, const LoadedModel& m) {
  size_t bytes = 0;
  for (const ImageRequest& image : r.options.images) bytes += image.bytes();
  if (bytes != r.pixels.size())
    return invalid("\"images\" describe " + std::to_string(bytes) + " bytes of pixels, " + std::to_string(r.pixels.size()) + " were given");
  if (r.options.images.empty()) return Status::ok();
  if (!m.model->info().vision) return unsupported("model " + m.name + " takes no images");
  if (r.options.prompt_logprobs || r.options.kind == Kind::score)
    return unsupported("log-probabilities of prompts with images are not implemented");
  return Status::ok();
}

// Area average: every source pixel counts by the part of it that a target pixel covers (here: whole pixels).
void shrink(const uint8_t* from, int width, int height, int to_width, int to_height, std::vector<uint8_t>& to) {
  to.resize(static_cast<size_t>(to_width) * to_height * 3);
  for (int y = 0; y < to_height; ++y) {
    int y0 = static_cast<int>(int64_t{y} * height / to_height), y1 = static_cast<int>(int64_t{y + 1} * height / to_height);
    for (int x = 0; x < to_width; ++x) {
      int x0 = static_cast<int>(int64_t{x} * width / to_width), x1 = static_cast<int>(int64_t{x + 1} * width / to_width);
      uint64_t sum[3] = {}, count = 0;
      for (int j = y0; j < std::max(y1, y0 + 1); ++j)
        for (int i = x0; i < std::max(x1, x0 + 1); ++i, ++count)
          for (int c = 0; c < 3; ++c) sum[c] += from[(static_cast<size_t>(j) * width + i) * 3 + c];
      for (int c = 0; c < 3; ++c) to[(static_cast<size_t>(y) * to_width + x) * 3 + c] = static_cast<uint8_t>((sum[c] + count / 2) / count);
    }
  }
}

struct PlacedImage {
  model::ImageLayout layout;
  std::unique_ptr<model::Model::PreparedImage> prepared;
  uint64_t hash = 0;
};

Status place_image(const ImageRequest& request, std::span<const uint8_t> rgb, const LoadedModel& m, PlacedImage& out) {
  model::ImagePixels pixels{request.width, request.height, rgb};
  std::vector<uint8_t> small;
  int longest = std::max(request.width, request.height);
  if (request.detail == "low" && longest > low_detail_side) {
    pixels.width = std::max(1, static_cast<int>(int64_t{request.width} * low_detail_side / longest));
    pixels.height = std::max(1, static_cast<int>(int64_t{request.height} * low_detail_side / longest));
    shrink(rgb.data(), request.width, request.height, pixels.width, pixels.height, small);
    pixels.rgb = small;
  }
  out.hash = hash_image(pixels.width, pixels.height, pixels.rgb);
  HEARTH_ASSIGN(out.layout, m.model->image_layout(pixels.width, pixels.height));
  HEARTH_ASSIGN(out.prepared, m.model->prepare_image(pixels));
  return Status::ok();
}

// Each placeholder becomes what the model wants around an image and one -1 for each of its rows.
Status expand_images(LiveRequest& r, const LoadedModel& m, const std::vector<int32_t>& ids, std::vector<PlacedImage>& placed) {
  const model::ModelInfo& info = m.model->info();
  int placeholder = info.vision->placeholder_id;
  int found = static_cast<int>(std::count(ids.begin(), ids.end(), placeholder));
  if (found != static_cast<int>(r.options.images.size()))
    return invalid("the prompt has " + std::to_string(found) + " image placeholders for " +
                   std::to_string(r.options.images.size()) + " images");
  size_t offset = 0, next = 0;
  for (int32_t id : ids) {
    if (id != placeholder) {
      r.tokens.push_back(id);
      continue;
    }
    const ImageRequest& request = r.options.images[next++];
    PlacedImage image;
    HEARTH_TRY(place_image(request, std::span<const uint8_t>(r.pixels).subspan(offset, request.bytes()), m, image)
                   .with("image " + std::to_string(next)));
    offset += request.bytes();
    r.tokens.insert(r.tokens.end(), image.layout.before.begin(), image.layout.before.end());
    r.images.push_back({image.hash, static_cast<int>(r.tokens.size()), image.layout.rows, std::move(image.prepared), nullptr});
    r.tokens.insert(r.tokens.end(), image.layout.rows, -1);
    r.tokens.insert(r.tokens.end(), image.layout.after.begin(), image.layout.after.end());
    r.image_tokens += image.layout.rows;
    placed.push_back(std::move(image));
  }
  std::vector<uint8_t>().swap(r.pixels);
  return Status::ok();
}

// Multimodal rope: text advances all axes together, an image lays its rows out in a box and advances by its span.
void place_positions(LiveRequest& r, int axes, const std::vector<PlacedImage>& placed) {
  r.next_position = r.prompt;
  if (axes == 1 || placed.empty()) return;
  r.positions.resize(static_cast<size_t>(axes) * r.prompt);
  int position = 0;
  size_t image = 0;
  for (int at = 0; at < r.prompt;) {
    bool is_image = image < r.images.size() && r.images[image].begin == at;
    if (!is_image) {
      for (int axis = 0; axis < axes; ++axis) r.positions[static_cast<size_t>(axis) * r.prompt + at] = position;
      ++position, ++at;
      continue;
    }
    const model::ImageLayout& layout = placed[image].layout;
    int rows = r.images[image++].rows;
    bool sequential = layout.positions.empty();
    for (int axis = 0; axis < axes; ++axis)
      for (int row = 0; row < rows; ++row)
        r.positions[static_cast<size_t>(axis) * r.prompt + at + row] =
            position + (sequential ? row : layout.positions[static_cast<size_t>(axis) * rows + row]);
    position += layout.position_span > 0 ? layout.position_span : rows;
    at += rows;
  }
  r.next_position = position;
}

// A tokenizer may know tokens that the model has no row for. A step with one of them would fail, and with it every request
// that has a share in it.
Status check_tokens(const LiveRequest& r, const LoadedModel& m) {
  const int size = m.model->info().vocabulary;
  for (int32_t id : r.tokens)
    if (id >= size)
      return invalid("the prompt holds token " + std::to_string(id) + ", which is outside the model's vocabulary of " + std::to_string(size));
  return Status::ok();
}

Status make_tokens(LiveRequest& r, const LoadedModel& m) {
  std::vector<int32_t> ids;
  HEARTH_TRY(m.vocabulary->encode(r.text, r.options.add_special_tokens, r.literal, ids));
  ids.insert(ids.end(), r.given_ids.begin(), r.given_ids.end());
  std::vector<PlacedImage> placed;
  if (m.model->info().vision) HEARTH_TRY(expand_images(r, m, ids, placed));
  else r.tokens = std::move(ids);
  r.prompt = static_cast<int>(r.tokens.size());
  if (r.prompt == 0) return invalid("the prompt is empty");
  HEARTH_TRY(check_tokens(r, m));
  place_positions(r, m.model->info().position_axes, placed);
  std::string().swap(r.text);
  return Status::ok();
}

// What an answer cannot reach is left out: it holds no more tokens than the context.
Status make_prediction(LiveRequest& r, const LoadedModel& m, int context) {
  std::vector<int32_t> ids = std::move(r.options.predicted_ids);
  const int size = m.model->info().vocabulary;
  if (std::any_of(ids.begin(), ids.end(), [&](int32_t id) { return id >= size; }))
    return invalid("\"prediction\" holds a token outside the model's vocabulary of " + std::to_string(size));
  const ByteRange all{0, static_cast<uint32_t>(r.options.prediction.size())};
  if (!r.options.prediction.empty()) HEARTH_TRY(m.vocabulary->encode(r.options.prediction, false, {&all, 1}, ids));
  std::erase_if(ids, [&](int32_t id) { return id >= size; });
  ids.resize(std::min<size_t>(ids.size(), context));
  r.prediction.set(std::move(ids));
  std::string().swap(r.options.prediction);
  return Status::ok();
}

sampling::Parameters resolve_sampling(const RequestOptions& o, const model::SamplingDefaults& d) {
  sampling::Parameters p;
  p.temperature = o.temperature.value_or(d.temperature.value_or(1));
  p.top_p = o.top_p.value_or(d.top_p.value_or(1));
  p.min_p = o.min_p.value_or(d.min_p.value_or(0));
  p.top_k = o.top_k.value_or(d.top_k.value_or(0));
  p.repetition_penalty = o.repetition_penalty.value_or(d.repetition_penalty.value_or(1));
  p.frequency_penalty = o.frequency_penalty;
  p.presence_penalty = o.presence_penalty;
  p.seed = o.seed ? *o.seed : std::random_device{}();
  p.bias = o.logit_bias;
  p.top_logprobs = o.logprobs ? o.top_logprobs : -1;
  p.min_tokens = o.min_tokens;
  return p;
}

void prepare_output(LiveRequest& r, const LoadedModel& m) {
  const model::ModelInfo& info = m.model->info();
  r.sampling = resolve_sampling(r.options, info.sampling);
  int sampled = m.runner->sampled_vocabulary();
  std::erase_if(r.sampling.bias, [&](const auto& entry) { return entry.first >= sampled; });
  // A grammar that is complete ends with an end token whatever was asked about them.
  if (!r.options.ignore_eos || r.grammar) r.end_tokens = info.end_tokens;
  r.end_tokens.insert(r.end_tokens.end(), r.options.stop_tokens.begin(), r.options.stop_tokens.end());
  for (int32_t id : r.end_tokens)
    if (id >= 0 && id < sampled && r.sampling.banned_before_min.size() < sampling::banned_max)
      r.sampling.banned_before_min.push_back(id);
  r.stream = m.vocabulary->stream(r.options.skip_special_tokens, true);
  for (const std::string& stop : r.options.stop) r.stop_json.push_back(dump(stop));
  r.stop = sampling::StopMatcher(r.options.stop, r.options.include_stop);
}

// Which rows the request wants, and where it ends.
void prepare_rows(LiveRequest& r, const LoadedModel& m, int context) {
  bool generate = r.options.kind == Kind::generate;
  r.draws = generate;
  r.hidden = r.options.kind == Kind::embed;
  if (r.options.kind == Kind::score || r.options.prompt_logprobs) r.logits_end = r.prompt - 1;
  if (r.hidden) {
    r.logits_begin = r.options.pool_mean ? 0 : r.prompt - 1;
    r.logits_end = r.prompt;
    r.pooled.assign(m.model->info().hidden_width, 0);
  }
  r.max_new = generate ? context - r.prompt : 0;
  if (r.options.max_tokens > 0) r.max_new = std::min(r.max_new, r.options.max_tokens);
  if (generate) r.goal = r.prompt + r.max_new;
  r.draft.reserve(draft_tokens_max);
}

void fill_keys(LiveRequest& r) {
  size_t size = static_cast<size_t>(r.prompt) + r.max_new;
  r.tokens.reserve(size);
  r.keys.reserve(size + draft_tokens_max);
  r.blocks.reserve((size + draft_tokens_max) / kv::block_tokens + 2);
  for (int32_t id : r.tokens) r.keys.push_back(kv::key_of_token(id));
  for (const LiveImage& image : r.images)
    for (int row = 0; row < image.rows; ++row) r.keys[image.begin + row] = kv::key_of_image_row(image.hash, row);
}

Status compile_grammar(LiveRequest& r, const LoadedModel& m) {
  if (r.options.grammar.is_null()) return Status::ok();
  HEARTH_ASSIGN(r.grammar, m.grammars->get(r.options.grammar));
  return Status::ok();
}

Status check_length(const LiveRequest& r, int context) {
  const int least_new = r.options.kind == Kind::generate ? 1 : 0;
  if (r.prompt + least_new <= context) return Status::ok();
  return {code_too_long, "{\"prompt_tokens\":" + std::to_string(r.prompt) + ",\"context\":" + std::to_string(context) + "}"};
}

Status prepare(LiveRequest& r, const LoadedModel& m) {
  const int context = m.runner->context();
  HEARTH_TRY(make_tokens(r, m));
  HEARTH_TRY(compile_grammar(r, m));
  HEARTH_TRY(check_length(r, context));
  HEARTH_TRY(make_prediction(r, m, context));
  prepare_output(r, m);
  prepare_rows(r, m, context);
  fill_keys(r);
  return Status::ok();
}

}  // namespace

Status check_submission(const LiveRequest& r, const LoadedModel& m) {
  for (ByteRange range : r.literal)
    if (range.begin > range.end || range.end > r.text.size()) return invalid("a literal range lies outside the text");
  HEARTH_TRY(check_ids(r, m));
  HEARTH_TRY(check_images(r, m));
  if (r.options.dimensions > m.model->info().hidden_width)
    return invalid("\"dimensions\" must be at most " + std::to_string(m.model->info().hidden_width));
  return Status::ok();
}

void prepare_request(LiveRequest& r, const LoadedModel& m) {
  r.error = guarded([&] { return prepare(r, m); });
}

}  // namespace hearth::runtime
