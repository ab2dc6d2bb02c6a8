// From model_json to a loaded model: options, tokenizer, chat template, description.
#include <filesystem>
#include <fstream>
#include <sstream>

#include "formats/gguf_checkpoint.h"
#include "formats/json_text.h"
#include "formats/mapped_file.h"
#include "runtime/json_reader.h"
#include "runtime/loaded_model.h"

namespace hearth::runtime {
namespace {

constexpr int shape_tokenizer_floor = 256;  // a byte vocabulary needs every byte

std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// tokenizer_config.json has one template, or several by name of which "default" is for chat.
Json template_of(const Json& config) {
  auto at = config.find("chat_template");
  if (at == config.end()) return nullptr;
  if (at->is_string()) return *at;
  if (!at->is_array()) return nullptr;
  for (const Json& entry : *at)
    if (formats::string_member(entry, "name") == "default" && entry.contains("template")) return entry["template"];
  return nullptr;
}

Json read_chat_template(const std::string& folder) {
  std::filesystem::path base(folder);
  if (std::filesystem::exists(base / "chat_template.jinja")) return read_file(base / "chat_template.jinja");
  for (const char* name : {"chat_template.json", "tokenizer_config.json"}) {
    Json config = Json::parse(read_file(base / name), nullptr, false);
    if (!config.is_object()) continue;
    if (Json found = template_of(config); found.is_string()) return found;
  }
  return nullptr;
}

Status read_gguf_texts(const std::string& path, LoadResult& result) {
  HEARTH_ASSIGN(auto file, formats::MappedFile::open(path));
  HEARTH_ASSIGN(const formats::Gguf gguf, formats::parse_gguf(file->bytes(), path));
  auto tokenizer = tokenizer::Tokenizer::from_gguf(formats::read_vocabulary(gguf));
  if (!tokenizer) return tokenizer.status().with(path);
  result.vocabulary = make_vocabulary(std::move(tokenizer).value());
  if (std::string text = gguf.text("tokenizer.chat_template"); !text.empty()) result.chat_template = text;
  return Status::ok();
}

Json describe_vision(const std::optional<model::VisionInfo>& vision) {
  if (!vision) return nullptr;
  Json tokens = vision->tokens_per_image ? Json(*vision->tokens_per_image) : Json(nullptr);
  return {{"family", vision->family}, {"placeholder", vision->placeholder}, {"tokens_per_image", tokens}};
}

Json describe_sampling(const model::SamplingDefaults& d) {
  Json out = Json::object();
  if (d.temperature) out["temperature"] = *d.temperature;
  if (d.top_p) out["top_p"] = *d.top_p;
  if (d.min_p) out["min_p"] = *d.min_p;
  if (d.top_k) out["top_k"] = *d.top_k;
  if (d.repetition_penalty) out["repetition_penalty"] = *d.repetition_penalty;
  return out;
}

Status read_choice(JsonReader& reader, const char* key, std::initializer_list<const char*> choices, std::string& out) {
  HEARTH_TRY(reader.read(key, out));
  std::string list;
  for (const char* choice : choices) {
    if (out == choice) return Status::ok();
    list += (list.empty() ? "" : ", ") + std::string(choice);
  }
  return JsonReader::wrong(key, "one of " + list);
}

}  // namespace

Hooks& hooks() {
  static Hooks instance;
  return instance;
}

Result<ModelRequest> parse_model_request(std::string_view json) {
  HEARTH_ASSIGN(JsonReader reader, JsonReader::parse(json, "model_json"));
  ModelRequest out;
  model::LoadOptions& load = out.load;
  HEARTH_TRY(reader.read("path", load.path));
  HEARTH_TRY(reader.read("shape", load.shape));
  HEARTH_TRY(reader.read("name", out.name));
  HEARTH_TRY(read_choice(reader, "precision", {"auto", "f32", "f16", "bf16", "w4a16", "w4a8", "w4a32", "w8a8", "none"}, load.precision));
  HEARTH_TRY(read_choice(reader, "vision_precision", {"auto", "f32", "f16", "bf16", "w8a8"}, load.vision));
  HEARTH_TRY(reader.read_integer("group", 0, 128, load.group));
  if (load.group != 0 && load.group != 32 && load.group != 64 && load.group != 128)
    return JsonReader::wrong("group", "32, 64 or 128");
  HEARTH_TRY(reader.read("symmetric", load.symmetric));
  HEARTH_TRY(read_choice(reader, "kv", {"auto", "f32", "f16", "bf16", "int8"}, load.kv));
  HEARTH_TRY(reader.read_integer("head_bits", 0, 16, load.head_bits));
  if (load.head_bits != 0 && load.head_bits != 4 && load.head_bits != 8 && load.head_bits != 16)
    return JsonReader::wrong("head_bits", "0, 4, 8 or 16");
  HEARTH_TRY(reader.read_integer("context", 0, 1 << 24, load.context));
  HEARTH_TRY(reader.read_integer("max_sequences", 0, 65536, load.max_sequences));
  HEARTH_TRY(reader.read_integer("kv_tokens", 0, INT32_MAX, load.kv_tokens));
  int64_t megabytes = 0;
  HEARTH_TRY(reader.read_integer("memory_limit_mb", 0, INT32_MAX, megabytes));
  load.memory_limit_bytes = megabytes << 20;
  HEARTH_TRY(reader.read_integer("prefill_chunk", 0, 1 << 20, load.step_tokens));
  HEARTH_TRY(reader.read("prefix_cache", out.prefix_cache));
  HEARTH_TRY(reader.read_integer("host_kv_mb", -1, 1 << 24, out.host_kv_mb));
  HEARTH_TRY(reader.read("plan", out.plan_only));
  HEARTH_TRY(reader.read_integer("reclaimable_mb", 0, INT32_MAX, out.reclaimable_mb));
  HEARTH_TRY(reader.read_integer("seed", 0, UINT32_MAX, load.seed));
  HEARTH_TRY(reader.finish());
  if (load.path.empty() == load.shape.empty()) return invalid("model_json needs either \"path\" or \"shape\"");
  if (out.name.empty()) out.name = load.path.empty() ? load.shape : std::filesystem::path(load.path).filename().string();
  return out;
}

Result<LoadResult> load_model(const model::LoadOptions& options, device::Device& device, model::Model::Progress progress,
                              void* context) {
  if (hooks().load) return hooks().load(options, device, progress, context);
  LoadResult result;
  // The tokenizer first: it is small, and a folder without one should fail before gigabytes are read.
  if (const std::string texts = formats::gguf_texts_file(options.path); !texts.empty()) {
    HEARTH_TRY(read_gguf_texts(texts, result));
  } else if (!options.path.empty()) {
    HEARTH_ASSIGN(auto tokenizer, tokenizer::Tokenizer::load_folder(options.path));
    result.vocabulary = make_vocabulary(std::move(tokenizer));
    result.chat_template = read_chat_template(options.path);
  }
  HEARTH_ASSIGN(result.model, model::Model::load(options, device, progress, context));
  if (!result.vocabulary)
    result.vocabulary = make_byte_vocabulary(std::max(shape_tokenizer_floor, result.model->info().vocabulary));
  return result;
}

std::shared_ptr<const grammar::TokenTrie> make_token_trie(const LoadedModel& loaded) {
  const Vocabulary& v = *loaded.vocabulary;
  auto token = [&](int32_t id) { return grammar::TokenTrie::Token{v.token_bytes(id), v.is_special(id)}; };
  return grammar::TokenTrie::build(loaded.runner->sampled_vocabulary(), token, loaded.model->info().end_tokens);
}

Json describe_model(const LoadedModel& loaded, const Json& chat_template) {
  const model::ModelInfo& info = loaded.model->info();
  Json memory = Json::array(), special = Json::object();
  for (const model::MemoryLine& line : loaded.model->memory()) memory.push_back({{"what", line.what}, {"bytes", line.bytes}});
  for (auto [name, id] : loaded.vocabulary->named_tokens()) special[name] = std::string(loaded.vocabulary->token_text(id));
  std::optional<int32_t> bos = info.bos_token ? info.bos_token : loaded.vocabulary->bos();
  return {{"name", loaded.name},
          {"architecture", info.architecture},
          {"parameters", info.parameters},
          {"vocabulary", info.vocabulary},
          {"context", loaded.runner->context()},
          {"max_sequences", info.max_sequences},
          {"precision", info.precision},
          {"kv", info.kv},
          {"device", loaded.device->info().name},
          {"vision", describe_vision(info.vision)},
          {"bos", bos ? Json(*bos) : Json(nullptr)},
          {"eos", info.end_tokens},
          {"sampling", describe_sampling(info.sampling)},
          {"chat_template", chat_template},
          {"memory", memory},
          {"fingerprint", info.fingerprint},
          {"notes", info.notes},
          {"special_tokens", special}};
}

}  // namespace hearth::runtime
