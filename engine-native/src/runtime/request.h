// What a request asks for, as request_json of hearth_submit says it (include/hearth.h): shape and ranges are checked
// here, before the request is accepted; what needs the tokenizer is checked when it is prepared.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/status.h"

namespace hearth::runtime {

enum class Kind : uint8_t { generate, embed, score };

inline constexpr int stop_strings_max = 64;
inline constexpr int stop_string_bytes_max = 1024;
inline constexpr int stop_tokens_max = 32;
inline constexpr int images_max = 128;
inline constexpr int image_side_max = 65536;

struct ImageRequest {
  int width = 0, height = 0;
  std::string detail = "auto";
  size_t bytes() const { return static_cast<size_t>(width) * height * 3; }
};

struct RequestOptions {
  Kind kind = Kind::generate;
  bool add_special_tokens = false;
  std::vector<ImageRequest> images;
  int max_tokens = 0, min_tokens = 0;
  bool ignore_eos = false;
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<int> top_k;
  float frequency_penalty = 0, presence_penalty = 0;
  std::optional<uint32_t> seed;
  std::vector<std::pair<int32_t, float>> logit_bias;
  bool logprobs = false, prompt_logprobs = false;
  int top_logprobs = 0;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_tokens;
  bool include_stop = false, skip_special_tokens = true;
  nlohmann::ordered_json grammar;  // null, or the object as it came, its keys in their order
  int priority = 0;
  bool speculate = true;
  // What the answer is expected to be, or much of it: text, or tokens.
  std::string prediction;
  std::vector<int32_t> predicted_ids;
  bool pool_mean = true, normalize = true;
  int dimensions = 0;  // 0 = all
};

Result<RequestOptions> parse_request(std::string_view json);

}  // namespace hearth::runtime
