// The small JSON files beside a vocabulary.
#pragma once

#include "tokenizer/json_fields.h"
#include "tokenizer/parts.h"

namespace hearth::tokenizer {

// Tokens of added_tokens.json and of added_tokens_decoder that the vocabulary lacks; ids of bos, eos, pad, unk;
// add_bos_token and add_eos_token where the tokenizer class obeys them. Call after the vocabulary is read.
Status apply_companions(const Companions& files, Parts& parts);

}  // namespace hearth::tokenizer
