// hearth-bench --images: a vision-language model with pictures in its prompt, driven without the engine around it.
#pragma once

#include <string>
#include <vector>

#include "device/device.h"
#include "model/model.h"

namespace hearth::bench {

struct VisionRun {
  model::LoadOptions load;
  std::vector<int> images = {1, 8};  // pictures in a prompt
  int prompt = 64;                   // tokens of text around them
  int count_new = 64;
  int repeat = 5;
  double matrix_flops = 0;           // measured in this process
};

// Prints one JSON line a measurement:
//   vision: one call for all pictures, from prepared patches to rows on the device (upload counted): `ms`, and
//           `fraction_of_matrix`, the tower's products over the measured matrix throughput
//   ttft:   `ms` until the first logits are there, from prepared pictures; `cached_ms` with the rows already there;
//           `text_ms` with as many rows of text instead; `prepare_ms` of one 1024x768 picture on one core
//   decode: tokens a second of one sequence after the pictures
Status run_vision(const VisionRun& run, device::Device& device);

}  // namespace hearth::bench
