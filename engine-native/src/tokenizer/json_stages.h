// The stages of a tokenizer.json around the model: normalizer, pre_tokenizer, decoder, post_processor.
#pragma once

#include "tokenizer/json_fields.h"
#include "tokenizer/parts.h"

namespace hearth::tokenizer {

Status read_normalizer(const Json& json, Normalizer& out);
Status read_pre_tokenizer(const Json& json, PreTokenizer& out);
Status read_decoder(const Json& json, Decoder& out);
// Uses parts.texts to check ids; fills prefix and suffix.
Status read_post_processor(const Json& json, Parts& parts);

// The vocabulary, the added tokens and the model (BPE, Unigram or WordLevel) of a whole tokenizer.json. Needs the
// pre-tokenizer to be read already.
Status read_model(const Json& root, Parts& parts);
// A list of {"id", "content", "special", …}.
Status read_added_tokens(const Json& list, Parts& parts);

}  // namespace hearth::tokenizer
