// The file in which tuning results are kept: what is damaged or foreign is told apart and never used. Needs no GPU.
#include <gtest/gtest.h>

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "kernels/cuda/host/tuning_table.h"

namespace hearth {
namespace {

using namespace kernels::cuda;

ops::LinearSpec shape(int in, int out) {
  ops::LinearSpec s;
  s.in = in; s.out = out; s.group = 128; s.weight = ops::WeightFormat::w4;
  s.x_type = s.y_type = DType::f16;
  return s;
}
TuningTable sample() {
  TuningTable table;
  table.set(TuningTable::key(shape(4096, 12288), 16), {LinearPath::cluster, 1, 2, 9.5f});
  table.set(TuningTable::key(shape(4096, 12288), 128), {LinearPath::prefill, 0, 0, 40.253117f});
  table.set(TuningTable::key(shape(11008, 4096), 4), {LinearPath::rows, 0, 0, 7.0f});
  return table;
}

TEST(TuningTable, RowsTakeTheNextLargerChoice) {
  const TuningTable table = sample();
  for (int rows : {9, 12, 16}) {
    const LinearChoice* choice = table.find(shape(4096, 12288), rows);
    ASSERT_NE(choice, nullptr) << rows;
    EXPECT_EQ(choice->split, 2);
  }
  EXPECT_EQ(table.find(shape(4096, 12288), 17), nullptr);    // 32 was not tuned
  EXPECT_EQ(table.find(shape(4096, 12288), 3), nullptr);     // below the pass
  EXPECT_EQ(table.find(shape(4096, 12288), 1000), nullptr);  // above it
  EXPECT_EQ(table.find(shape(4096, 12289), 16), nullptr);
  ops::LinearSpec gated = shape(4096, 12288);
  gated.gated = true;
  EXPECT_EQ(table.find(gated, 16), nullptr);
}

TEST(TuningTable, TextReadsBackTheSame) {
  const TuningTable table = sample();
  auto back = TuningTable::parse(table.text("card one"), "card one");
  ASSERT_TRUE(back) << back.status().message();
  EXPECT_EQ(back->size(), table.size());
  EXPECT_EQ(*back->find(shape(4096, 12288), 128), *table.find(shape(4096, 12288), 128));
  EXPECT_EQ(back->text("card one"), table.text("card one"));
}

TEST(TuningTable, EveryDamagedByteIsNoticed) {
  const std::string text = sample().text("card one");
  for (size_t i = 0; i < text.size(); ++i) {
    std::string damaged = text;
    damaged[i] = static_cast<char>(damaged[i] ^ 4);
    EXPECT_FALSE(TuningTable::parse(damaged, "card one")) << "byte " << i;
  }
  for (size_t length = 0; length < text.size(); ++length) EXPECT_FALSE(TuningTable::parse(text.substr(0, length), "card one")) << length;
  EXPECT_FALSE(TuningTable::parse(text + text, "card one"));
  EXPECT_EQ(TuningTable::parse("", "card one").status().code(), Code::corrupt);
}

TEST(TuningTable, AnotherDeviceIsRefusedByName) {
  auto other = TuningTable::parse(sample().text("card one"), "card two");
  ASSERT_FALSE(other);
  EXPECT_EQ(other.status().code(), Code::unsupported);
  EXPECT_NE(other.status().message().find("card one"), std::string::npos);
}

TEST(TuningTable, FilesAreWrittenWholeOrNotAtAll) {
  const auto folder = std::filesystem::temp_directory_path() / ("hearth-tuning-" + std::to_string(::getpid()));
  const std::string path = (folder / "sub" / "card.txt").string();
  EXPECT_EQ(read_tuning(path, "card one").status().code(), Code::not_found);
  ASSERT_TRUE(write_tuning(path, "card one", sample()));
  auto back = read_tuning(path, "card one");
  ASSERT_TRUE(back) << back.status().message();
  EXPECT_EQ(back->size(), 3u);
  EXPECT_FALSE(std::filesystem::exists(path + ".new"));
  std::ofstream(folder / "file") << "in the way";
  EXPECT_EQ(write_tuning((folder / "file" / "card.txt").string(), "card one", sample()).code(), Code::io);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace hearth
