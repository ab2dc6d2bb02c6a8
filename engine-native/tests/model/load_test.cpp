// Loading: what is refused and how the message reads, shapes, and configurations as older tools write them.
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <thread>

#include "model/model_spec.h"
#include "model/shapes.h"
#include "model/support.h"
#include "support/temporary_folder.h"

namespace hearth::model {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

// A copy of a fixture that a test may damage; gone with the test.
class Copy {
 public:
  explicit Copy(const std::string& name) { fs::copy(checkpoint_path(name), path(), fs::copy_options::recursive); }
  const std::string& path() const { return folder_.path(); }
  std::string file(const std::string& name) const { return path() + "/" + name; }
  void edit(const std::function<void(json&)>& change, const std::string& name = "config.json") const {
    json config = json::parse(std::ifstream(file(name)));
    change(config);
    std::ofstream(file(name)) << config;
  }
  // Changes the JSON header of model.safetensors; the data stays where it is.
  void edit_tensors(const std::function<void(json&)>& change) const {
    std::ifstream in(file("model.safetensors"), std::ios::binary);
    std::string bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    uint64_t size;
    std::memcpy(&size, bytes.data(), 8);
    json header = json::parse(bytes.substr(8, size));
    change(header);
    const std::string text = header.dump();
    const uint64_t length = text.size();
    std::ofstream out(file("model.safetensors"), std::ios::binary);
    out.write(reinterpret_cast<const char*>(&length), 8);
    out << text << bytes.substr(8 + size);
  }

 private:
  TemporaryFolder folder_;
};

// ---- Loads that are given up -------------------------------------------------------------------------------------------

struct GivenUp {
  std::string stage;
  int reports = 0;  // after the stage was reached
};

bool give_up(void* context, const char* stage, double, double) {
  auto* load = static_cast<GivenUp*>(context);
  if (load->reports > 0 || load->stage == stage) load->reports++;
  return load->reports == 0;
}

TEST(Load, EndsAtTheNextReportWhenItIsGivenUp) {
  const std::string path = checkpoint_path("llama-mha");
  for (const char* stage : {"plan", "weights", "tune", "ready"}) {
    GivenUp load{stage};
    const auto model = Model::load(exact_options(path), test_device(), give_up, &load);
    ASSERT_FALSE(model.is_ok()) << stage;
    EXPECT_EQ(model.status().code(), Code::cancelled) << stage;
    // Threads that pack tensors each report once more.
    EXPECT_LE(load.reports, 1 + static_cast<int>(std::thread::hardware_concurrency())) << stage;
  }
}

// ---- Damaged and unsupported checkpoints -------------------------------------------------------------------------------

TEST(Damaged, PointersOfGitLfsAreNamed) {
  const Copy copy("llama-mha");
  std::ofstream(copy.path() + "/model.safetensors") << "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";
  EXPECT_HAS(load_error(copy.path()), "model.safetensors: a pointer of Git LFS");
}

TEST(Damaged, MissingTensorIsNamed) {
  const Copy copy("llama-mha");
  copy.edit_tensors([](json& header) {
    header["model.layers.1.self_attn.k_projx.weight"] = header["model.layers.1.self_attn.k_proj.weight"];
    header.erase("model.layers.1.self_attn.k_proj.weight");
  });
  const std::string error = load_error(copy.path());
  EXPECT_HAS(error, copy.path());
  EXPECT_HAS(error, "model.layers.1.self_attn.k_proj.weight");
}

TEST(Damaged, MissingNormAndEmbedding) {
  for (const char* name : {"model.norm.weight", "model.embed_tokens.weight", "model.layers.0.input_layernorm.weight", "lm_head.weight"}) {
    const Copy copy("llama-mha");
    copy.edit_tensors([&](json& header) {
      header[std::string("other.") + name] = header[name];
      header.erase(name);
    });
    EXPECT_HAS(load_error(copy.path()), name);
  }
}

TEST(Damaged, WrongShapeNamesBothShapes) {
  const Copy copy("llama-mha");
  copy.edit([](json& config) { config["intermediate_size"] = 192; });
  const std::string error = load_error(copy.path());
  EXPECT_HAS(error, "mlp.gate_proj");
  EXPECT_HAS(error, "[160, 64]");
  EXPECT_HAS(error, "[192, 64]");
}

TEST(Damaged, TransposedTensor) {
  const Copy copy("llama-mha");
  copy.edit_tensors([](json& header) { header["model.layers.0.mlp.down_proj.weight"]["shape"] = {160, 64}; });
  EXPECT_HAS(load_error(copy.path()), "model.layers.0.mlp.down_proj");
}

TEST(Damaged, TruncatedFile) {
  const Copy copy("llama-mha");
  fs::resize_file(copy.file("model.safetensors"), fs::file_size(copy.file("model.safetensors")) - 100);
  EXPECT_HAS(load_error(copy.path()), "model.safetensors");
}

TEST(Damaged, MissingShard) {
  const Copy copy("llama-sharded");
  fs::remove(copy.file("model-00002-of-00003.safetensors"));
  EXPECT_HAS(load_error(copy.path()), "model-00002-of-00003.safetensors");
}

TEST(Damaged, MissingBias) {
  const Copy copy("llama-mha");
  copy.edit([](json& config) { config["attention_bias"] = true; });
  EXPECT_HAS(load_error(copy.path()), "self_attn.q_proj.bias");
}

TEST(Unsupported, SettingsAreRefusedByName) {
  struct Case { std::function<void(json&)> change; const char* word; };
  const Case cases[] = {
      {[](json& c) { c["model_type"] = "mamba"; }, "mamba"},
      {[](json& c) { c.erase("model_type"); }, "model_type"},
      {[](json& c) { c["hidden_act"] = "tanhshrink"; }, "tanhshrink"},
      {[](json& c) { c["rope_parameters"] = {{"rope_type", "yarn"}, {"factor", 4}}; }, "yarn"},
      {[](json& c) { c["pretraining_tp"] = 2; }, "pretraining_tp"},
      {[](json& c) { c["attn_logit_softcapping"] = 50.0; }, "attn_logit_softcapping"},
      {[](json& c) { c["num_local_experts"] = 8; }, "num_local_experts"},
      {[](json& c) { c["eos_token_id"] = 288; }, "eos_token_id"},
      {[](json& c) { c["eos_token_id"] = {2, -1}; }, "eos_token_id"},
      {[](json& c) { c["bos_token_id"] = 1 << 30; }, "bos_token_id"},
      {[](json& c) { c["num_key_value_heads"] = 3; }, "num_key_value_heads"},
      {[](json& c) { c["hidden_size"] = -64; }, "hidden_size"},
      {[](json& c) { c["hidden_size"] = "64"; }, "hidden_size"},
      {[](json& c) { c["num_hidden_layers"] = 1e9; }, "num_hidden_layers"},
      {[](json& c) { c["rms_norm_eps"] = -1; }, "rms_norm_eps"},
      {[](json& c) { c["torch_dtype"] = "int4"; c.erase("dtype"); }, "int4"},
      {[](json& c) { c["head_dim"] = 15; }, "head_dim"},
  };
  for (const Case& c : cases) {
    const Copy copy("llama-mha");
    copy.edit(c.change);
    const std::string error = load_error(copy.path());
    EXPECT_HAS(error, c.word);
    EXPECT_HAS(error, "config.json");
  }
}

TEST(Unsupported, VisionSettingsAreRefusedByName) {
  struct Case { const char* from; std::function<void(json&)> change; const char* word; };
  const Case cases[] = {
      {"llava-siglip", [](json& c) { c["image_token_index"] = 160; }, "image_token_index"},
      {"llava-siglip", [](json& c) { c["vision_feature_layer"] = {-2, -3}; }, "vision_feature_layer"},
      {"llava-siglip", [](json& c) { c["vision_feature_select_strategy"] = "middle"; }, "middle"},
      {"llava-siglip", [](json& c) { c["vision_config"]["model_type"] = "pixtral"; }, "pixtral"},
      {"llava-siglip", [](json& c) { c["vision_config"]["image_size"] = 70; }, "image_size"},
      {"vila", [](json& c) { c["image_aspect_ratio"] = "dynamic_s2"; }, "dynamic_s2"},
      {"vila", [](json& c) { c["s2"] = true; }, "s2"},
      {"qwen2.5-vl", [](json& c) { c["vision_config"]["fullatt_block_indexes"] = {7}; }, "fullatt_block_indexes"},
      {"qwen2.5-vl", [](json& c) { c["vision_config"]["out_hidden_size"] = 32; }, "out_hidden_size"},
      {"qwen2.5-vl", [](json& c) { c["text_config"]["rope_parameters"]["mrope_section"] = {2, 2, 2}; }, "mrope_section"},
      {"qwen3-vl", [](json& c) { c["vision_config"].erase("deepstack_visual_indexes"); }, "deepstack_visual_indexes"},
  };
  for (const Case& c : cases) {
    const Copy copy(c.from);
    copy.edit(c.change);
    EXPECT_HAS(load_error(copy.path()), c.word);
  }
  const Copy copy("llava-clip");
  copy.edit([](json& c) { c["image_mean"] = {1e300, 0.5, 0.5}; }, "preprocessor_config.json");
  EXPECT_HAS(load_error(copy.path()), "image_mean");
}

TEST(Options, AreCheckedByName) {
  struct Case { std::function<void(LoadOptions&)> change; const char* word; };
  const Case cases[] = {
      {[](LoadOptions& o) { o.precision = "int3"; }, "int3"},       {[](LoadOptions& o) { o.kv = "fp8"; }, "fp8"},
      {[](LoadOptions& o) { o.group = 48; }, "group"},              {[](LoadOptions& o) { o.head_bits = 5; }, "head_bits"},
      {[](LoadOptions& o) { o.context = 257; }, "257"},             {[](LoadOptions& o) { o.context = -1; }, "negative"},
      {[](LoadOptions& o) { o.max_sequences = 100000; }, "max_sequences"}, {[](LoadOptions& o) { o.path += "/nowhere"; }, "nowhere"},
      {[](LoadOptions& o) { o.shape = "tiny"; }, "either"},
  };
  for (const Case& c : cases) EXPECT_HAS(load_error(checkpoint_path("llama-mha"), c.change), c.word);
}

// ---- Configurations as others write them -------------------------------------------------------------------------------

std::vector<float> logits_of(const std::string& path, const std::string& golden) {
  auto model = load(exact_options(path));
  if (!model) return {};
  Sequence sequence(*model, 0);
  sequence.ids = Golden(golden).values<int32_t>("ids");
  return prefill(*model, sequence, 64);
}

// transformers 4: rope_theta and rope_scaling beside the sizes, torch_dtype, no head_dim.
TEST(OlderConfigs, RopeScalingOfTransformers4) {
  for (const char* name : {"llama3-rope", "llama-linear-rope", "llama-mha"}) {
    const Copy copy(name);
    copy.edit([](json& config) {
      json rope = config["rope_parameters"];
      config.erase("rope_parameters");
      config["rope_theta"] = rope["rope_theta"];
      rope.erase("rope_theta");
      if (rope["rope_type"] == "linear") rope = {{"type", "linear"}, {"factor", rope["factor"]}};
      config["rope_scaling"] = rope["rope_type"] == "default" ? json() : rope;
      config["torch_dtype"] = config["dtype"];
      config.erase("dtype");
      config.erase("head_dim");
    });
    EXPECT_LE(distance(logits_of(copy.path(), name), Golden(name).values<float>("logits")), 1e-4) << name;
  }
}

TEST(OlderConfigs, GemmaLocalRopeAndWindowPattern) {
  const Copy copy("gemma3");
  copy.edit([](json& config) {
    config.erase("rope_parameters");
    config.erase("layer_types");
    config["rope_theta"] = 1000000.0;
    config["rope_local_base_freq"] = 10000.0;
    config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 8.0}};
    config["sliding_window_pattern"] = 3;
  });
  EXPECT_LE(distance(logits_of(copy.path(), "gemma3"), Golden("gemma3").values<float>("logits")), 1e-4);
}

TEST(OlderConfigs, GemmaInsideAVisionModelServesText) {
  const Copy copy("gemma3");
  copy.edit([](json& config) {
    const json text = config;
    config = {{"model_type", "gemma3"}, {"text_config", text}, {"vision_config", {{"model_type", "siglip_vision_model"}}}};
  });
  EXPECT_LE(distance(logits_of(copy.path(), "gemma3"), Golden("gemma3").values<float>("logits")), 1e-4);
}

// The text of a vision model, through other tensor names of the same weights.
std::vector<float> vision_logits(const std::string& path, const std::string& golden) {
  auto model = load(exact_options(path));
  if (!model) return {};
  EXPECT_TRUE(model->info().vision);
  Sequence sequence(*model, 0);
  sequence.ids = Golden(golden).values<int32_t>("none.ids");
  return prefill(*model, sequence, 64);
}

TEST(OlderNames, LlavaBeforeTransformers5) {
  const Copy copy("llava-clip-new");
  copy.edit_tensors([](json& header) {
    json renamed;
    for (auto& [name, tensor] : header.items()) {
      std::string key = name;
      if (key.rfind("model.language_model.", 0) == 0) key = "language_model.model." + key.substr(21);
      else if (key.rfind("model.", 0) == 0) key = key.substr(6);
      else if (key == "lm_head.weight") key = "language_model." + key;
      renamed[key] = tensor;
    }
    header = renamed;
  });
  EXPECT_LE(distance(vision_logits(copy.path(), "llava-clip-new"), Golden("llava-clip-new").values<float>("none.logits")), 1e-4);
}

// The original LLaVA layout: Llama's keys at the top, projector beside the layers, the tower in the same file or in a
// folder of its own.
void to_original_layout(const Copy& copy, bool tower_apart) {
  json tower;
  copy.edit([&](json& config) {
    tower = config["vision_config"];
    json flat = config["text_config"];
    flat.update({{"model_type", "llava"}, {"architectures", {"LlavaLlamaForCausalLM"}}, {"mm_vision_tower", "openai/clip-vit-large-patch14-336"},
                 {"mm_projector_type", "mlp2x_gelu"}, {"mm_vision_select_layer", -2}, {"mm_vision_select_feature", "patch"},
                 {"mm_use_im_start_end", false}, {"tie_word_embeddings", false}});
    config = flat;
  });
  fs::create_directory(copy.file("vision_tower"));
  std::ofstream(copy.file("vision_tower/config.json")) << json{{"model_type", "clip"}, {"vision_config", tower}};
  fs::copy_file(copy.file("preprocessor_config.json"), copy.file("vision_tower/preprocessor_config.json"));
  if (tower_apart) {  // the same bytes under other names: what the folder does not hold is never asked for
    copy.edit_tensors([](json& header) {
      json renamed;
      for (auto& [name, tensor] : header.items()) renamed[name.rfind("model.vision_tower.", 0) == 0 ? "vision_model." + name.substr(name.rfind("model.vision_tower.vision_model.", 0) == 0 ? 32 : 19) : "unused." + name] = tensor;
      renamed["__metadata__"] = {{"format", "pt"}};
      renamed.erase("unused.__metadata__");
      header = renamed;
    });
    fs::copy_file(copy.file("model.safetensors"), copy.file("vision_tower/model.safetensors"));
    fs::copy_file(checkpoint_path("llava-clip-new") + "/model.safetensors", copy.file("model.safetensors"), fs::copy_options::overwrite_existing);
  }
  copy.edit_tensors([&](json& header) {
    json renamed;
    for (auto& [name, tensor] : header.items()) {
      std::string key = name;
      if (key.rfind("model.language_model.", 0) == 0) key = "model." + key.substr(21);
      else if (key.rfind("model.multi_modal_projector.linear_1", 0) == 0) key = "model.mm_projector.0" + key.substr(36);
      else if (key.rfind("model.multi_modal_projector.linear_2", 0) == 0) key = "model.mm_projector.2" + key.substr(36);
      else if (key.rfind("model.vision_tower.", 0) == 0) key = (tower_apart ? "unused." : "model.vision_tower.vision_tower.vision_model.") + key.substr(key.rfind("model.vision_tower.vision_model.", 0) == 0 ? 32 : 19);
      renamed[key] = tensor;
    }
    header = renamed;
  });
}

// One picture and some text through the model.
std::vector<float> picture_logits(const std::string& path) {
  auto model = load(exact_options(path));
  if (!model) return {};
  const Golden golden("llava-clip-new");
  const auto rgb = golden.values<uint8_t>("image0");
  const auto shape = golden.shape("image0");
  auto prepared = model->prepare_image({static_cast<int>(shape[1]), static_cast<int>(shape[0]), rgb});
  EXPECT_TRUE(prepared.is_ok()) << prepared.status().message();
  auto rows = model->encode_image(**prepared);
  EXPECT_TRUE(rows.is_ok());
  Sequence sequence(*model, 0);
  int row = 0;
  for (const int32_t id : golden.values<int32_t>("one.ids")) {
    sequence.ids.push_back(id == 150 ? rows->first_row + row++ : id);
    sequence.source.push_back(id == 150 ? 2 : 0);
  }
  return prefill(*model, sequence, 64);
}

TEST(OlderNames, OriginalLlavaLayout) {
  for (const bool apart : {false, true}) {
    const Copy copy("llava-clip-new");
    to_original_layout(copy, apart);
    EXPECT_LE(distance(picture_logits(copy.path()), Golden("llava-clip-new").values<float>("one.logits")), 1e-4) << apart;
  }
  const Copy copy("llava-clip-new");
  to_original_layout(copy, false);
  fs::remove_all(copy.file("vision_tower"));
  EXPECT_HAS(load_error(copy.path()), "openai/clip-vit-large-patch14-336");
}

// Qwen2.5-VL as first published: the language model's keys at the top of config.json.
TEST(OlderConfigs, QwenVlWithFlatText) {
  const Copy copy("qwen2.5-vl");
  copy.edit([](json& config) {
    json flat = config["text_config"];
    flat.update(config);
    flat.erase("text_config");
    json rope = flat["rope_parameters"];
    flat.erase("rope_parameters");
    flat["rope_theta"] = rope["rope_theta"];
    flat["rope_scaling"] = {{"type", "mrope"}, {"mrope_section", rope["mrope_section"]}};
    flat["model_type"] = "qwen2_5_vl";
    config = flat;
  });
  EXPECT_LE(distance(vision_logits(copy.path(), "qwen2.5-vl"), Golden("qwen2.5-vl").values<float>("none.logits")), 1e-4);
}

TEST(Info, GenerationDefaultsAndTokens) {
  const Copy copy("llama-mha");
  copy.edit([](json& c) { c = {{"eos_token_id", {2, 7, 9}}, {"temperature", 0.6}, {"top_p", 0.9}, {"top_k", 20}, {"repetition_penalty", 1.05}}; }, "generation_config.json");
  auto model = load(exact_options(copy.path()));
  ASSERT_TRUE(model);
  const ModelInfo& info = model->info();
  EXPECT_EQ(info.end_tokens, (std::vector<int32_t>{2, 7, 9}));
  EXPECT_EQ(info.bos_token, 1);
  EXPECT_FLOAT_EQ(*info.sampling.temperature, 0.6f);
  EXPECT_EQ(info.sampling.top_k, 20);
  EXPECT_FALSE(info.sampling.min_p);
  EXPECT_EQ(info.parameters, 288 * 64 * 2 + 64 + 2 * (4 * 64 * 64 + 3 * 64 * 160 + 2 * 64));
  const std::pair<const char*, json> wrong[] = {{"temperature", "hot"}, {"temperature", -1}, {"top_p", 1.5}, {"min_p", -0.1},
                                                {"top_k", -1}, {"repetition_penalty", 0}};
  for (const auto& [key, value] : wrong) {
    copy.edit([&](json& c) { c = {{key, value}}; }, "generation_config.json");
    EXPECT_HAS(load_error(copy.path()), key);
  }
}

TEST(Info, FingerprintFollowsTheWeights) {
  auto one = load(exact_options(checkpoint_path("llama-mha")));
  auto same = load(exact_options(checkpoint_path("llama-mha")));
  auto other = load(exact_options(checkpoint_path("llama-gqa-tied")));
  ASSERT_TRUE(one && same && other);
  EXPECT_EQ(one->info().fingerprint, same->info().fingerprint);
  EXPECT_NE(one->info().fingerprint, other->info().fingerprint);
}

// ---- Shapes ------------------------------------------------------------------------------------------------------------

TEST(Shapes, EveryConfigurationIsUnderstood) {
  Precision any;
  for (const char* name : {"tiny", "tiny-vila"}) {
    const auto shape = open_shape(name, any, any, 0);
    ASSERT_TRUE(shape.is_ok()) << name << ": " << shape.status().message();
    EXPECT_TRUE(read_model_spec(**shape).is_ok());
  }
  EXPECT_GE(shape_names().size(), 20u);
  const auto unknown = open_shape("llama-9b", any, any, 0);
  ASSERT_FALSE(unknown.is_ok());
  EXPECT_HAS(unknown.status().message(), "llama-2-7b");
}

TEST(Shapes, RandomModelsRunInEveryPrecision) {
  for (const char* precision : {"f32", "f16", "bf16", "w4a32", "w4a8", "w8a8"}) {
    LoadOptions options = exact_options("");
    options.shape = "tiny";
    options.precision = precision;
    options.seed = 7;
    std::vector<float> first;
    for (int run = 0; run < 2; run++) {  // the same seed gives the same model
      auto model = load(options);
      ASSERT_TRUE(model) << precision;
      EXPECT_EQ(model->info().precision, precision);
      Sequence sequence(*model, 0);
      for (int i = 0; i < 40; i++) sequence.ids.push_back(i * 11 % 512);
      const std::vector<float> logits = prefill(*model, sequence, 40);
      double sum = 0;
      for (const float value : logits) sum += std::fabs(value);
      EXPECT_TRUE(std::isfinite(sum));
      EXPECT_GT(sum, 0);
      if (run == 0) first = logits;
      else EXPECT_EQ(logits, first) << precision;
    }
  }
}

TEST(Shapes, RandomVisionModelTakesImages) {
  LoadOptions options = exact_options("");
  options.shape = "tiny-vila";
  options.precision = "w4a8";
  auto model = load(options);
  ASSERT_TRUE(model);
  ASSERT_TRUE(model->info().vision);
  EXPECT_EQ(model->info().vision->tokens_per_image, 9);
  const std::vector<uint8_t> rgb(50 * 40 * 3, 90);
  auto prepared = model->prepare_image({50, 40, rgb});
  ASSERT_TRUE(prepared.is_ok());
  auto rows = model->encode_image(**prepared);
  ASSERT_TRUE(rows.is_ok()) << rows.status().message();
  EXPECT_EQ(rows->count, 9);
}

// ---- Steps that must be refused ------------------------------------------------------------------------------------------

TEST(Steps, BadInputIsRefusedAndHarmless) {
  auto model = load(exact_options(checkpoint_path("llama-mha")));
  ASSERT_TRUE(model);
  Sequence sequence(*model, 0);
  sequence.ids = Golden("llama-mha").values<int32_t>("ids");
  const SequenceRows good = sequence.rows(4);
  const int32_t last[] = {3};
  auto refused = [&](const std::function<void(SequenceRows&)>& change, std::span<const int32_t> logits) {
    SequenceRows rows = good;
    change(rows);
    return !model->forward({std::span(&rows, 1), logits}).is_ok();
  };
  const std::vector<int32_t> foreign = {0, 1, 2, 288}, image = {2, 2, 2, 2}, far = {1 << 20};
  const int32_t beyond[] = {4}, unordered[] = {2, 1};
  EXPECT_TRUE(refused([](SequenceRows& r) { r.slot = 4; }, last));
  EXPECT_TRUE(refused([](SequenceRows& r) { r.slot = -1; }, last));
  EXPECT_TRUE(refused([](SequenceRows& r) { r.start = 253; }, last));
  EXPECT_TRUE(refused([](SequenceRows& r) { r.start = -1; }, last));
  EXPECT_TRUE(refused([](SequenceRows& r) { r.blocks = {}; }, last));
  EXPECT_TRUE(refused([&](SequenceRows& r) { r.blocks = far; }, last));
  EXPECT_TRUE(refused([&](SequenceRows& r) { r.ids = foreign; }, last));
  EXPECT_TRUE(refused([&](SequenceRows& r) { r.source = image; }, last));
  EXPECT_TRUE(refused([](SequenceRows& r) { r.count = 3; }, last));
  EXPECT_TRUE(refused([](SequenceRows&) {}, beyond));
  EXPECT_TRUE(refused([](SequenceRows&) {}, unordered));
  EXPECT_FALSE(model->forward({{}, {}}).is_ok());
  EXPECT_FALSE(refused([](SequenceRows&) {}, last));
  const std::vector<uint8_t> rgb(3, 0);
  EXPECT_FALSE(model->prepare_image({1, 1, rgb}).is_ok());
  EXPECT_FALSE(model->image_layout(1, 1).is_ok());
}

}  // namespace
}  // namespace hearth::model
