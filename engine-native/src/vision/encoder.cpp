#include "vision/encoder.h"

#include "vision/llava.h"
#include "vision/qwen_vl.h"

namespace hearth::vision {

using model::VisionFamily;

Result<std::unique_ptr<Encoder>> make_encoder(const model::VisionSource& source, const model::DecoderSpec& decoder, device::Device& device) {
  if (source.family == VisionFamily::llava || source.family == VisionFamily::vila) {
    HEARTH_ASSIGN(LlavaSpec spec, read_llava_spec(source, decoder.width));
    return std::unique_ptr<Encoder>(std::make_unique<LlavaEncoder>(std::move(spec), device));
  }
  HEARTH_ASSIGN(QwenSpec spec, read_qwen_spec(source, decoder.width));
  return std::unique_ptr<Encoder>(std::make_unique<QwenEncoder>(std::move(spec), device));
}

}  // namespace hearth::vision
