// libFuzzer target for request_json: whatever it says, it is options within the bounds hearth.h states, or a Status.
#include <cmath>
#include <cstdlib>

#include "runtime/request.h"

using namespace hearth::runtime;

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}
void require_within(const std::optional<float>& value, float low, float high) { require(!value || (*value >= low && *value <= high)); }

void check(const RequestOptions& o) {
  require(o.max_tokens >= 0 && o.min_tokens >= 0 && o.top_logprobs >= 0 && o.top_logprobs <= 20 && o.dimensions >= 0);
  require_within(o.temperature, 0, 100);
  require_within(o.top_p, 0, 1);
  require_within(o.min_p, 0, 1);
  require_within(o.repetition_penalty, 0.009f, 100);
  require(std::isfinite(o.frequency_penalty) && std::isfinite(o.presence_penalty));
  require(o.stop.size() <= stop_strings_max && o.stop_tokens.size() <= stop_tokens_max && o.images.size() <= images_max);
  for (const std::string& stop : o.stop) require(!stop.empty() && stop.size() <= stop_string_bytes_max);
  for (const ImageRequest& image : o.images) require(image.width >= 1 && image.height >= 1 && image.bytes() > 0);
  for (const auto& [id, bias] : o.logit_bias) require(id >= 0 && std::abs(bias) <= 100);
  for (int32_t id : o.predicted_ids) require(id >= 0);
  require(o.grammar.is_null() || o.grammar.is_object());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto options = parse_request(std::string_view(reinterpret_cast<const char*>(data), size));
  if (options) check(*options);
  return 0;
}
