// Weights on their way from a checkpoint to a device: first everything is declared and bound to kernels (headers only, so
// the memory plan can be made), then memory is taken in chunks, then several threads read, convert, pack and upload.
#pragma once

#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "device/device.h"
#include "formats/checkpoint.h"
#include "model/precision.h"
#include "model/target.h"
#include "ops/bind.h"

namespace hearth::model {

// A linear as a graph uses it. The pointers are set when the weights are loaded.
struct Linear {
  ops::BoundLinear op;
  const void* weight = nullptr;
  const float* bias = nullptr;         // [out]
  const float* norm_weight = nullptr;  // [in], where the norm is fused
  const float* norm_bias = nullptr;

  // x [rows, in] with stride x_stride to y [rows, out (half when gated)] with stride y_stride.
  void run(int rows, const void* x, int64_t x_stride, void* y, int64_t y_stride, void* workspace, device::Stream& stream) const {
    op.run({rows, x, x_stride, norm_weight, norm_bias, weight, bias, y, y_stride, workspace}, stream);
  }
};

// What a graph asks for: the modules whose rows are stacked, the rows each must have, and the op around them. in, out,
// weight, activations, group, symmetric, bias and static_scale of `spec` are filled in.
struct LinearRequest {
  std::vector<std::string> modules;
  std::vector<int> rows;
  int in = 0;
  ops::LinearSpec spec;
  bool bias_required = false;
  std::string norm;        // tensor name of the fused norm's weight; "" = spec.norm is none
  float norm_offset = 0;   // added to the norm's weight
  // A weight that is no plain linear (convolutions of patch embeddings): read through this, as f32 [out, in].
  std::function<Result<std::vector<float>>(const formats::Checkpoint&)> custom;
  ops::WeightFormat custom_format = ops::WeightFormat::f16;
};

class WeightPlan {
 public:
  WeightPlan(const formats::Checkpoint& checkpoint, device::Device& device) : checkpoint_(checkpoint), device_(device) {}
  ~WeightPlan();
  WeightPlan(const WeightPlan&) = delete;
  WeightPlan& operator=(const WeightPlan&) = delete;

  // Declares a linear; *to must stay where it is until load(). Errors name the tensor.
  Status linear(LinearRequest request, const Precision& precision, Linear* to);
  // Declares a float vector, kept as f32 with `offset` added.
  Status vector(const std::string& name, int size, float offset, const float** to);
  // Declares f32 values that are computed when the weights are loaded (position tables, masks).
  Status values(const std::string& what, int64_t count, std::function<Result<std::vector<float>>(const formats::Checkpoint&)> make,
                const float** to);
  // Declares a [rows, width] table in the file's own float type.
  Status table(const std::string& name, int rows, int width, DType* type, const void** to);

  const formats::Checkpoint& checkpoint() const { return checkpoint_; }
  int64_t bytes() const { return bytes_; }
  int64_t parameters() const { return parameters_; }
  // The form most parameters of declared linears are held in.
  std::string held_name() const;
  // What is rounded while loading, and what stays 16 bits among linears of fewer, as sentences for people.
  std::vector<std::string> notes() const;

  using Progress = std::function<bool(double done, double total)>;  // false ends the load with Code::cancelled
  // Instead of load(): every linear that a converted file holds packed.
  void packed_items(std::vector<PackedItem>& to) const;
  // After load(): each shape of linear once, with the weights of at most eight of its kind.
  std::vector<ops::TuneRequest> tune_requests() const;
  // Takes the memory and fills it.
  Status load(const Progress& progress);

 private:
  struct Item {
    std::string what;
    size_t bytes = 0;
    std::function<void(void*)> place;         // tells the graph where it lies
    std::function<Status(void* to)> fill;     // to: host memory of `bytes`
    std::vector<std::string> forget;          // modules, tensors and packed linears whose file pages may go
    std::span<const std::byte> stored;        // the bytes as they should lie, where the file has them so
    std::optional<formats::PackedHeader> packed;  // of a linear that a converted file could hold
    void* device = nullptr;
    bool ready = false;                       // its bytes are where ops will read them
  };
  using Advance = std::function<Status(double bytes)>;
  Result<HeldLinear> held_form(const LinearRequest&, const Precision&, bool& bias) const;
  Status declare_linear(const LinearRequest&, const HeldLinear&, Linear* to);
  Status check_packed(const LinearRequest&, const HeldLinear&, const Linear&) const;
  formats::PackedHeader packed_header(const LinearRequest&, const HeldLinear&, const Linear&) const;
  Status declare_bias(const LinearRequest&, int out, const float** to);
  void add(Item item);
  void place_settled();
  Status stream_stored(const Advance& advance);
  Status stream_staged(std::span<Item* const> items, const Advance& advance);
  Status take_memory();
  Status fill(const Item& item);
  Status run_threads(const Progress& progress);

  const formats::Checkpoint& checkpoint_;
  device::Device& device_;
  std::vector<Item> items_;
  std::vector<const Linear*> linears_;
  std::map<std::string, int64_t> held_;  // name of form → parameters
  std::map<std::string, int> rounded_;   // name of form → linears that the file holds in a wider one
  int narrow_ = 0, wide_ = 0;            // linears of 4 and 8 bits, and of 16 and more, embeddings and the head apart
  std::vector<void*> chunks_;
  int64_t bytes_ = 0, parameters_ = 0;
};

}  // namespace hearth::model
