// Loading: understand the configuration, bind kernels, plan memory, take it, fill it, and record decode graphs.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "core/log.h"
#include "model/loaded_model.h"
#include "model/memory_plan.h"
#include "model/shapes.h"
#include "model/target.h"

namespace hearth::model {

using nlohmann::json;

namespace {

constexpr int64_t logit_budget_bytes = int64_t{64} << 20;
constexpr int64_t image_arena_bytes = int64_t{256} << 20;
constexpr int64_t image_batch_share = 32;  // a pass of several images may take this part of the memory there is

constexpr int rows_max = 65536;

// Rows of one step that may have logits: one a sequence, more where they are cheap.
int logit_rows(const DecoderLimits& limits, int vocabulary) {
  const auto affordable = static_cast<int>(std::min<int64_t>(rows_max, logit_budget_bytes / 4 / vocabulary));
  return std::min(limits.rows, std::max(limits.sequences, affordable));
}

int default_sequences(const device::DeviceInfo& info) {
  const int64_t gigabytes = info.profile.memory_bytes >> 30;
  if (info.kind == device::DeviceKind::cpu || gigabytes >= 40) return 256;
  return gigabytes >= 12 ? 64 : 32;
}

uint64_t fnv(uint64_t hash, const void* data, size_t size) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  for (size_t i = 0; i < size; i++) hash = (hash ^ bytes[i]) * 1099511628211ull;
  return hash;
}

uint64_t fnv(uint64_t hash, const std::string& text) { return fnv(hash, text.data(), text.size() + 1); }

// Of the configuration, every tensor's name and shape, and a sample of its bytes.
Result<std::string> fingerprint(const formats::Checkpoint& checkpoint, const std::string& build) {
  uint64_t hash = fnv(14695981039346656037ull, build);
  hash = fnv(hash, checkpoint.config().dump());
  constexpr size_t sample = 64;
  for (const std::string& name : checkpoint.names()) {
    hash = fnv(hash, name);
    // As stored: asking for a quantised tensor's values would hold the whole file at 16 bits.
    const std::optional<formats::TensorView> view = checkpoint.stored(name);
    if (!view) continue;
    hash = fnv(hash, view->shape.data(), view->shape.size() * sizeof(int64_t));
    const size_t size = view->data.size(), take = std::min(sample, size);
    std::array<std::byte, sample> bytes{};
    for (const size_t at : {size_t{0}, (size - take) / 2, size - take}) {
      // Read, not touched: a page touched first brings its whole neighbourhood from the disk.
      HEARTH_TRY(checkpoint.read(view->data.subspan(at, take), bytes.data()));
      hash = fnv(hash, bytes.data(), take);
    }
  }
  char text[20];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(hash));
  return std::string(text);
}

// The ranges are those of a request: what a client may not ask for, a file may not ask of everybody.
Status read_default(const Config& config, const char* key, float low, float high, std::optional<float>& to) {
  if (!config.has(key)) return Status::ok();
  HEARTH_ASSIGN(const float number, config.number(key));
  if (number < low || number > high) {
    char range[80];
    std::snprintf(range, sizeof(range), "must be from %g to %g", static_cast<double>(low), static_cast<double>(high));
    return config.bad(key, range);
  }
  to = number;
  return Status::ok();
}

Status read_generation(const formats::Checkpoint& checkpoint, const DecoderSpec& spec, ModelInfo& info) {
  const Config config(checkpoint.generation_config(), checkpoint.path() + "/generation_config.json");
  HEARTH_TRY(read_default(config, "temperature", 0, 100, info.sampling.temperature));
  HEARTH_TRY(read_default(config, "top_p", 0, 1, info.sampling.top_p));
  HEARTH_TRY(read_default(config, "min_p", 0, 1, info.sampling.min_p));
  HEARTH_TRY(read_default(config, "repetition_penalty", 0.01f, 100, info.sampling.repetition_penalty));
  if (config.has("top_k")) {
    HEARTH_ASSIGN(info.sampling.top_k, config.integer("top_k", 0, 1 << 30));
  }
  HEARTH_ASSIGN(info.end_tokens, read_tokens(config, "eos_token_id", spec.vocabulary));
  if (info.end_tokens.empty()) info.end_tokens = spec.end_tokens;
  info.bos_token = spec.bos_token;
  return Status::ok();
}

std::string base_name(const std::string& path) {
  const std::filesystem::path name = std::filesystem::path(path).lexically_normal();
  return name.has_filename() ? name.filename().string() : name.parent_path().filename().string();
}

}  // namespace

// The stages of Model::load, over one LoadedModel.
class Loader {
 public:
  Loader(const LoadOptions& options, device::Device& device, Model::Progress progress, void* context)
      : options_(options), device_(device), progress_(progress), context_(context) {}

  Result<std::unique_ptr<Model>> run() {
    HEARTH_TRY(open());
    HEARTH_TRY(report("plan", 0, 1));
    HEARTH_TRY(declare());
    HEARTH_TRY(choose_limits());
    HEARTH_TRY(plan());
    HEARTH_TRY(report("plan", 1, 1));
    HEARTH_TRY(fill());
    HEARTH_TRY(report("tune", 0, 1));
    HEARTH_TRY(ops::tune(device_, model_->weights_->tune_requests(), step_limits_.rows,
                         [this](double done, double total) { (void)report("tune", done, total); }));
    HEARTH_TRY(model_->capture_graphs());
    HEARTH_TRY(device_.stream().synchronize());
    if (settled_) model_->checkpoint_ = std::move(checkpoint_);
    HEARTH_TRY(report("ready", 1, 1));
    return std::unique_ptr<Model>(std::move(model_));
  }

  // Up to the plan.
  Result<MemoryDemand> demand(int64_t reclaimable) {
    HEARTH_TRY(open());
    HEARTH_TRY(declare());
    HEARTH_TRY(choose_limits());
    HEARTH_ASSIGN(const MemoryBudget now, budget(0));
    HEARTH_ASSIGN(const MemoryBudget later, budget(reclaimable));
    HEARTH_TRY(fit(later).status());
    MemoryDemand out;
    out.lines = least_lines(memory_needs(later.available()), options_.kv_tokens);
    for (const MemoryLine& line : out.lines) out.bytes += line.bytes;
    out.available = now.available();
    return out;
  }

  // Up to the binding, then the weights go to the sink instead of the device.
  Status pack(const PackSink& sink) {
    HEARTH_TRY(open());
    HEARTH_TRY(declare());
    std::vector<PackedItem> items;
    model_->weights_->packed_items(items);
    if (model_->vision_weights_) model_->vision_weights_->packed_items(items);
    return sink(items);
  }

 private:
  Status report(const char* stage, double done, double total) const {
    return !progress_ || progress_(context_, stage, done, total) ? Status::ok() : load_cancelled();
  }

  Status open();
  Status declare();
  Status choose_kv();
  bool holds_w8() const;
  Status declare_vision();
  Status choose_limits();
  Status choose_context();
  Status plan();
  MemoryNeeds memory_needs(int64_t available);
  void note_ways_out(MemoryNeeds& needs);
  int64_t per_sequence_bytes(int sequences);
  Result<MemoryBudget> budget(int64_t reclaimable);
  Result<MemoryPlan> fit(const MemoryBudget& budget);
  Status settle(const std::function<bool(double)>& progress);
  Status fill();
  Status allocate_images();
  Status describe();

  const LoadOptions& options_;
  device::Device& device_;
  Model::Progress progress_;
  void* context_;
  std::unique_ptr<formats::Checkpoint> checkpoint_;
  std::unique_ptr<LoadedModel> model_;
  Precision body_, head_;
  ops::KvFormat kv_ = ops::KvFormat::f16;
  std::string kv_refused_;  // the format that would not fit, when INT8 was taken for it
  StepBuffers::Limits step_limits_;
  KvShape kv_shape_;
  bool settled_ = false;  // weights are used where the checkpoint has them
};

Status Loader::open() {
  if (options_.path.empty() == options_.shape.empty()) return invalid("a model is either a path or a shape");
  HEARTH_ASSIGN(body_, read_precision(options_.precision, options_.group, device_.info().kind));
  body_.symmetric = options_.symmetric;
  HEARTH_ASSIGN(head_, read_head_precision(options_.head_bits, body_));
  if (options_.path.empty()) {
    HEARTH_ASSIGN(checkpoint_, open_shape(options_.shape, body_, head_, options_.seed));
  } else {
    HEARTH_ASSIGN(checkpoint_, formats::Checkpoint::open(options_.path));
  }
  HEARTH_ASSIGN(ModelSpec spec, read_model_spec(*checkpoint_));
  model_ = std::make_unique<LoadedModel>(device_, std::move(spec));
  return describe();
}

Status Loader::describe() {
  const DecoderSpec& spec = model_->spec_.decoder;
  ModelInfo& info = model_->info_;
  info.name = options_.path.empty() ? options_.shape : base_name(options_.path);
  info.architecture = model_->spec_.model_type;
  info.vocabulary = spec.vocabulary;
  info.position_axes = spec.position_axes;
  info.hidden_width = spec.width;
  return read_generation(*checkpoint_, spec, info);
}

Status Loader::declare_vision() {
  const std::optional<VisionSource>& source = model_->spec_.vision;
  if (!source) return Status::ok();
  HEARTH_ASSIGN(model_->encoder_, vision::make_encoder(*source, model_->spec_.decoder, device_));
  model_->vision_weights_ = std::make_unique<WeightPlan>(*checkpoint_, device_);
  Precision tower = body_;
  if (options_.vision != "auto") {
    HEARTH_ASSIGN(tower, read_precision(options_.vision, 0, device_.info().kind));
  }
  return model_->encoder_->declare(*model_->vision_weights_, tower);
}

// The body is W8A8: asked for, or as the file has it.
bool Loader::holds_w8() const {
  const auto header = checkpoint_->linear_header("model.layers.0.self_attn.q_proj");
  return header && body_.held(*header).format == ops::WeightFormat::w8;
}

// What the pool is held in, when nothing has been refused for its size yet.
Status Loader::choose_kv() {
  const DecoderSpec& spec = model_->spec_.decoder;
  HEARTH_ASSIGN(kv_, read_kv_format(options_.kv, body_.kind == Precision::Kind::dense && body_.dense == ops::WeightFormat::f32 ? DType::f32
                                                 : body_.kind == Precision::Kind::as_file ? spec.dtype : DType::f16));
  if (options_.kv == "auto" && device_.info().kind == device::DeviceKind::cuda) {
    kv_ = spec.dtype == DType::bf16 ? ops::KvFormat::bf16 : ops::KvFormat::f16;
  }
  // W8A8 on CPUs keeps K and V in int8 too, and multiplies attention in int8, unless another KV is asked for.
  if (options_.kv == "auto" && device_.info().kind == device::DeviceKind::cpu && holds_w8()) kv_ = ops::KvFormat::int8;
  if (!kv_refused_.empty()) kv_ = ops::KvFormat::int8;
  return Status::ok();
}

// Binds everything for the KV format; may be called again for another one.
Status Loader::declare() {
  model_->weights_ = std::make_unique<WeightPlan>(*checkpoint_, device_);
  const DecoderSpec& spec = model_->spec_.decoder;
  HEARTH_TRY(choose_kv());
  const bool w8 = device_.info().kind == device::DeviceKind::cpu && holds_w8();
  HEARTH_TRY(model_->decoder_.declare(*model_->weights_, body_, head_, kv_, w8 && kv_ == ops::KvFormat::int8));
  HEARTH_TRY(declare_vision());
  ModelInfo& info = model_->info_;
  info.precision = model_->weights_->held_name();
  info.kv = name_of(kv_);
  info.notes = checkpoint_->notes();
  for (std::string& note : model_->weights_->notes()) info.notes.push_back(std::move(note));
  info.parameters = model_->weights_->parameters() + (model_->vision_weights_ ? model_->vision_weights_->parameters() : 0);
  if (spec.tied) info.parameters -= int64_t{spec.vocabulary} * spec.width;
  return Status::ok();
}

Status Loader::choose_context() {
  ModelInfo& info = model_->info_;
  const int longest = model_->spec_.decoder.context;
  if (options_.context < 0 || options_.kv_tokens < 0 || options_.max_sequences < 0 || options_.step_tokens < 0 || options_.memory_limit_bytes < 0) {
    return invalid("sizes must not be negative");
  }
  if (options_.context > longest) {
    return invalid("context " + std::to_string(options_.context) + " is over the model's own of " + std::to_string(longest));
  }
  info.context = options_.context > 0 ? options_.context : longest;
  const int64_t pool = (options_.kv_tokens + ops::kv_block_tokens - 1) / ops::kv_block_tokens * ops::kv_block_tokens;
  if (options_.kv_tokens > 0 && pool < info.context) {
    if (options_.context > 0)
      return invalid("kv_tokens " + std::to_string(options_.kv_tokens) + " is less than the context of " +
                     std::to_string(info.context));
    info.context = static_cast<int>(pool);
  }
  return Status::ok();
}

Status Loader::choose_limits() {
  HEARTH_TRY(choose_context());
  constexpr int sequences_max = 4096;
  ModelInfo& info = model_->info_;
  const DecoderSpec& spec = model_->spec_.decoder;
  info.max_sequences = options_.max_sequences > 0 ? options_.max_sequences : default_sequences(device_.info());
  if (info.max_sequences > sequences_max) return invalid("max_sequences is over " + std::to_string(sequences_max));
  info.step_tokens = std::max(options_.step_tokens > 0 ? options_.step_tokens : device_.info().profile.step_tokens, info.max_sequences);
  if (info.step_tokens > rows_max) return invalid("step_tokens is over " + std::to_string(rows_max));
  DecoderLimits& limits = model_->limits_;
  limits.rows = info.step_tokens;
  limits.sequences = info.max_sequences;
  limits.logit_rows = logit_rows(limits, spec.vocabulary);
  if (model_->encoder_) {
    const int64_t row_bytes = int64_t{spec.width} * 4 * (1 + spec.deepstack_layers);
    const int most = model_->encoder_->max_rows();
    constexpr int arena_rows = 16384;
    model_->arena_.capacity = std::max(most, static_cast<int>(std::min<int64_t>(arena_rows, image_arena_bytes / row_bytes)));
  }
  return Status::ok();
}

// Sizes the step's buffers, the KV blocks and a pass of the vision tower, and says what all of it takes.
MemoryNeeds Loader::memory_needs(int64_t available) {
  const DecoderSpec& spec = model_->spec_.decoder;
  ModelInfo& info = model_->info_;
  kv_shape_ = {static_cast<int>(spec.layers.size()), spec.kv_heads, spec.head_dim, kv_};
  step_limits_ = {model_->limits_.rows, info.max_sequences, model_->limits_.logit_rows, info.context, 0, spec.vocabulary, model_->arena_.capacity};
  MemoryNeeds needs;
  // A step reads all of the first and one row a token of the second: the roofline needs them apart.
  needs.embedding = model_->decoder_.table_bytes();
  needs.weights = model_->weights_->bytes() - needs.embedding;
  needs.vision_weights = model_->vision_weights_ ? model_->vision_weights_->bytes() : 0;
  needs.activations = model_->decoder_.activation_bytes(model_->limits_);
  needs.workspace = model_->decoder_.workspace_bytes(model_->limits_);
  needs.logits = model_->decoder_.logit_bytes(model_->limits_);
  needs.inputs = model_->steps_.bytes(step_limits_);
  if (model_->encoder_) {
    model_->encoder_->bound_batch(available / image_batch_share);
    needs.vision = model_->encoder_->activation_bytes();
  }
  needs.image_rows = int64_t{model_->arena_.capacity} * spec.width * 4 * (1 + spec.deepstack_layers);
  needs.block_bytes = static_cast<int64_t>(kv_shape_.block_bytes());
  needs.context = info.context;
  needs.max_sequences = info.max_sequences;
  needs.cpu = device_.info().kind == device::DeviceKind::cpu;
  needs.kv = name_of(kv_) + (kv_refused_.empty() ? "" : ", as " + kv_refused_ + " would not fit");
  note_ways_out(needs);
  return needs;
}

// What grows with the number of sequences, the KV pool apart.
int64_t Loader::per_sequence_bytes(int sequences) {
  const int vocabulary = model_->spec_.decoder.vocabulary;
  DecoderLimits limits = model_->limits_;
  limits.sequences = sequences;
  limits.logit_rows = logit_rows(limits, vocabulary);
  StepBuffers::Limits steps = step_limits_;
  steps.sequences = sequences;
  steps.logit_rows = limits.logit_rows;
  return model_->decoder_.logit_bytes(limits) + model_->steps_.bytes(steps);
}

// For the refusal: what other options would change.
void Loader::note_ways_out(MemoryNeeds& needs) {
  const ModelInfo& info = model_->info_;
  if (kv_ != ops::KvFormat::int8) {
    KvShape narrow = kv_shape_;
    narrow.format = ops::KvFormat::int8;
    needs.int8_block_bytes = static_cast<int64_t>(narrow.block_bytes());
  }
  const int bits = info.precision == "f32" ? 32 : info.precision == "f16" || info.precision == "bf16" ? 16 : 0;
  // Groups of 128 have a scale and a zero point of 16 bits and of 4.
  if (bits > 0) needs.w4_weights = static_cast<int64_t>(static_cast<double>(needs.weights) * (4 + 20.0 / 128) / bits);
  if (info.max_sequences <= 8) return;
  needs.few_sequences = info.max_sequences / 4;
  needs.few_sequences_save = per_sequence_bytes(info.max_sequences) - per_sequence_bytes(needs.few_sequences);
}

Result<MemoryBudget> Loader::budget(int64_t reclaimable) {
  HEARTH_ASSIGN(const size_t free, device_.available_bytes());
  return memory_budget(device_.info(), static_cast<int64_t>(free) + reclaimable, options_.reserved_bytes, options_.memory_limit_bytes);
}

// The plan, with KV in INT8 where the format that "auto" stands for would not fit. A model whose heads no INT8 kernel
// takes is refused as it was.
Result<MemoryPlan> Loader::fit(const MemoryBudget& budget) {
  Result<MemoryPlan> plan = plan_memory(memory_needs(budget.available()), budget, options_.kv_tokens);
  if (plan || plan.status().code() != Code::out_of_memory || options_.kv != "auto" || kv_ == ops::KvFormat::int8) return plan;
  kv_refused_ = name_of(kv_);
  if (!declare()) return plan;
  return plan_memory(memory_needs(budget.available()), budget, options_.kv_tokens);
}

Status Loader::plan() {
  HEARTH_ASSIGN(const MemoryBudget budget, this->budget(0));
  HEARTH_ASSIGN(const MemoryPlan plan, fit(budget));
  log::write(log::Level::debug, model_->info_.name + " in " + budget.text() + ":\n" + table_text(plan.lines));
  if (!kv_refused_.empty()) {
    log::write(log::Level::warn, model_->info_.name + ": the KV pool is int8, as " + kv_refused_ + " would not fit in " + budget.text());
  }
  model_->memory_ = plan.lines;
  model_->info_.kv_blocks = plan.kv_blocks;
  step_limits_.blocks = plan.kv_blocks;
  return Status::ok();
}

Status Loader::allocate_images() {
  if (!model_->encoder_) return Status::ok();
  HEARTH_TRY(model_->encoder_->allocate());
  const DecoderSpec& spec = model_->spec_.decoder;
  const size_t bytes = static_cast<size_t>(model_->arena_.capacity) * static_cast<size_t>(spec.width) * 4;
  for (int i = 0; i <= spec.deepstack_layers; i++) {
    HEARTH_ASSIGN(void* memory, device_.allocate(bytes, device::MemoryKind::workspace, "image rows"));
    model_->arena_memory_.push_back(memory);
    if (i == 0) model_->arena_.rows = static_cast<float*>(memory);
    else model_->arena_.deepstack.push_back(static_cast<float*>(memory));
  }
  model_->image_rows_ = std::make_unique<RowAllocator>(model_->arena_.capacity);
  const VisionSource& source = *model_->spec_.vision;
  VisionInfo vision;
  vision.family = name_of(source.family);
  vision.placeholder = source.placeholder;
  vision.placeholder_id = source.image_token;
  vision.tokens_per_image = model_->encoder_->fixed_rows();
  model_->info_.vision = vision;
  return Status::ok();
}

// A CPU reads a converted folder's weights where they lie in its file, or in one copy of it.
Status Loader::settle(const std::function<bool(double)>& progress) {
  settled_ = device_.info().kind == device::DeviceKind::cpu && !checkpoint_->target().empty();
  if (!settled_) return Status::ok();
  HEARTH_TRY(checkpoint_->settle(progress));
  model_->mapped_bytes_ = checkpoint_->page_cache_bytes();
  device_.count_mapped(model_->mapped_bytes_);
  return Status::ok();
}

Status Loader::fill() {
  const double total = static_cast<double>(model_->weights_->bytes() + (model_->vision_weights_ ? model_->vision_weights_->bytes() : 0));
  double reached = 0;
  const auto advance = [&](double done) { return bool(report("weights", reached = std::clamp(done, reached, total), total)); };
  HEARTH_TRY(settle(advance));
  HEARTH_TRY(model_->weights_->load([&](double done, double) { return advance(done); }));
  if (model_->vision_weights_) {
    const auto before = static_cast<double>(model_->weights_->bytes());
    HEARTH_TRY(model_->vision_weights_->load([&](double done, double) { return advance(before + done); }));
  }
  ModelInfo& info = model_->info_;
  const std::string build = "hearth-1/" + info.precision + "/" + info.kv + "/" + std::to_string(options_.head_bits) +
                            (options_.vision == "auto" ? "" : "/" + options_.vision);
  HEARTH_ASSIGN(info.fingerprint, fingerprint(*checkpoint_, build));
  // What is left of the files in memory: shared pages, vectors, what was read ahead.
  if (device_.host_visible()) checkpoint_->forget_all();
  HEARTH_TRY(model_->decoder_.allocate(model_->limits_));
  HEARTH_TRY(model_->steps_.allocate(step_limits_));
  HEARTH_TRY(allocate_images());
  return model_->kv_.allocate(kv_shape_, model_->info_.kv_blocks);
}

Result<std::unique_ptr<Model>> Model::load(const LoadOptions& options, device::Device& device, Progress progress, void* context) {
  return Loader(options, device, progress, context).run();
}

Result<MemoryDemand> Model::plan(const LoadOptions& options, device::Device& device, int64_t reclaimable) {
  return Loader(options, device, nullptr, nullptr).demand(reclaimable);
}

Status pack_model(const LoadOptions& options, device::Device& target, const PackSink& sink) {
  return Loader(options, target, nullptr, nullptr).pack(sink);
}

}  // namespace hearth::model
