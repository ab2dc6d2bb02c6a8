// The two ends of a language model in f32: token embeddings, and the loss of the final hidden states.
#pragma once

#include <span>
#include <vector>

#include "quantize/block.h"

namespace hearth::quantize {

// [ids, width] rows of the embedding table, on the host.
Result<Array> embed(const formats::Checkpoint& checkpoint, const model::DecoderSpec& spec, std::span<const int32_t> ids);

// Mean negative log-likelihood of each next token within its sequence, from the last layer's output x [rows, width]. The
// head is read in slices, so that a vocabulary of any size costs little memory.
Result<double> mean_loss(const formats::Checkpoint& checkpoint, const model::DecoderSpec& spec, BlockRunner& runner, const Tokens& tokens,
                         std::span<const int32_t> ids, const Array& x);

}  // namespace hearth::quantize
