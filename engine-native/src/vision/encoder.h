// Images in, embedding rows of the language model out: one Encoder a vision family. Preparing (resize, normalise, cut
// into patches) runs on any thread; encoding runs on the device's stream.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/status.h"
#include "device/device.h"
#include "model/model_spec.h"
#include "model/weights.h"

namespace hearth::vision {

struct Pixels {
  int width = 0, height = 0;
  std::span<const uint8_t> rgb;  // [height, width, 3]
};

// What an image of some size becomes.
struct Layout {
  int rows = 0;                    // embedding rows
  std::vector<int32_t> positions;  // [3 * rows] axis-major offsets of multimodal rope; empty = sequential
  int position_span = 0;           // how far positions advance over the image; 0 = rows
};

// An image ready for the tower. The tables below the patches are for towers that take any size.
struct Prepared {
  int grid_h = 0, grid_w = 0;      // patches
  std::vector<std::byte> patches;  // [grid_h * grid_w, padded channels * frames * patch * patch] in the tower's order and type
  std::shared_ptr<std::byte> pinned;  // or here, in memory that a GPU copies from: (uploads.h)
  size_t pinned_bytes = 0;
  std::vector<float> embeddings;   // [patches, width]: position embeddings for this grid
  std::vector<float> cos, sin;     // [patches, head_dim]: rope in two dimensions
  std::vector<int32_t> windows;    // [windows + 1] first row of each attention window
  std::vector<int32_t> cell_rows;  // [cells] where each merged cell, in reading order, comes out of the tower
};

using Clock = std::chrono::steady_clock;

// One image of a pass and where its results go: rows [layout.rows, width] f32, and each deepstack layer's features of
// that shape.
struct Job {
  const Prepared* image = nullptr;
  float* rows = nullptr;
  std::vector<float*> deepstack;
};

class Encoder {
 public:
  virtual ~Encoder() = default;
  // Binds the tower's ops and declares its weights.
  virtual Status declare(model::WeightPlan& plan, const model::Precision& precision) = 0;
  // Before allocate(): fewer images a pass, until activation_bytes() is within `bytes` or a pass holds one image.
  virtual void bound_batch(int64_t bytes) = 0;
  // Bytes allocate() takes: activations of one pass, workspace, staging.
  virtual int64_t activation_bytes() const = 0;
  virtual Status allocate() = 0;
  // Most rows one image can take.
  virtual int max_rows() const = 0;
  // Rows every image takes, where that does not depend on its size.
  virtual std::optional<int> fixed_rows() const = 0;
  virtual Result<Layout> layout(int width, int height) const = 0;
  // Floating-point operations of an image's way through tower and projector.
  virtual double flops(int width, int height) const = 0;
  virtual Result<Prepared> prepare(const Pixels& pixels) const = 0;

  // How many of `images`, counted from the first, go through the tower together: at least one.
  virtual int batch(std::span<const Prepared* const> images) const = 0;
  // Uploads the images of a pass (batch() of them at most); they may go when it returns.
  virtual Status begin(std::span<const Job> jobs) = 0;
  // Enqueues tower and projector, at least one block, more while the clock is before `until`. True: the pass is over,
  // and every job's rows are there in stream order. False: call again.
  virtual Result<bool> advance(Clock::time_point until) = 0;
};

// The encoder of a family for a decoder of `width`. Errors name the key that is not supported.
Result<std::unique_ptr<Encoder>> make_encoder(const model::VisionSource& source, const model::DecoderSpec& decoder,
                                              device::Device& device);

}  // namespace hearth::vision
