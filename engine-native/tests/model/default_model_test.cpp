// The model that ships, on the cases that its training script captured with transformers: logits after the prompt and
// the greedy reply, with and without pictures, in FP32 arithmetic and in the forms people run.
#include <fstream>
#include <nlohmann/json.hpp>

#include "model/support.h"

namespace hearth::model {
namespace {

using nlohmann::json;

std::string shipped(const std::string& name) { return std::string(HEARTH_SOURCE_DIR) + "/models/" + name; }
std::string reference(const std::string& name) { return std::string(HEARTH_SOURCE_DIR) + "/test/fixtures/default-model/" + name; }

class DefaultModel : public testing::Test {
 protected:
  DefaultModel() : pictures_("default-model"), cases_(json::parse(std::ifstream(reference("reference.json")))["cases"]) {
    EXPECT_TRUE(formats::add_safetensors(captured_, reference("reference.safetensors")).is_ok());
  }
  template <class T>
  std::vector<T> captured(const std::string& name) const {
    const formats::TensorView* view = captured_.find(name);
    EXPECT_NE(view, nullptr) << name;
    std::vector<T> out(view ? view->data.size() / sizeof(T) : 0);
    if (view) std::memcpy(out.data(), view->data.data(), view->data.size());
    return out;
  }
  static std::vector<std::string> pictures_of(const json& entry) {
    std::vector<std::string> files;
    for (const json& message : entry["messages"]) {
      if (!message["content"].is_array()) continue;
      for (const json& part : message["content"]) {
        if (part["type"] == "image") files.push_back(part["image"]);
      }
    }
    return files;
  }
  // The prompt of a case with its pictures' rows in place of the placeholders.
  void fill(Model& model, const json& entry, Sequence& sequence, std::vector<ImageRows>& images) const {
    const int placeholder = model.info().vision->placeholder_id;
    for (const std::string& file : pictures_of(entry)) {
      const std::vector<uint8_t> rgb = pictures_.values<uint8_t>(file);
      const auto shape = pictures_.shape(file);
      auto prepared = model.prepare_image({static_cast<int>(shape[1]), static_cast<int>(shape[0]), rgb});
      ASSERT_TRUE(prepared.is_ok()) << prepared.status().message();
      auto rows = model.encode_image(**prepared);
      ASSERT_TRUE(rows.is_ok()) << rows.status().message();
      images.push_back(*rows);
    }
    size_t image = 0;
    int row = 0;
    for (const int32_t id : captured<int32_t>(entry["name"].get<std::string>() + ".input_ids")) {
      const bool placed = id == placeholder;
      sequence.ids.push_back(placed ? images.at(image).first_row + row++ : id);
      sequence.source.push_back(placed ? 2 : 0);
      if (placed && row == images[image].count) image++, row = 0;
    }
    EXPECT_EQ(image, images.size());
  }
  // Distance of the logits after the prompt, and how many greedy tokens agree before the first that does not.
  struct Outcome { double distance; size_t same, of; };
  Outcome run(Model& model, const json& entry) const {
    Sequence sequence(model, 1);
    std::vector<ImageRows> images;
    fill(model, entry, sequence, images);
    const auto vocabulary = static_cast<size_t>(model.info().vocabulary);
    const std::vector<float> logits = prefill(model, sequence, 96);
    const auto expected = entry["greedy_ids"].get<std::vector<int32_t>>();
    Outcome outcome{distance(std::span(logits).last(vocabulary), captured<float>(entry["name"].get<std::string>() + ".logits")), 0, expected.size()};
    sequence.done--;  // the last row again, for the reply
    outcome.same = greedy_matches(model, sequence, expected);
    for (const ImageRows& rows : images) model.release_image(rows);
    return outcome;
  }

  Golden pictures_;
  json cases_;
  formats::TensorStore captured_;
};

TEST_F(DefaultModel, LogitsAndRepliesEqualTransformers) {
  auto model = load(exact_options(shipped("hearth-tiny-vl")));
  ASSERT_TRUE(model);
  ASSERT_GE(cases_.size(), 10u);
  for (const json& entry : cases_) {
    const Outcome outcome = run(*model, entry);
    EXPECT_LE(outcome.distance, tolerance) << entry["name"];
    EXPECT_EQ(outcome.same, outcome.of) << entry["name"];
  }
}

// As it is served: FP16 weights and KV, and the 4-bit twin. Replies are short; nearly all stay the same.
TEST_F(DefaultModel, ServedFormsReplyAlike) {
  struct Case { const char* name; const char* kv; double least; };
  for (const Case& c : {Case{"hearth-tiny-vl", "auto", 0.95}, Case{"hearth-tiny-vl", "int8", 0.85}, Case{"hearth-tiny-vl-awq", "auto", 0.7}}) {
    LoadOptions options = exact_options(shipped(c.name));
    options.precision = "auto";
    options.kv = c.kv;
    auto model = load(options);
    ASSERT_TRUE(model);
    size_t same = 0, of = 0;
    for (const json& entry : cases_) {
      const Outcome outcome = run(*model, entry);
      same += outcome.same;
      of += outcome.of;
    }
    std::printf("  %s kv %s (%s): %zu of %zu tokens\n", c.name, c.kv, model->info().precision.c_str(), same, of);
    EXPECT_GE(static_cast<double>(same), c.least * static_cast<double>(of)) << c.name << " " << c.kv;
  }
}

}  // namespace
}  // namespace hearth::model
