// `hearth quantize`: a float Hugging Face folder to a quantised one that other tools load too. AutoAWQ gemm layout for awq
// and rtn, compressed-tensors int-quantized for smoothquant. Layer by layer: memory stays near one layer in f32 plus its
// activations. Interrupted, the same command goes on after the last whole layer.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "core/status.h"
#include "quantize/progress.h"

namespace hearth::quantize {

struct QuantizeOptions {
  std::string path;             // folder with float weights
  std::string out;              // folder to make; must not exist (an interrupted <out>.partial is taken up again)
  std::string method = "awq";   // awq, smoothquant, rtn
  std::string calibrate;        // text file; needed by awq and smoothquant
  int group = 128;              // 32, 64, 128 (awq, rtn)
  int tokens = 8192;            // of the calibration text
  int sequence = 512;           // tokens a sequence; at most the model's context
  int search_tokens = 0;        // tokens the scale search compares outputs on; 0 = by the model's size
  int threads = 0;              // 0 = one a core
  std::string device = "cpu";   // cpu, cuda, or auto: a GPU where there is one
  bool clip = true;             // awq: search clipping
  std::string rounding = "compensated";  // awq: compensated (each column's error made up for by the next) or nearest
};

// Returns the quality report, which is also <out>/quantize-report.json, drawn in <out>/quantize-report.svg.
Result<nlohmann::json> quantize(const QuantizeOptions& options, const Progress& progress);

}  // namespace hearth::quantize
