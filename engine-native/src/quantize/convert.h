// `hearth convert`: weights packed ahead of time for one device, as one memory-mappable safetensors with the layout in
// its metadata. Loading it copies bytes and reorders nothing.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "core/status.h"
#include "quantize/progress.h"

namespace hearth::quantize {

struct ConvertOptions {
  std::string path;                // folder to convert
  std::string shape = {};          // or, for measurements, a named shape with random weights
  std::string out;                 // folder to make; must not exist
  std::string target;              // "cpu-avx2", "cuda-sm89", ...; "cpu", "cuda": this machine's
  std::string precision = "auto";  // as model::LoadOptions: auto keeps what the folder has
  int group = 0;
  int head_bits = 0;
};

// {"target", "linears", "bytes", "seconds"}
Result<nlohmann::json> convert(const ConvertOptions& options, const Progress& progress);

}  // namespace hearth::quantize
