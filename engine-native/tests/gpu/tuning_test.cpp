// The tuning pass on the GPU: measures once, keeps its results, reads them, and measures again when they are damaged.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/host/tuning_table.h"
#include "support.h"

namespace hearth::gpu_test {
namespace {

using namespace ops;
using kernels::cuda::tune_linears;
using kernels::cuda::tuning_table;

class Tuning : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("hearth-tune-" + std::to_string(::getpid()));
    ::setenv("HEARTH_TUNING_CACHE", folder_.c_str(), 1);
    ::setenv("HEARTH_TUNING", "on", 1);
    tuning_table().clear();
    spec_.in = 512; spec_.out = 1000; spec_.weight = WeightFormat::w4; spec_.group = 128;
    spec_.x_type = DType::f32; spec_.y_type = DType::f16; spec_.norm = NormKind::rms; spec_.norm_epsilon = 1e-5f;
    weights_ = std::make_unique<Array>(DType::u8, kernels::cuda::linear_implementations()[0]->packed_bytes(spec_));
    weights_->zero();
  }
  void TearDown() override {
    tuning_table().clear();
    ::unsetenv("HEARTH_TUNING_CACHE");
    ::unsetenv("HEARTH_TUNING");
    std::filesystem::remove_all(folder_);
  }
  // Shapes measured by one pass.
  int tune(int max_rows) {
    const TuneRequest request{spec_, {weights_->device(), weights_->device()}};
    int measured = 0;
    const Status s = tune_linears(gpu(), {&request, 1}, max_rows, [&](double, double total) { measured = static_cast<int>(total); });
    EXPECT_TRUE(s) << s.message();
    return measured;
  }
  std::filesystem::path file() const {
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) return entry.path();
    return {};
  }

  std::filesystem::path folder_;
  LinearSpec spec_;
  std::unique_ptr<Array> weights_;
};

TEST_F(Tuning, MeasuresOnceAndReadsLater) {
  EXPECT_EQ(tune(64), 5);  // 4, 8, 16, 32, 64
  for (int rows : {4, 8, 16, 32, 64}) {
    const auto* choice = tuning_table().find(spec_, rows);
    ASSERT_NE(choice, nullptr) << rows;
    EXPECT_GT(choice->microseconds, 0);
  }
  EXPECT_EQ(tune(64), 0);
  const auto before = *tuning_table().find(spec_, 32);
  tuning_table().clear();  // as in a new process
  EXPECT_EQ(tune(64), 0);
  EXPECT_EQ(*tuning_table().find(spec_, 32), before);
  EXPECT_EQ(tune(128), 1);  // only what is new
}

TEST_F(Tuning, DamagedAndForeignFilesAreMeasuredAgain) {
  ASSERT_EQ(tune(16), 3);
  const auto path = file();
  std::string text;
  { std::ifstream in(path); text.assign(std::istreambuf_iterator<char>(in), {}); }
  for (const std::string& bad : {std::string(), std::string("nonsense\n"), text.substr(0, text.size() / 2), "x" + text}) {
    std::ofstream(path, std::ios::trunc) << bad;
    tuning_table().clear();
    EXPECT_EQ(tune(16), 3);
    tuning_table().clear();
    EXPECT_EQ(tune(16), 0) << "the file was not mended";
  }
}

TEST_F(Tuning, DoctorSaysWhatIsKept) {
  using kernels::cuda::describe_tuning;
  EXPECT_NE(describe_tuning(gpu()).find("nothing measured yet"), std::string::npos);
  ASSERT_EQ(tune(16), 3);
  EXPECT_EQ(describe_tuning(gpu()), "on; 3 results in " + file().string());
  std::ofstream(file(), std::ios::trunc) << "nonsense\n";
  EXPECT_NE(describe_tuning(gpu()).find("is not used"), std::string::npos);
  ::setenv("HEARTH_TUNING", "off", 1);
  EXPECT_EQ(describe_tuning(gpu()), "off (HEARTH_TUNING=off)");
}

TEST_F(Tuning, OnWhereWholeStepsWereNotMeasured) {
  ::setenv("HEARTH_TUNING", "off", 1);
  EXPECT_EQ(tune(16), 0);
  EXPECT_EQ(tuning_table().size(), 0u);
  ::unsetenv("HEARTH_TUNING");
  EXPECT_EQ(tune(16), gpu().info().profile.name == "h200" ? 0 : 3);
}

}  // namespace
}  // namespace hearth::gpu_test
