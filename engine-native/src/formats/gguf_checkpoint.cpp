#include "formats/gguf_checkpoint.h"

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>

#include "formats/gguf.h"
#include "formats/linear_reader.h"
#include "tokenizer/tokenizer.h"

namespace hearth::formats {

using nlohmann::json;

namespace {

struct Architecture {
  std::string_view gguf, model_type, class_name;
  bool permuted_rope;  // q and k rows are stored for interleaved rope
};
constexpr std::array<Architecture, 3> architectures{{
    {"llama", "llama", "LlamaForCausalLM", true},  // Mistral files say "llama" too
    {"qwen2", "qwen2", "Qwen2ForCausalLM", false},
    {"qwen3", "qwen3", "Qwen3ForCausalLM", false},
}};

// blk.N.<from> is model.layers.N.<to>
constexpr std::array<std::pair<std::string_view, std::string_view>, 11> layer_names{{
    {"attn_norm", "input_layernorm"}, {"attn_q", "self_attn.q_proj"}, {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"}, {"attn_output", "self_attn.o_proj"}, {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"}, {"ffn_norm", "post_attention_layernorm"}, {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"}, {"ffn_down", "mlp.down_proj"},
}};

// The Hugging Face name, or nothing for a tensor of no architecture read here.
std::string translate(std::string_view name) {
  if (name == "token_embd.weight") return "model.embed_tokens.weight";
  if (name == "output_norm.weight") return "model.norm.weight";
  if (name == "output.weight") return "lm_head.weight";
  if (!name.starts_with("blk.")) return {};
  const size_t number_end = name.find('.', 4), suffix = name.rfind('.');
  if (number_end == std::string_view::npos || suffix <= number_end) return {};
  const std::string_view number = name.substr(4, number_end - 4), middle = name.substr(number_end + 1, suffix - number_end - 1);
  if (number.empty() || number.find_first_not_of("0123456789") != std::string_view::npos) return {};
  for (const auto& [from, to] : layer_names) {
    if (middle == from) return "model.layers." + std::string(number) + "." + std::string(to) + std::string(name.substr(suffix));
  }
  return {};
}

// Row of the file for row `row` of the Hugging Face order: within a head the file has pairs (2i, 2i+1) where the other
// has halves (i, i + size/2).
int64_t file_row(int64_t row, int64_t head_size) {
  const int64_t in_head = row % head_size, half = head_size / 2;
  return row - in_head + (in_head < half ? 2 * in_head : 2 * (in_head - half) + 1);
}

class GgufCheckpoint final : public Checkpoint {
 public:
  explicit GgufCheckpoint(std::string path) : path_(std::move(path)) {}
  Status load();

  const json& config() const override { return config_; }
  const json& generation_config() const override { return generation_config_; }
  const std::string& path() const override { return path_; }
  std::string_view format() const override { return "gguf"; }
  std::vector<std::string> notes() const override { return notes_; }
  const TensorView* find(std::string_view name) const override;
  std::optional<TensorView> stored(std::string_view name) const override;
  Status read(std::span<const std::byte> stored, void* to) const override {
    return !stored.empty() && file_->holds(stored.data()) ? file_->read(stored, to) : Checkpoint::read(stored, to);
  }
  std::vector<std::string> names() const override;
  Result<LinearHeader> linear_header(std::string_view module) const override;
  Result<LinearData> linear(std::string_view module) const override;
  bool has_linear(std::string_view module) const override;
  void forget(std::string_view name) const override;
  void forget_all() const override { file_->forget(file_->bytes()); }
  const tokenizer::GgufVocabulary* vocabulary() const override { return &vocabulary_; }

 private:
  struct Entry {
    GgufTensor tensor;
    int64_t permuted_head = 0;  // head size whose rows are to be un-permuted; 0: none
  };
  struct Converted { TensorView view; std::vector<std::byte> bytes; };

  Status add_tensors();
  Status make_config();
  Status make_attention_config(json& config) const;
  Status make_rope_scaling(json& config) const;
  void make_notes();
  std::string key(const char* name) const { return architecture_->gguf.data() + std::string(".") + name; }
  const Entry* entry(std::string_view module) const;
  void gather_rows(const Entry& entry, std::vector<std::byte>& to) const;
  Converted convert(const std::string& name, const Entry& entry) const;

  std::string path_;
  std::shared_ptr<const MappedFile> file_;
  Gguf gguf_;
  const Architecture* architecture_ = nullptr;
  std::map<std::string, Entry, std::less<>> tensors_;
  std::vector<float> rope_factors_;
  json config_, generation_config_ = json::object();
  tokenizer::GgufVocabulary vocabulary_;
  std::vector<std::string> notes_;
  mutable std::mutex converted_mutex_;
  mutable std::map<std::string, Converted, std::less<>> converted_;  // tensors as find() shows them
};

Status GgufCheckpoint::load() {
  HEARTH_ASSIGN(file_, MappedFile::open(path_));
  HEARTH_ASSIGN(gguf_, parse_gguf(file_->bytes(), path_));
  const std::string name = gguf_.text("general.architecture");
  for (const Architecture& candidate : architectures) {
    if (candidate.gguf == name) architecture_ = &candidate;
  }
  if (!architecture_) return unsupported(path_ + ": architecture '" + name.substr(0, 64) + "'; llama, qwen2 and qwen3 are read from GGUF");
  HEARTH_TRY(make_config());
  HEARTH_TRY(add_tensors());
  HEARTH_TRY(make_rope_scaling(config_));
  vocabulary_ = read_vocabulary(gguf_);
  make_notes();
  return Status::ok();
}

Status GgufCheckpoint::add_tensors() {
  const int64_t head_size = config_["head_dim"].get<int64_t>();
  for (GgufTensor& tensor : gguf_.tensors) {
    const std::string label = path_ + ": tensor '" + tensor.name + "'";
    if (tensor.name == "rope_freqs.weight") {
      if (tensor.type != GgmlType::f32) return corrupt(label + " is not F32");
      rope_factors_.resize(tensor.data.size() / sizeof(float));
      std::memcpy(rope_factors_.data(), tensor.data.data(), tensor.data.size());
      continue;
    }
    const std::string name = translate(tensor.name);
    if (name.empty()) return unsupported(label + " belongs to no architecture that is read from GGUF");
    Entry entry{.tensor = std::move(tensor), .permuted_head = 0};
    const bool turned = name.find(".q_proj.") != std::string::npos || name.find(".k_proj.") != std::string::npos;
    if (architecture_->permuted_rope && turned) {
      if (entry.tensor.shape.front() % head_size != 0)
        return corrupt(label + ": " + std::to_string(entry.tensor.shape.front()) + " rows are not whole heads");
      entry.permuted_head = head_size;
    }
    if (!tensors_.emplace(name, std::move(entry)).second) return corrupt(label + " appears twice");
  }
  gguf_.tensors.clear();
  const bool tied = !tensors_.contains("lm_head.weight");
  config_["tie_word_embeddings"] = tied;
  const auto table = tensors_.find("model.embed_tokens.weight");
  if (table == tensors_.end() || table->second.tensor.shape.size() != 2)
    return corrupt(path_ + ": tensor 'token_embd.weight' is missing or has no two dimensions");
  config_["vocab_size"] = table->second.tensor.shape[0];
  return Status::ok();
}

Status GgufCheckpoint::make_config() {
  config_ = {{"architectures", json::array({architecture_->class_name})}, {"model_type", architecture_->model_type},
             {"hidden_act", "silu"}, {"torch_dtype", "float16"}};
  const std::pair<const char*, const char*> counts[] = {
      {"hidden_size", "embedding_length"}, {"intermediate_size", "feed_forward_length"},
      {"num_hidden_layers", "block_count"}, {"max_position_embeddings", "context_length"},
      {"num_attention_heads", "attention.head_count"}};
  for (const auto& [to, from] : counts) {
    const auto value = gguf_.integer(key(from));
    if (!value || *value < 1 || *value > std::numeric_limits<int>::max())
      return corrupt(path_ + ": key '" + key(from) + "' is missing or out of range");
    config_[to] = *value;
  }
  HEARTH_TRY(make_attention_config(config_));
  const std::pair<const char*, const char*> ids[] = {{"bos_token_id", "tokenizer.ggml.bos_token_id"}, {"eos_token_id", "tokenizer.ggml.eos_token_id"}};
  for (const auto& [to, from] : ids) {
    if (const auto id = gguf_.integer(from); id && *id >= 0 && *id <= std::numeric_limits<int>::max()) config_[to] = *id;
  }
  // Files name the token that ends a turn apart from the one that ends a text: generation ends at both.
  const auto end_of_turn = gguf_.integer("tokenizer.ggml.eot_token_id");
  if (end_of_turn && config_.contains("eos_token_id") && *end_of_turn >= 0 && *end_of_turn <= std::numeric_limits<int>::max() &&
      config_["eos_token_id"] != *end_of_turn) {
    config_["eos_token_id"] = json::array({config_["eos_token_id"], *end_of_turn});
  }
  if (const std::string chat = gguf_.text("tokenizer.chat_template"); !chat.empty()) config_["chat_template"] = chat;
  return Status::ok();
}

Status GgufCheckpoint::make_attention_config(json& config) const {
  const int64_t heads = config["num_attention_heads"].get<int64_t>(), width = config["hidden_size"].get<int64_t>();
  const int64_t kv_heads = gguf_.integer(key("attention.head_count_kv")).value_or(heads);
  const int64_t head_size = gguf_.integer(key("attention.key_length")).value_or(width % heads == 0 ? width / heads : 0);
  if (kv_heads < 1 || heads % kv_heads != 0)
    return corrupt(path_ + ": " + std::to_string(heads) + " heads over " + std::to_string(kv_heads) + " key heads");
  if (head_size < 2 || head_size % 2 != 0 || head_size > 4096) return corrupt(path_ + ": heads of " + std::to_string(head_size));
  if (gguf_.integer(key("attention.value_length")).value_or(head_size) != head_size) return unsupported(path_ + ": value heads of another size");
  if (gguf_.integer(key("rope.dimension_count")).value_or(head_size) != head_size) return unsupported(path_ + ": rope over part of a head");
  if (gguf_.integer(key("expert_count")).value_or(0) != 0) return unsupported(path_ + ": mixtures of experts");
  config["num_key_value_heads"] = kv_heads;
  config["head_dim"] = head_size;
  config["rms_norm_eps"] = gguf_.number(key("attention.layer_norm_rms_epsilon")).value_or(1e-5);
  config["rope_theta"] = gguf_.number(key("rope.freq_base")).value_or(10000.0);
  if (const auto window = gguf_.integer(key("attention.sliding_window")); window && *window > 0) config["sliding_window"] = *window;
  return Status::ok();
}

// Llama 3's frequency factors, recomputed from (factor, 1, 4, 8192), which every released model uses.
std::vector<float> llama3_factors(double factor, double theta, size_t count) {
  constexpr double low = 1, high = 4, original = 8192;
  std::vector<float> factors(count);
  for (size_t i = 0; i < count; i++) {
    const double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(2 * count));
    const double wavelength = 2 * 3.14159265358979323846 / frequency;
    const double smooth = (original / wavelength - low) / (high - low);
    factors[i] = static_cast<float>(wavelength < original / high ? 1 : wavelength > original / low ? factor : 1 / ((1 - smooth) / factor + smooth));
  }
  return factors;
}

Status GgufCheckpoint::make_rope_scaling(json& config) const {
  const std::string type = gguf_.text(key("rope.scaling.type"));
  const double factor = gguf_.number(key("rope.scaling.factor")).value_or(1);
  if (type == "linear" && factor != 1) config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", factor}};
  else if (!type.empty() && type != "none" && type != "linear") return unsupported(path_ + ": rope scaling '" + type + "' in GGUF");
  if (rope_factors_.empty()) return Status::ok();
  const double largest = *std::max_element(rope_factors_.begin(), rope_factors_.end());
  const std::vector<float> expected = llama3_factors(largest, config["rope_theta"].get<double>(), rope_factors_.size());
  bool same = rope_factors_.size() * 2 == config["head_dim"].get<size_t>();
  for (size_t i = 0; same && i < expected.size(); i++) same = std::fabs(expected[i] - rope_factors_[i]) <= 1e-3f * expected[i];
  if (!same) return unsupported(path_ + ": tensor 'rope_freqs.weight' holds factors that are not Llama 3's");
  if (largest > 1) {
    config["rope_scaling"] = {{"rope_type", "llama3"}, {"factor", largest}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0},
                              {"original_max_position_embeddings", 8192}};
  }
  return Status::ok();
}

void GgufCheckpoint::make_notes() {
  std::map<std::string, int64_t> held;  // type -> tensors kept as FP16
  for (const auto& [name, entry] : tensors_) {
    const GgmlType type = entry.tensor.type;
    if (type == GgmlType::q4_1 || type == GgmlType::q4_k || type == GgmlType::q6_k || type == GgmlType::q8_0) held[formats::name_of(type)]++;
  }
  for (const auto& [type, count] : held) {
    notes_.push_back(std::to_string(count) + " tensors of " + type + " are held as FP16; --precision w4a16 makes them smaller");
  }
}

const GgufCheckpoint::Entry* GgufCheckpoint::entry(std::string_view module) const {
  const auto found = tensors_.find(std::string(module) + ".weight");
  return found == tensors_.end() ? nullptr : &found->second;
}

// The tensor's bytes with its rows in Hugging Face order.
void GgufCheckpoint::gather_rows(const Entry& entry, std::vector<std::byte>& to) const {
  const int64_t rows = entry.tensor.shape.front();
  const size_t row_bytes = entry.tensor.data.size() / static_cast<size_t>(rows);
  to.resize(entry.tensor.data.size());
  for (int64_t row = 0; row < rows; row++) {
    const int64_t from = entry.permuted_head ? file_row(row, entry.permuted_head) : row;
    std::memcpy(to.data() + static_cast<size_t>(row) * row_bytes, entry.tensor.data.data() + static_cast<size_t>(from) * row_bytes, row_bytes);
  }
}

DType plain_type(GgmlType type) {
  return type == GgmlType::f32 ? DType::f32 : type == GgmlType::bf16 ? DType::bf16 : DType::f16;
}

bool is_plain(GgmlType type) { return type == GgmlType::f32 || type == GgmlType::f16 || type == GgmlType::bf16; }

// Float types as they are, blocks as FP16, rows in order.
GgufCheckpoint::Converted GgufCheckpoint::convert(const std::string& name, const Entry& entry) const {
  Converted converted;
  converted.view = {.name = name, .type = plain_type(entry.tensor.type), .shape = entry.tensor.shape, .data = entry.tensor.data, .file = path_};
  if (entry.permuted_head) gather_rows(entry, converted.bytes);
  if (!is_plain(entry.tensor.type)) {
    const std::byte* from = entry.permuted_head ? converted.bytes.data() : entry.tensor.data.data();
    const int64_t row = entry.tensor.shape.back(), elements = converted.view.elements();
    const GgmlBlock block = block_of(entry.tensor.type);
    std::vector<std::byte> halves(static_cast<size_t>(elements) * sizeof(Half));
    std::vector<float> values(static_cast<size_t>(row));
    for (int64_t begin = 0; begin < elements; begin += row) {
      dequantize_blocks(entry.tensor.type, from + begin / block.elements * block.bytes, row, values.data());
      for (int64_t i = 0; i < row; i++) reinterpret_cast<Half*>(halves.data())[begin + i] = to_half(values[static_cast<size_t>(i)]);
    }
    converted.bytes = std::move(halves);
  }
  if (!converted.bytes.empty()) converted.view.data = converted.bytes;
  return converted;
}

const TensorView* GgufCheckpoint::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return nullptr;
  const std::lock_guard lock(converted_mutex_);
  auto cached = converted_.find(name);
  if (cached == converted_.end()) cached = converted_.emplace(std::string(name), convert(std::string(name), found->second)).first;
  return &cached->second.view;
}

std::vector<std::string> GgufCheckpoint::names() const {
  std::vector<std::string> all;
  for (const auto& [name, entry] : tensors_) all.push_back(name);
  return all;
}

bool GgufCheckpoint::has_linear(std::string_view module) const {
  const Entry* found = entry(module);
  return found && found->tensor.shape.size() == 2;
}

Result<LinearHeader> GgufCheckpoint::linear_header(std::string_view module) const {
  const Entry* found = entry(module);
  if (!found) return corrupt(path_ + ": tensor '" + std::string(module) + ".weight' is missing");
  const auto& shape = found->tensor.shape;
  constexpr int64_t most = std::numeric_limits<int>::max();
  if (shape.size() != 2 || shape[0] > most || shape[1] > most)
    return corrupt(path_ + ": tensor '" + found->tensor.name + "' is no linear: shape " + shape_text(shape));
  const bool bias = tensors_.contains(std::string(module) + ".bias");
  if (found->tensor.type == GgmlType::q4_0) return w4_header(shape[1], shape[0], 32, true, bias);
  LinearHeader header;
  header.in = static_cast<int>(shape[1]);
  header.out = static_cast<int>(shape[0]);
  header.bias = bias;
  const DType type = plain_type(found->tensor.type);
  header.format = type == DType::f32 ? ops::WeightFormat::f32 : type == DType::bf16 ? ops::WeightFormat::bf16 : ops::WeightFormat::f16;
  return header;
}

Result<LinearData> GgufCheckpoint::linear(std::string_view module) const {
  HEARTH_ASSIGN(const LinearHeader header, linear_header(module));
  const Entry& found = *entry(module);
  std::vector<float> bias;
  if (header.bias) {
    HEARTH_ASSIGN(bias, floats(std::string(module) + ".bias", {{int64_t{header.out}}}));
  }
  if (header.format == ops::WeightFormat::w4) {
    std::vector<std::byte> gathered;
    if (found.permuted_head) gather_rows(found, gathered);
    const int64_t elements = int64_t{header.in} * header.out;
    W4Parts parts{.in = header.in, .out = header.out, .group = 32, .symmetric = true, .packed = {}, .scales = {}, .zeros = {}};
    parts.packed.resize(static_cast<size_t>(elements / 2));
    parts.scales.resize(static_cast<size_t>(elements / 32));
    unpack_q4_0(found.permuted_head ? gathered.data() : found.tensor.data.data(), elements,
                reinterpret_cast<uint8_t*>(parts.packed.data()), parts.scales.data());
    return w4_data(std::move(parts), std::move(bias));
  }
  Converted converted = convert(std::string(module) + ".weight", found);
  LinearData linear;
  linear.bias = std::move(bias);
  linear.owned = std::move(converted.bytes);
  linear.host.in = header.in;
  linear.host.out = header.out;
  linear.host.format = header.format;
  linear.host.data = linear.owned.empty() ? found.tensor.data.data() : linear.owned.data();  // GGUF data is aligned to 32
  if (reinterpret_cast<uintptr_t>(linear.host.data) % size_of(converted.view.type) != 0) {   // unless it says otherwise
    linear.owned.assign(found.tensor.data.begin(), found.tensor.data.end());
    linear.host.data = linear.owned.data();
  }
  return linear;
}

// A tensor by its own name is gone with what find() made of it: whoever holds that view must be done with it. A module's
// are the file's pages alone, since a tied head and the embedding read the same ones.
void GgufCheckpoint::forget(std::string_view name) const {
  if (const Entry* found = entry(name)) return file_->forget(found->tensor.data);
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return;
  file_->forget(found->second.tensor.data);
  const std::lock_guard lock(converted_mutex_);
  const auto cached = converted_.find(name);
  if (cached != converted_.end()) converted_.erase(cached);
}

std::optional<TensorView> GgufCheckpoint::stored(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return std::nullopt;
  const GgufTensor& tensor = found->second.tensor;
  return TensorView{.name = tensor.name, .type = plain_type(tensor.type), .shape = tensor.shape, .data = tensor.data, .file = path_};
}

}  // namespace

tokenizer::GgufVocabulary read_vocabulary(const Gguf& gguf) {
  tokenizer::GgufVocabulary vocabulary;
  vocabulary.model = gguf.text("tokenizer.ggml.model");
  vocabulary.pre = gguf.text("tokenizer.ggml.pre");
  vocabulary.tokens = gguf.texts("tokenizer.ggml.tokens");
  vocabulary.scores = gguf.numbers("tokenizer.ggml.scores");
  vocabulary.types = gguf.integers("tokenizer.ggml.token_type");
  vocabulary.merges = gguf.texts("tokenizer.ggml.merges");
  const auto id = [&](const char* name) {
    const auto value = gguf.integer(std::string("tokenizer.ggml.") + name);
    return value && *value >= 0 && *value < static_cast<int64_t>(vocabulary.tokens.size()) ? static_cast<int32_t>(*value) : -1;
  };
  vocabulary.bos = id("bos_token_id");
  vocabulary.eos = id("eos_token_id");
  vocabulary.unk = id("unknown_token_id");
  vocabulary.pad = id("padding_token_id");
  vocabulary.add_bos = gguf.boolean("tokenizer.ggml.add_bos_token");
  vocabulary.add_eos = gguf.boolean("tokenizer.ggml.add_eos_token");
  vocabulary.add_space_prefix = gguf.boolean("tokenizer.ggml.add_space_prefix");
  return vocabulary;
}

Result<std::unique_ptr<Checkpoint>> open_gguf(const std::string& path) {
  auto checkpoint = std::make_unique<GgufCheckpoint>(path);
  HEARTH_TRY(checkpoint->load());
  return std::unique_ptr<Checkpoint>(std::move(checkpoint));
}

}  // namespace hearth::formats
