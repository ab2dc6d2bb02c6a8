// Preprocessing against the reference: Pillow's filters to the bit, and the processors of transformers on twenty
// photographs (goldens made by scripts/golden/capture.py).
#include <cmath>

#include "model/support.h"
#include "vision/processor.h"
#include "vision/resample.h"

namespace hearth::vision {
namespace {

using model::Golden;
using nlohmann::json;

Pixels pixels_of(const Golden& golden, const std::string& name, std::vector<uint8_t>& storage) {
  storage = golden.values<uint8_t>(name);
  const auto shape = golden.shape(name);
  return {static_cast<int>(shape[1]), static_cast<int>(shape[0]), storage};
}

uint32_t crc32(std::span<const uint8_t> bytes) {
  uint32_t crc = 0xffffffffu;
  for (const uint8_t byte : bytes) {
    crc ^= byte;
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
  }
  return ~crc;
}

TEST(Resample, EqualsPillowToTheBit) {
  const Golden golden("resample");
  struct Case { const char* name; Filter filter; };
  int checked = 0;
  for (int i = 0; i < 10; i++) {
    std::vector<uint8_t> storage;
    const Pixels from = pixels_of(golden, "in" + std::to_string(i), storage);
    for (const Case& c : {Case{"bilinear", Filter::bilinear}, Case{"bicubic", Filter::bicubic}, Case{"lanczos", Filter::lanczos}}) {
      const std::string name = c.name + std::to_string(i);
      if (!golden.has(name)) continue;
      const auto shape = golden.shape(name);
      const Image out = resize(from.rgb, from.width, from.height, static_cast<int>(shape[1]), static_cast<int>(shape[0]), c.filter);
      EXPECT_EQ(out.rgb, golden.values<uint8_t>(name)) << name;
      checked++;
    }
  }
  EXPECT_EQ(checked, 28);
}

constexpr float clip_mean[3] = {0.48145466f, 0.4578275f, 0.40821073f}, clip_std[3] = {0.26862954f, 0.26130258f, 0.27577711f};
constexpr float half[3] = {0.5f, 0.5f, 0.5f};

ProcessorSpec spec_of(const std::string& kind) {
  ProcessorSpec spec;
  const json empty = json::object();
  const bool siglip = kind == "siglip" || kind == "vila" || kind == "qwen3";
  EXPECT_TRUE(read_normalisation(model::Config(empty, "test"), siglip ? half : clip_mean, siglip ? half : clip_std, spec).is_ok());
  spec.width = spec.height = siglip ? 384 : 336;
  spec.shortest_edge = 336;
  spec.resize = siglip ? ProcessorSpec::Resize::exact : ProcessorSpec::Resize::shortest_edge;
  spec.pad_square = kind == "pad" || kind == "llava";
  if (kind == "qwen" || kind == "qwen3") {
    spec.resize = ProcessorSpec::Resize::smart;
    spec.factor = kind == "qwen" ? 28 : 32;
    spec.pixels_min = 4 * spec.factor * spec.factor;
    spec.pixels_max = 300 * spec.factor * spec.factor;
  }
  return spec;
}

class Processor : public testing::TestWithParam<const char*> {};

TEST_P(Processor, TwentyPhotographs) {
  const Golden photographs("preprocess");
  const std::string kind = GetParam();
  const bool more = kind == "qwen3" || kind == "vila" || kind == "llava";
  const Golden golden(more ? "preprocess-more" : "preprocess");
  const ProcessorSpec spec = spec_of(kind);
  for (int i = 0; i < 20; i++) {
    std::vector<uint8_t> storage;
    const Pixels from = pixels_of(photographs, "photo" + std::to_string(i), storage);
    const auto out = process(spec, from);
    ASSERT_TRUE(out.is_ok()) << out.status().message();
    const auto head = golden.values<int32_t>(kind + std::to_string(i));
    ASSERT_EQ(out->height, head[0]) << i;
    ASSERT_EQ(out->width, head[1]) << i;
    EXPECT_EQ(static_cast<int64_t>(crc32(out->rgb)) - (int64_t{1} << 31), head[2]) << kind << " of photo " << i << " of " << from.width << "x" << from.height;
    const auto values = golden.values<float>(kind + std::to_string(i) + ".values");
    for (size_t k = 0; k < values.size(); k++) {
      const size_t at = k * 679;
      ASSERT_NEAR(spec.table[at % 3][out->rgb[at]], values[k], 1e-6) << k;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Processor, testing::Values("clip", "pad", "siglip", "qwen", "qwen3", "vila", "llava"), [](const auto& info) { return info.param; });

TEST(SmartResize, EqualsTheReference) {
  const Golden golden("smart-resize");
  const auto rows = golden.values<int32_t>("rows");
  ASSERT_EQ(rows.size() % 7, 0u);
  for (size_t i = 0; i < rows.size(); i += 7) {
    const auto size = smart_resize(rows[i + 4], rows[i + 3], rows[i], rows[i + 1], rows[i + 2]);
    if (rows[i + 5] < 0) {
      EXPECT_FALSE(size.is_ok()) << rows[i + 4] << "x" << rows[i + 3];
      continue;
    }
    ASSERT_TRUE(size.is_ok());
    EXPECT_EQ(size->height, rows[i + 5]) << rows[i + 4] << "x" << rows[i + 3];
    EXPECT_EQ(size->width, rows[i + 6]) << rows[i + 4] << "x" << rows[i + 3];
  }
}

// One pixel, one row, one column: every processor answers with an image of its size or with an error, never worse.
TEST(Processor, ExtremeShapes) {
  for (const char* kind : {"clip", "pad", "siglip", "qwen"}) {
    const ProcessorSpec spec = spec_of(kind);
    for (const auto& [width, height] : {std::pair{1, 1}, {1, 65535}, {65535, 1}, {2, 399}, {3000, 20}, {17, 1}}) {
      const std::vector<uint8_t> rgb(static_cast<size_t>(width) * static_cast<size_t>(height) * 3, 200);
      const auto out = process(spec, {width, height, rgb});
      if (!out) continue;
      EXPECT_GT(out->width * out->height, 0) << kind;
      EXPECT_EQ(out->rgb.size(), static_cast<size_t>(out->width) * static_cast<size_t>(out->height) * 3);
      if (spec.pad_square) continue;
      EXPECT_EQ(out->rgb[out->rgb.size() / 2], 200) << kind << " " << width << "x" << height;  // a flat image stays flat
    }
  }
}

}  // namespace
}  // namespace hearth::vision
