// Devices that weights are packed for ahead of time, by name: "cpu-avx2", "cpu-amx", "cuda-sm89", ...
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>

#include "core/status.h"
#include "device/device.h"
#include "formats/checkpoint.h"
#include "model/model.h"

namespace hearth::model {

// The name that `hearth convert --target` takes for a device like this one.
std::string target_name(const device::DeviceInfo& info);

// A device to bind kernels for without having it: it knows what it is and has no memory. invalid lists the names;
// unsupported when this build has no kernels of that kind.
Result<std::unique_ptr<device::Device>> make_target(const std::string& name);

// A GPU of this profile to plan for without having it: `free` bytes for allocations, and none of them to be had.
// unsupported when this build has no kernels for it.
Result<std::unique_ptr<device::Device>> make_planning_target(const device::DeviceProfile& profile, size_t free);

// One linear packed for a device: its header in a converted file, and what writes its `header.bytes` bytes.
struct PackedItem {
  formats::PackedHeader header;
  std::function<Status(void* to)> fill;
};
// The items live for the length of the call.
using PackSink = std::function<Status(std::span<const PackedItem>)>;

// Binds the model's linears for `target` and hands all of them to the sink, in the order of the graph. Nothing is
// allocated on the target.
Status pack_model(const LoadOptions& options, device::Device& target, const PackSink& sink);

}  // namespace hearth::model
