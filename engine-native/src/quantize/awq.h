// AWQ on one decoder layer (Lin et al., MLSys 2024; the reference implementation's steps): scales that protect the input
// channels with large activations, then clipping, both by search on the layer's own inputs.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "quantize/block.h"

namespace hearth::quantize {

struct AwqOptions {
  int group = 128;
  bool scale = true, clip = true;
  bool compensate = true;   // round here, each column's error made up for by the next ones; else leave rounding to the writer
  int64_t search_rows = 0;     // rows the scale search compares outputs on, spread over all (attention: whole sequences, two at least); 0 = all
  int64_t search_outputs = 0;  // outputs of o and down that it compares, spread over all, a multiple of 8; 0 = all
  // Told what part of the layer's work is done, between 0 and 1. False ends it early: `block` is then of no use.
  std::function<bool(double)> step = nullptr;
};

// Of one searched pair.
struct ScaleResult {
  std::string pair;             // "qkv", "o", "gate_up", "down"
  float alpha = 0;
  double loss_rounding = 0;     // mean squared error of round-to-nearest as it is (alpha = 0)
  double loss = 0;              // of the best scales; infinite when no output was a finite number
  double reference = 0;         // mean square of the exact output
  std::vector<float> scales;    // [in] as applied
  std::vector<double> losses;   // of each alpha tried
};

struct AwqResult {
  std::vector<ScaleResult> pairs;
  double clipped = 0;           // part of the groups that were clipped
};

// Scales `block` in place, then clips or (compensate) clips and rounds it in groups. Linears whose width the group does
// not divide are left out. `capture` holds the layer's inputs for `tokens` and is scaled along.
AwqResult search_awq(BlockRunner& runner, Block& block, const Tokens& tokens, Capture& capture, const AwqOptions& options);

// s = max(mean^alpha, 1e-4) / sqrt(max s · min s).
std::vector<float> awq_scales(const std::vector<float>& mean, float alpha);

}  // namespace hearth::quantize
