// Specs as short text, for traces, doctor and error messages.
#pragma once

#include <string>

#include "ops/ops.h"

namespace hearth::ops {

const char* name_of(WeightFormat format);
const char* name_of(ActivationFormat format);
const char* name_of(Activation activation);
const char* name_of(NormKind kind);
const char* name_of(KvFormat format);

std::string describe(const EmbedSpec&);
std::string describe(const NormSpec&);
std::string describe(const LinearSpec&);
std::string describe(const GateSpec&);
std::string describe(const AddSpec&);
std::string describe(const GatherSpec&);
std::string describe(const AttentionSpec&);
std::string describe(const VisionAttentionSpec&);
std::string describe(const SampleSpec&);

}  // namespace hearth::ops
