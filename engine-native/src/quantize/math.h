// The arithmetic of calibration behind one small interface, so that every search is written once and runs on the CPU
// (math_cpu.cpp, f32) or on a GPU (math_cuda.cpp, FP16 products with f32 sums).
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/status.h"
#include "core/thread_pool.h"
#include "device/device.h"
#include "model/decoder_spec.h"

namespace hearth::quantize {

struct Weight;
struct Inverse;
struct RoundingResult;

// Memory of a GPU, copied as a vector is.
struct DeviceStore {
  virtual ~DeviceStore() = default;
  virtual std::unique_ptr<DeviceStore> copy() const = 0;
};

// [rows, columns] f32 in the memory of the Math that made it: `host` of a CPU's, `device` of a GPU's.
struct Array {
  int64_t rows = 0, columns = 0;
  std::vector<float> host;
  std::unique_ptr<DeviceStore> device;

  Array() = default;
  Array(int64_t r, int64_t c) : rows(r), columns(c), host(static_cast<size_t>(r * c)) {}
  Array(int64_t r, int64_t c, std::vector<float> values) : rows(r), columns(c), host(std::move(values)) {}
  Array(int64_t r, int64_t c, std::unique_ptr<DeviceStore> store) : rows(r), columns(c), device(std::move(store)) {}
  Array(const Array& other) : rows(other.rows), columns(other.columns), host(other.host), device(other.device ? other.device->copy() : nullptr) {}
  Array(Array&&) = default;
  Array& operator=(const Array& other) { return *this = Array(other); }
  Array& operator=(Array&&) = default;
  int64_t size() const { return rows * columns; }
};

// Tokens in whole sequences of the same length, each from position 0.
struct Tokens {
  int64_t sequences = 0, length = 0;
  int64_t rows() const { return sequences * length; }
};

// q/k norm and rope of [tokens, heads * head_dim].
struct Rotation {
  int heads = 0, head_dim = 0;
  std::span<const float> norm;  // [head_dim] or empty
  float norm_epsilon = 0;
  const model::RopeTable* rope = nullptr;
  int64_t length = 0;           // of a sequence
};

struct AttentionShape {
  int heads = 0, kv_heads = 0, head_dim = 0;
  float scale = 0;
  int64_t window = 0;           // 0 = the whole sequence
};

// Errors of a device stick: what follows does nothing, and check() says so.
class Math {
 public:
  virtual ~Math() = default;
  virtual std::string name() const = 0;  // "cpu", or the GPU's name
  virtual bool fast() const = 0;         // no need to leave out tokens in searches
  virtual Status check() = 0;
  virtual ThreadPool& pool() = 0;        // for what stays on the host

  virtual Array upload(Array host) = 0;
  virtual std::vector<float> download(const Array& x) = 0;

  // x wᵀ. x [n, in], w [out, in]
  virtual Array multiply(const Array& x, const Array& w) = 0;
  // XᵀX of each run of `window` columns (the last may be narrower), on the host.
  virtual std::vector<std::vector<float>> grams(const Array& x, int64_t window) = 0;

  virtual Array norm(const Array& x, std::span<const float> weight, float epsilon) = 0;
  virtual void rotate(Array& x, const Rotation& rotation) = 0;
  virtual Array attend(const Array& q, const Array& k, const Array& v, const AttentionShape& shape, const Tokens& tokens) = 0;
  virtual void gate(Array& gate, const Array& up, ops::Activation kind) = 0;  // gate = activation(gate) * up
  virtual void add(Array& x, const Array& y) = 0;
  virtual void add_row(Array& x, std::span<const float> row) = 0;
  virtual void multiply_columns(Array& x, std::span<const float> factors) = 0;
  virtual void divide_columns(Array& x, std::span<const float> factors) = 0;
  virtual void divide_rows(Array& x, int64_t first, std::span<const float> factors) = 0;  // rows from `first` on
  virtual Array pick(const Array& x, std::span<const int64_t> rows) = 0;

  virtual std::vector<float> mean_magnitude(const Array& x) = 0;  // of each column
  virtual std::vector<float> largest_magnitude(const Array& x) = 0;
  virtual double sum_of_squares(const Array& x) = 0;
  virtual double squared_distance(const Array& a, const Array& b) = 0;

  // Every row on int8 with a scale of its own.
  virtual void round_int8(Array& x) = 0;
  // Q(w diag(s)) / diag(s), groups along the columns rounded to nearest; `scales` may be empty.
  virtual Array round_groups(const Array& w, int group, std::span<const float> scales) = 0;
  // AWQ's clipping: each group's weights clamped to 1.00, 0.95 … 0.55 of its largest, whichever leaves the outputs for
  // `inputs` nearest after rounding. Returns the number of groups narrowed.
  virtual double clip(Weight& weight, const Array& inputs, int group) = 0;
  // Rounds `weight` in place and fills its grid (compensate.h). clip: ranges as above, judged after compensation.
  virtual RoundingResult round_compensated(Weight& weight, const Inverse& inverse, int group, bool clip) = 0;
};

std::unique_ptr<Math> make_cpu_math(int threads);
// `device`: a CUDA device of its own. unsupported in a build without CUDA.
Result<std::unique_ptr<Math>> make_cuda_math(std::unique_ptr<device::Device> device, int threads);

}  // namespace hearth::quantize
