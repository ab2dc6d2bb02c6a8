// What `hearth quantize` costs at a named shape, without a checkpoint:
//   bench-quantize layer SHAPE [TOKENS] [SEARCH_TOKENS] [OUTPUTS] [THREADS]   seconds of each part of one layer, and memory
//   bench-quantize write SHAPE DIR                                  the shape as a folder (no tokenizer), for the whole command
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "formats/safetensors_writer.h"
#include "model/model_spec.h"
#include "model/shapes.h"
#include "quantize/awq.h"

namespace {

using namespace hearth;
using Time = std::chrono::steady_clock;

double since(Time::time_point begin) { return std::chrono::duration<double>(Time::now() - begin).count(); }

int fail(const Status& status) {
  std::fprintf(stderr, "%s\n", status.message().c_str());
  return 1;
}

int run_layer(const formats::Checkpoint& checkpoint, const model::DecoderSpec& spec, int64_t tokens, int64_t search, int64_t outputs, int threads) {
  ThreadPool pool(threads, false);
  quantize::BlockRunner runner(spec, pool);
  auto block = quantize::read_block(checkpoint, spec, 0);
  if (!block) return fail(block.status());
  const quantize::Tokens rows{tokens / 512, 512};
  std::vector<float> x(static_cast<size_t>(rows.rows() * spec.width));
  std::mt19937 random(1);
  for (float& value : x) value = static_cast<float>(random() >> 8) / 8388608.0f - 1.0f;
  quantize::Capture capture;
  auto begin = Time::now();
  runner.forward(*block, rows, x, &capture);
  const double forward = since(begin);
  double seconds[2];
  for (const bool scale : {true, false}) {
    quantize::AwqOptions options{.group = 128, .scale = scale, .clip = !scale, .compensate = !scale, .search_rows = search, .search_outputs = outputs};
    begin = Time::now();
    quantize::search_awq(runner, pool, *block, rows, capture, options);
    seconds[scale ? 0 : 1] = since(begin);
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const double layer = forward + seconds[0] + seconds[1];
  std::printf("%lld tokens, %lld searched, %d threads: forward %.2f s, scales %.2f s, rounding %.2f s; a layer %.2f s, %zu layers %.0f s; peak %.2f GiB\n",
              static_cast<long long>(rows.rows()), static_cast<long long>(search), threads, forward, seconds[0], seconds[1], layer,
              spec.layers.size(), layer * static_cast<double>(spec.layers.size()), static_cast<double>(usage.ru_maxrss) / 1048576);
  return 0;
}

Status write_folder(const formats::Checkpoint& checkpoint, const model::DecoderSpec& spec, const std::string& folder) {
  formats::SafetensorsWriter writer;
  const auto add_linear = [&](const std::string& module, int64_t out, int64_t in) {
    writer.add(module + ".weight", DType::f16, {out, in}, [&checkpoint, module]() -> Result<std::vector<std::byte>> {
      HEARTH_ASSIGN(const formats::LinearData linear, checkpoint.linear(module));
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
  const auto number = [&](int at, int other) { return count > at ? std::max(0, std::atoi(words[at])) : other; };
  if (what != "layer" && !(what == "write" && count == 4)) {
    std::fprintf(stderr, "bench-quantize layer SHAPE [TOKENS] [SEARCH_TOKENS] [OUTPUTS] [THREADS] | write SHAPE DIR\n");
    return 2;
  }
  const auto dense = model::read_precision("f16", 0, device::DeviceKind::cpu);
  if (!dense) return fail(dense.status());
  const auto checkpoint = model::open_shape(words[2], *dense, *dense, 1);
  if (!checkpoint) return fail(checkpoint.status());
  const auto spec = model::read_model_spec(**checkpoint);
  if (!spec) return fail(spec.status());
  if (what == "layer") return run_layer(**checkpoint, spec->decoder, number(3, 8192), number(4, 512), number(5, 512), std::max(1, number(6, 2)));
  const Status written = write_folder(**checkpoint, spec->decoder, words[3]);
  return written ? 0 : fail(written);
}
