#include "model/loaded_model.h"

#include <algorithm>

namespace hearth::model {

LoadedModel::~LoadedModel() {
  (void)device_.stream().synchronize();  // nothing may run on memory that goes
  for (void* memory : arena_memory_) device_.release(memory);
  device_.count_mapped(-mapped_bytes_);
}

// ---- Steps -----------------------------------------------------------------------------------------------------------

Status LoadedModel::run(const StepInput& input, bool hidden) {
  HEARTH_TRY(steps_.check(input));
  if (DecodeGraph* found = hidden ? nullptr : find_graph(input)) {
    HEARTH_TRY(steps_.upload(input, found->count, found->count).status());
    return device_.replay(*found->graph);
  }
  int rows = 0;
  for (const SequenceRows& sequence : input.sequences) rows += sequence.count;
  HEARTH_ASSIGN(const Step step, steps_.upload(input, rows, static_cast<int>(input.sequences.size())));
  device_.begin_rows(rows);
  decoder_.run(step, kv_, arena_, hidden);
  return Status::ok();
}

Status LoadedModel::forward(const StepInput& input) { return run(input, false); }
Status LoadedModel::forward_hidden(const StepInput& input) { return run(input, true); }

// ---- Graphs ----------------------------------------------------------------------------------------------------------

namespace {

// Batch sizes that graphs are made for: close together where a step is short.
std::vector<int> decode_buckets(int most) {
  std::vector<int> buckets;
  for (int count = 1; count < most; count += count < 4 ? 1 : count < 8 ? 2 : count < 64 ? 8 : count < 256 ? 16 : 64) buckets.push_back(count);
  buckets.push_back(most);
  return buckets;
}

// Attention plans its splits for a longest context; a few classes keep short contexts cheap.
std::vector<int> context_classes(int context) {
  std::vector<int> classes;
  for (int length = 1024; length < context; length *= 4) classes.push_back(length);
  classes.push_back(context);
  return classes;
}

struct CaptureBody { Decoder* decoder; const KvPool* kv; const ImageArena* images; Step step; };

Status capture_body(void* argument) {
  auto* body = static_cast<CaptureBody*>(argument);
  body->decoder->run(body->step, *body->kv, *body->images, false);
  return Status::ok();
}

}  // namespace

Status LoadedModel::capture_graphs() {
  for (const int count : decode_buckets(std::min(info_.max_sequences, limits_.logit_rows))) {
    for (const int context : context_classes(info_.context)) {
      CaptureBody body{&decoder_, &kv_, &arena_, steps_.decode_step(count, context)};
      auto graph = device_.capture(capture_body, &body);
      if (!graph && graph.status().code() == Code::unsupported) return Status::ok();
      if (!graph) return graph.status().with("capturing a decode step");
      graphs_.push_back({count, context, std::move(graph).value()});
    }
  }
  return Status::ok();
}

// The smallest graph that holds the step: pure decode, and logits of every row.
LoadedModel::DecodeGraph* LoadedModel::find_graph(const StepInput& input) {
  if (graphs_.empty() || input.logit_rows.size() != input.sequences.size()) return nullptr;
  int context = 0;
  for (const SequenceRows& rows : input.sequences) {
    if (rows.count != 1) return nullptr;
    if (!rows.source.empty() && rows.source[0] == static_cast<int>(ops::TokenSource::image)) return nullptr;
    context = std::max(context, rows.start + 1);
  }
  for (DecodeGraph& graph : graphs_) {
    if (graph.count >= static_cast<int>(input.sequences.size()) && graph.max_context >= context) return &graph;
  }
  return nullptr;
}

// ---- Images ----------------------------------------------------------------------------------------------------------

namespace {

struct PreparedForEncoder final : Model::PreparedImage {
  vision::Prepared image;
  vision::Layout layout;
};

Status no_vision(const ModelInfo& info) { return invalid("model '" + info.name + "' has no vision: it takes no images"); }

}  // namespace

Result<ImageLayout> LoadedModel::image_layout(int width, int height) const {
  if (!encoder_) return no_vision(info_);
  HEARTH_ASSIGN(vision::Layout layout, encoder_->layout(width, height));
  ImageLayout out;
  out.rows = layout.rows;
  out.positions = std::move(layout.positions);
  out.position_span = layout.position_span;
  return out;
}

Result<std::unique_ptr<Model::PreparedImage>> LoadedModel::prepare_image(const ImagePixels& pixels) const {
  if (!encoder_) return no_vision(info_);
  const int64_t bytes = int64_t{pixels.width} * pixels.height * 3;
  if (pixels.width < 1 || pixels.height < 1 || bytes != static_cast<int64_t>(pixels.rgb.size())) {
    return invalid("an image of " + std::to_string(pixels.width) + "x" + std::to_string(pixels.height) + " with " + std::to_string(pixels.rgb.size()) + " bytes");
  }
  auto prepared = std::make_unique<PreparedForEncoder>();
  HEARTH_ASSIGN(prepared->layout, encoder_->layout(pixels.width, pixels.height));
  HEARTH_ASSIGN(prepared->image, encoder_->prepare({pixels.width, pixels.height, pixels.rgb}));
  return std::unique_ptr<PreparedImage>(std::move(prepared));
}

vision::Job LoadedModel::job_of(const PreparedImage& image, int first_row) const {
  const int64_t offset = int64_t{first_row} * spec_.decoder.width;
  vision::Job job{&static_cast<const PreparedForEncoder&>(image).image, arena_.rows + offset, {}};
  for (float* features : arena_.deepstack) job.deepstack.push_back(features + offset);
  return job;
}

Result<std::vector<ImageRows>> LoadedModel::begin_images(std::span<const PreparedImage* const> images) {
  if (!encoder_) return no_vision(info_);
  std::vector<const vision::Prepared*> offered;
  for (const PreparedImage* image : images) offered.push_back(&static_cast<const PreparedForEncoder*>(image)->image);
  std::vector<ImageRows> rows;
  std::vector<vision::Job> jobs;
  const auto count = static_cast<size_t>(encoder_->batch(offered));
  for (const PreparedImage* image : images.first(count)) {
    const vision::Layout& layout = static_cast<const PreparedForEncoder*>(image)->layout;
    const std::optional<int> first = image_rows_->take(layout.rows);
    if (!first) break;
    rows.push_back({*first, layout.rows, layout.positions, layout.position_span});
    jobs.push_back(job_of(*image, *first));
  }
  if (rows.empty()) {
    return Status(Code::busy, "the image arena of " + std::to_string(arena_.capacity) + " rows is full (" + std::to_string(image_rows_->used()) + " used)");
  }
  Status status = encoder_->begin(jobs);
  if (status) return rows;
  for (const ImageRows& taken : rows) release_image(taken);
  return status;
}

Result<bool> LoadedModel::advance_images(std::chrono::steady_clock::time_point until) {
  device_.begin_rows(arena_.capacity);  // a tower's rows are as many
  return encoder_->advance(until);
}

Result<ImageRows> Model::encode_image(const PreparedImage& image) {
  const PreparedImage* const one[] = {&image};
  HEARTH_ASSIGN(const std::vector<ImageRows> rows, begin_images(one));
  const auto never = std::chrono::steady_clock::time_point::max();
  if (const auto over = advance_images(never); !over) {
    release_image(rows[0]);
    return over.status();
  }
  return rows[0];
}

void LoadedModel::release_image(const ImageRows& rows) {
  if (image_rows_) image_rows_->give_back(rows.first_row);
}

}  // namespace hearth::model
