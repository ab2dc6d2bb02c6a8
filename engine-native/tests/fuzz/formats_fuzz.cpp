// libFuzzer target for the readers of model files. HEARTH_FUZZ_TARGET chooses the format at compile time; whatever the
// bytes, the answer is tensors inside them or a Status.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "formats/gguf.h"
#include "formats/json_text.h"
#include "formats/safetensors.h"
#include "formats/torch_file.h"

namespace {

using namespace hearth::formats;

// Reads every byte of a view: the sanitizer catches one that reaches outside.
void touch(std::span<const std::byte> data) {
  unsigned sum = 0;
  for (const std::byte b : data) sum += std::to_integer<unsigned>(b);
  volatile unsigned sink = sum;
  (void)sink;
}

void check(const TensorView& view) {
  if (checked_bytes(view.shape, static_cast<int64_t>(hearth::size_of(view.type))) != static_cast<int64_t>(view.data.size())) std::abort();
  touch(view.data);
}

void read_safetensors(std::span<const std::byte> bytes) {
  const auto header = parse_safetensors(bytes, "fuzz");
  if (!header) return;
  for (const TensorView& view : header->tensors) check(view);
}

void read_torch(std::span<const std::byte> bytes) {
  const auto tensors = parse_torch_file(bytes, "fuzz");
  if (!tensors) return;
  for (const TensorView& view : *tensors) check(view);
}

void read_gguf(std::span<const std::byte> bytes) {
  const auto gguf = parse_gguf(bytes, "fuzz");
  if (!gguf) return;
  for (const GgufTensor& tensor : gguf->tensors) {
    touch(tensor.data);
    const GgmlBlock block = block_of(tensor.type);
    std::vector<float> values(static_cast<size_t>(block.elements));
    if (tensor.data.size() >= static_cast<size_t>(block.bytes)) dequantize_blocks(tensor.type, tensor.data.data(), block.elements, values.data());
  }
  for (const auto& [key, value] : gguf->values) {
    (void)gguf->texts(key);
    (void)gguf->numbers(key);
    (void)gguf->integers(key);
    (void)gguf->number(key);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
#if HEARTH_FUZZ_TARGET == 1
  read_safetensors(bytes);
#elif HEARTH_FUZZ_TARGET == 2
  read_torch(bytes);
#else
  read_gguf(bytes);
#endif
  return 0;
}
