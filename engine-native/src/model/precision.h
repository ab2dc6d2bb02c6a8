// What a model's linears become when they are loaded.
#pragma once

#include <string>

#include "core/status.h"
#include "device/device.h"
#include "formats/checkpoint.h"
#include "ops/ops.h"

namespace hearth::model {

// The weight format a linear is held in, and how its activations are taken.
struct HeldLinear {
  ops::WeightFormat format = ops::WeightFormat::f16;
  ops::ActivationFormat activations = ops::ActivationFormat::exact;
  int group = 0;
  bool symmetric = false;
  float static_scale = 0;
  bool converted = false;  // not the file's own form: it is dequantised or rounded while loading
};

// LoadOptions::precision, understood.
struct Precision {
  enum class Kind { as_file, dense, w4, w8 } kind = Kind::as_file;
  ops::WeightFormat dense = ops::WeightFormat::f16;
  ops::ActivationFormat w4_activations = ops::ActivationFormat::exact;
  int group = 128;
  bool symmetric = false;   // quantising while loading: no zero points
  bool narrow_f32 = false;  // hold the file's f32 weights as f16 (GPUs have no f32 kernels)

  // The form of a linear that the file holds as `header`.
  HeldLinear held(const formats::LinearHeader& header) const;
};

// "auto", "none", "f32", "f16", "bf16", "w4a16", "w4a32", "w4a8", "w8a8". A device has one exact form of 4-bit weights
// (W4A16 on GPUs, W4A32 on CPUs); either name asks for it. auto: W4A8 on CPUs.
Result<Precision> read_precision(const std::string& name, int group, device::DeviceKind kind);
// The precision of the head alone: 4, 8 or 16 bits; 0 takes `body`'s default (8 where the body is rounded on request).
Result<Precision> read_head_precision(int bits, const Precision& body);
// "f16", "w4a8", ... of a linear that is held, for people.
std::string name_of(const HeldLinear& held, device::DeviceKind kind);

// A linear's parts (rows stacked in order) read from the checkpoint and brought into the form they are held in.
Result<formats::LinearData> read_held(const formats::Checkpoint&, std::span<const std::string> modules, const HeldLinear&);

// Type of activations between ops whose weights are held like `module`: f32 on CPUs; on GPUs the 16-bit type of dense
// weights, since kernels multiply like with like, and for packed ones the type the model was trained in, since models
// trained in BF16 overflow F16.
DType activation_type(const device::DeviceInfo& info, const formats::Checkpoint& checkpoint, const std::string& module,
                      const Precision& precision, DType trained);
// A dense f32 linear in another dense type.
formats::LinearData narrow_dense(const ops::HostLinear& dense, ops::WeightFormat format);

}  // namespace hearth::model
