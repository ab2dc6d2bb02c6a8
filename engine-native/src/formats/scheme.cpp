// Which reader a quantization_config asks for.
#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>

#include "formats/awq.h"
#include "formats/compressed_tensors.h"
#include "formats/gptq.h"
#include "formats/json_text.h"

namespace hearth::formats {

using nlohmann::json;

namespace {

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

// The first of the keys that is there: newer and older spellings of one setting.
std::optional<int64_t> either(const json& config, const char* key, const char* old_key) {
  const auto value = integer_member(config, key);
  return value ? value : integer_member(config, old_key);
}

Status check_bits_and_group(const json& config, const std::string& file) {
  const auto bits = either(config, "bits", "w_bit");
  if (bits != 4) return unsupported(file + ": " + std::to_string(bits.value_or(0)) + "-bit weights; 4-bit is read");
  const auto group = either(config, "group_size", "q_group_size");
  if (!group || *group == 0 || *group < -1 || *group > (1 << 20)) return corrupt(file + ": 'group_size' is missing or out of range");
  return Status::ok();
}

Result<std::unique_ptr<LinearReader>> make_awq(const json& config, const std::string& file) {
  HEARTH_TRY(check_bits_and_group(config, file));
  if (!bool_member(config, "zero_point").value_or(true)) return unsupported(file + ": AWQ without zero points");
  const int64_t group = *either(config, "group_size", "q_group_size");
  const std::string version = lower(string_member(config, "version"));
  if (lower(string_member(config, "backend")) == "llm-awq") {
    return unsupported(file + ": backend 'llm-awq' in safetensors; the v2 .pt and AutoAWQ's gemm and gemv_fast are read");
  }
  if (version == "gemm" || version.empty()) return make_awq_gemm_reader(group);
  if (version == "gemv_fast") return make_gemv_fast_reader(group, "qzeros", "awq-gemv-fast");
  return unsupported(file + ": AWQ version '" + version + "'; gemm and gemv_fast are read");
}

Result<std::unique_ptr<LinearReader>> make_gptq(const json& config, const std::string& file) {
  HEARTH_TRY(check_bits_and_group(config, file));
  const std::string format = lower(string_member(config, "checkpoint_format"));
  if (!format.empty() && format != "gptq" && format != "gptq_v2") return unsupported(file + ": checkpoint_format '" + format + "'");
  return make_gptq_reader(*integer_member(config, "group_size"), format == "gptq_v2" ? 0 : 1);
}

}  // namespace

Result<std::unique_ptr<LinearReader>> make_linear_reader(const json& quantization, const std::string& file) {
  const std::string method = lower(string_member(quantization, "quant_method"));
  if (method == "awq") return make_awq(quantization, file);
  if (method == "gptq") return make_gptq(quantization, file);
  if (method == "compressed-tensors") return make_compressed_tensors_reader(quantization, file);
  return unsupported(file + ": quant_method '" + method + "'; awq, gptq and compressed-tensors are read");
}

}  // namespace hearth::formats
