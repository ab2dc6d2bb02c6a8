// `hearth eval`: perplexity by the published protocol, and how far a second model is from the first, on the kernels that
// would serve them.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "core/status.h"
#include "device/device.h"
#include "quantize/progress.h"

namespace hearth::quantize {

struct EvaluateOptions {
  std::string path;                // model to evaluate
  std::string against;             // reference model, or empty
  std::string text;                // UTF-8 file
  std::string precision = "auto";  // as model::LoadOptions, of `path`; the reference is held as its file has it
  int group = 0;
  int head_bits = 0;
  std::string kv = "auto";         // of `path`, as model::LoadOptions; the reference keeps the default
  int window = 0;                  // tokens a window; 0 = min(2048, context)
  int tokens = 0;                  // of the text; 0 = all
};

// Non-overlapping windows, the last incomplete one dropped; exp of the mean loss of each window's tokens but its first.
// {"perplexity","loss","windows","window","tokens","tokens_per_second","precision","kv",
//  "against": {"path","precision","kv","perplexity","loss","kl","top1_agreement"} with a reference}
// KL is of the evaluated model from the reference, in nats a token.
Result<nlohmann::json> evaluate(const EvaluateOptions& options, device::Device& device, const Progress& progress);

}  // namespace hearth::quantize
