// What `hearth quantize` costs at a named shape, without a checkpoint:
//   bench-quantize layer SHAPE [TOKENS] [SEARCH_TOKENS] [OUTPUTS] [THREADS] [DEVICE]   seconds of each part of one layer, and memory
//   bench-quantize write SHAPE DIR                                           the shape as a folder (no tokenizer)
//   bench-quantize run DIR OUT TEXT [METHOD] [GROUP] [THREADS] [DEVICE]      `hearth quantize` of a folder: seconds, and memory
//   bench-quantize convert DIR OUT TARGET [PRECISION]                        `hearth convert`, and what writing as many bytes takes
//   bench-quantize pack SHAPE OUT TARGET PRECISION                           a converted folder of random weights
//   bench-quantize load DIR DEVICE [PRECISION]                               a model's load, and what reading its files takes, both cold
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "formats/safetensors_writer.h"
#include "model/model.h"
#include "model/model_spec.h"
#include "model/shapes.h"
#include "quantize/awq.h"
#include "quantize/convert.h"
#include "quantize/quantize.h"

namespace {

using namespace hearth;
using Time = std::chrono::steady_clock;

double since(Time::time_point begin) { return std::chrono::duration<double>(Time::now() - begin).count(); }

int fail(const Status& status) {
  std::fprintf(stderr, "%s\n", status.message().c_str());
  return 1;
}

double peak_gib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1048576;
}

// Of all threads: what a loaded machine makes of it is in the elapsed time.
double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) + 1e-6 * static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

Result<std::unique_ptr<quantize::Math>> open_math(const std::string& device, int threads) {
  if (device != "cuda") return quantize::make_cpu_math(threads);
  HEARTH_ASSIGN(auto gpu, device::open_cuda_device(0, "", false));
  return quantize::make_cuda_math(std::move(gpu), threads);
}

int run_layer(const formats::Checkpoint& checkpoint, const model::DecoderSpec& spec, int64_t tokens, int64_t search, int64_t outputs, int threads, const std::string& device) {
  const auto opened = open_math(device, threads);
  if (!opened) return fail(opened.status());
  quantize::Math& math = **opened;
  quantize::BlockRunner runner(spec, math);
  auto block = quantize::read_block(checkpoint, spec, 0, math);
  if (!block) return fail(block.status());
  const quantize::Tokens rows{tokens / 512, 512};
  quantize::Array x(rows.rows(), spec.width);
  std::mt19937 random(1);
  for (float& value : x.host) value = static_cast<float>(random() >> 8) / 8388608.0f - 1.0f;
  x = math.upload(std::move(x));
  quantize::Capture capture;
  quantize::Array again = x;
  runner.forward(*block, rows, again, &capture);  // loads kernels, touches memory
  if (const Status ready = math.check(); !ready) return fail(ready);
  auto begin = Time::now();
  runner.forward(*block, rows, x, &capture);
  if (const Status done = math.check(); !done) return fail(done);
  const double forward = since(begin);
  double seconds[2];
  for (const bool scale : {true, false}) {
    quantize::AwqOptions options{.group = 128, .scale = scale, .clip = !scale, .compensate = !scale, .search_rows = search, .search_outputs = outputs};
    begin = Time::now();
    quantize::search_awq(runner, *block, rows, capture, options);
    if (const Status done = math.check(); !done) return fail(done);
    seconds[scale ? 0 : 1] = since(begin);
  }
  const double layer = forward + seconds[0] + seconds[1];
  std::printf("%lld tokens, %lld searched, %d threads: forward %.2f s, scales %.2f s, rounding %.2f s; a layer %.2f s, %zu layers %.0f s; peak %.2f GiB\n",
              static_cast<long long>(rows.rows()), static_cast<long long>(search), threads, forward, seconds[0], seconds[1], layer,
              spec.layers.size(), layer * static_cast<double>(spec.layers.size()), peak_gib());
  return 0;
}

int run_folder(const quantize::QuantizeOptions& options) {
  const auto begin = Time::now();
  const auto report = quantize::quantize(options, [&](const quantize::ProgressReport& r) {
    std::printf("%s %.2f of %.0f after %.1f s, peak %.2f GiB\n", r.stage.c_str(), r.done, r.total, since(begin), peak_gib());
    std::fflush(stdout);
    return true;
  });
  if (!report) return fail(report.status());
  std::printf("%s, group %d, %d tokens, %s: %.1f s (%.1f s of CPU), peak %.2f GiB\n", options.method.c_str(), options.group, options.tokens,
              (*report)["device"].get<std::string>().c_str(), since(begin), cpu_seconds(), peak_gib());
  return 0;
}

std::vector<std::string> weight_files(const std::string& folder) {
  std::vector<std::string> files;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path().string());
  }
  return files;
}

// The same, out of the page cache.
std::vector<std::string> cold_files(const std::string& folder) {
  std::vector<std::string> files = weight_files(folder);
  for (const std::string& path : files) {
    const int file = ::open(path.c_str(), O_RDONLY);
    if (file < 0) continue;
    ::fsync(file);
    ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    ::close(file);
  }
  return files;
}

double read_seconds(const std::string& folder, double& bytes, bool cold = true) {
  std::vector<std::string> files = cold ? cold_files(folder) : weight_files(folder);
  std::vector<char> block(size_t{8} << 20);
  const auto begin = Time::now();
  for (const std::string& path : files) {
    const int file = ::open(path.c_str(), O_RDONLY);
    for (ssize_t got; (got = ::read(file, block.data(), block.size())) > 0;) bytes += static_cast<double>(got);
    ::close(file);
  }
  return since(begin);
}

// When each stage of a load began, as its progress tells.
struct Stages {
  Time::time_point begin = Time::now();
  std::vector<std::pair<std::string, double>> seen;
  static bool note(void* context, const char* stage, double, double) {
    auto& stages = *static_cast<Stages*>(context);
    if (stages.seen.empty() || stages.seen.back().first != stage) stages.seen.emplace_back(stage, since(stages.begin));
    return true;
  }
  std::string text() const {
    std::string all;
    for (const auto& [stage, at] : seen) all += (all.empty() ? "" : ", ") + stage + " at " + std::to_string(at).substr(0, 5);
    return all;
  }
};

// Seconds of one load.
Result<double> load_once(const model::LoadOptions& options, device::Device& device, std::string& stages) {
  Stages watch;
  const auto begin = Time::now();
  HEARTH_TRY(model::Model::load(options, device, &Stages::note, &watch).status());
  const double seconds = since(begin);
  stages = watch.text();
  return seconds;
}

// Cold: the files are not in the page cache. Warm: they have just been read.
int run_load(const std::string& folder, const std::string& kind, const std::string& precision) {
  auto device = kind == "cuda" ? device::open_cuda_device(0, "", false) : device::open_cpu_device(0);
  if (!device) return fail(device.status());
  model::LoadOptions options;
  options.path = folder;
  options.precision = precision;
  options.context = 512;
  for (int turn = 0; turn < 3; turn++) {
    for (const bool cold : {true, false}) {
      double bytes = 0, none = 0;
      if (!cold) read_seconds(folder, none, false);
      const double read = read_seconds(folder, bytes, cold);
      if (cold) cold_files(folder);
      std::string stages;
      const Result<double> seconds = load_once(options, **device, stages);
      if (!seconds) return fail(seconds.status());
      std::printf("%.2f GB %s: read %.3f s (%.2f GB/s), loaded %.3f s (%.2f times; %s); peak %.2f GiB\n", bytes / 1e9, cold ? "cold" : "warm", read,
                  bytes / 1e9 / read, *seconds, *seconds / read, stages.c_str(), peak_gib());
    }
  }
  return 0;
}

// Writing as many bytes, with the sync that a conversion ends with.
double write_seconds(const std::string& path, double bytes) {
  const std::vector<char> block(size_t{8} << 20, 'x');
  const auto begin = Time::now();
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  for (double done = 0; done < bytes; done += static_cast<double>(block.size())) {
    if (::write(file, block.data(), block.size()) < 0) break;
  }
  ::fsync(file);
  ::close(file);
  const double seconds = since(begin);
  ::unlink(path.c_str());
  return seconds;
}

int run_convert(const quantize::ConvertOptions& options) {
  double bytes = 0;
  const double read = read_seconds(options.path, bytes);
  cold_files(options.path);
  const auto begin = Time::now();
  const auto report = quantize::convert(options, nullptr);
  if (!report) return fail(report.status());
  const double seconds = since(begin), written = (*report)["bytes"].get<double>(), write = write_seconds(options.out + ".blank", written);
  std::printf("%s: %.2f GB read and %.2f GB written in %.2f s (%.2f s of CPU); reading alone %.2f s, writing alone %.2f s; peak %.2f GiB\n", options.target.c_str(), bytes / 1e9, written / 1e9,
              seconds, cpu_seconds(), read, write, peak_gib());
  return 0;
}

Status write_folder(const formats::Checkpoint& checkpoint, const model::DecoderSpec& spec, const std::string& folder) {
  formats::SafetensorsWriter writer;
  const auto add_linear = [&](const std::string& module, int64_t out, int64_t in) {
    writer.add(module + ".weight", DType::f16, {out, in}, [&checkpoint, module]() -> Result<std::vector<std::byte>> {
      HEARTH_ASSIGN(formats::LinearData linear, checkpoint.linear(module));
      if (linear.host.format == ops::WeightFormat::f16 && linear.host.data == linear.owned.data()) return std::move(linear.owned);
      return formats::to_half_bytes(formats::dequantize(linear.host));
    });
  };
  const auto add_floats = [&](const std::string& name, std::vector<int64_t> shape) {
    writer.add(name, DType::f16, shape, [&checkpoint, name, shape]() -> Result<std::vector<std::byte>> {
      HEARTH_ASSIGN(const std::vector<float> values, checkpoint.floats(name, shape));
      return formats::to_half_bytes(values);
    });
  };
  const int64_t width = spec.width, q = int64_t{spec.heads} * spec.head_dim, kv = int64_t{spec.kv_heads} * spec.head_dim;
  add_floats("model.embed_tokens.weight", {spec.vocabulary, width});
  for (size_t i = 0; i < spec.layers.size(); i++) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    add_linear(layer + "self_attn.q_proj", q, width);
    add_linear(layer + "self_attn.k_proj", kv, width);
    add_linear(layer + "self_attn.v_proj", kv, width);
    add_linear(layer + "self_attn.o_proj", width, q);
    add_linear(layer + "mlp.gate_proj", spec.ffn, width);
    add_linear(layer + "mlp.up_proj", spec.ffn, width);
    add_linear(layer + "mlp.down_proj", width, spec.ffn);
    add_floats(layer + "input_layernorm.weight", {width});
    add_floats(layer + "post_attention_layernorm.weight", {width});
  }
  add_floats("model.norm.weight", {width});
  if (!spec.tied) add_linear("lm_head", spec.vocabulary, width);
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  HEARTH_TRY(writer.write(folder + "/model.safetensors", {{"format", "pt"}}));
  return formats::write_file_atomically(folder + "/config.json", checkpoint.config().dump(1));
}

}  // namespace

int main(int count, char** words) {
  const std::string what = count > 2 ? words[1] : "";
  const auto word = [&](int at, const char* other) { return std::string(count > at ? words[at] : other); };
  const auto number = [&](int at, int other) { return count > at ? std::max(0, std::atoi(words[at])) : other; };
  if (what == "run" && count >= 5) {
    quantize::QuantizeOptions options{.path = words[2], .out = words[3], .calibrate = words[4]};
    if (count > 5) options.method = words[5];
    options.group = number(6, 128);
    options.threads = number(7, 0);
    options.device = word(8, "cpu");
    return run_folder(options);
  }
  if (what == "load" && count >= 4) return run_load(words[2], words[3], word(4, "auto"));
  if (what == "pack" && count == 6) {
    const auto packed = quantize::convert({.path = "", .shape = words[2], .out = words[3], .target = words[4], .precision = words[5]}, nullptr);
    if (packed) std::printf("%s\n", packed->dump().c_str());
    return packed ? 0 : fail(packed.status());
  }
  if (what == "convert" && count >= 5) return run_convert({.path = words[2], .out = words[3], .target = words[4], .precision = word(5, "auto")});
  if (what != "layer" && !(what == "write" && count == 4)) {
    std::fprintf(stderr, "bench-quantize layer | write | run | convert | load: see quantize_bench.cpp\n");
    return 2;
  }
  const auto dense = model::read_precision("f16", 0, device::DeviceKind::cpu);
  if (!dense) return fail(dense.status());
  const auto checkpoint = model::open_shape(words[2], *dense, *dense, 1);
  if (!checkpoint) return fail(checkpoint.status());
  const auto spec = model::read_model_spec(**checkpoint);
  if (!spec) return fail(spec.status());
  if (what == "layer") return run_layer(**checkpoint, spec->decoder, number(3, 8192), number(4, 512), number(5, 512), std::max(1, number(6, 2)), word(7, "cpu"));
  const Status written = write_folder(**checkpoint, spec->decoder, words[3]);
  return written ? 0 : fail(written);
}
