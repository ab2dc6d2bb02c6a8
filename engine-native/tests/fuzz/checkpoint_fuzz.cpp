// libFuzzer target for what a checkpoint's JSON says of its weights: config.json, the quantised formats' metadata, the
// specification of the model. The input is {"files":{NAME:JSON,…},"tensors":SAFETENSORS HEADER,"bytes":N}, laid down as a
// folder with N bytes of weights; it opens or is a Status, and so does every linear in it.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/guard.h"
#include "formats/checkpoint.h"
#include "model/model_spec.h"

namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

constexpr int64_t weight_bytes_max = 1 << 16;

// The names a reader looks for; others are left out, so that no input writes outside the folder.
constexpr const char* file_names[] = {"config.json", "generation_config.json", "quantize_config.json", "preprocessor_config.json",
                                      "model.safetensors.index.json"};

const fs::path& folder() {
  static const fs::path path = [] {
    const fs::path base = fs::exists("/dev/shm") ? "/dev/shm" : fs::temp_directory_path();
    const fs::path made = base / ("hearth-fuzz-" + std::to_string(getpid()));
    std::atexit([] { fs::remove_all(folder()); });
    return made;
  }();
  return path;
}

std::string text_of(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

// The header's metadata must be texts: what stands there as JSON (a converted folder's index) is written as one.
std::string header_of(Json tensors) {
  if (tensors.is_object() && tensors.contains("__metadata__") && tensors["__metadata__"].is_object())
    for (Json& value : tensors["__metadata__"])
      if (!value.is_string()) value = text_of(value);
  return text_of(tensors);
}

void lay_down(const Json& input) {
  fs::remove_all(folder());
  fs::create_directories(folder());
  for (const char* name : file_names)
    if (input["files"].contains(name)) std::ofstream(folder() / name) << text_of(input["files"][name]);
  const std::string header = header_of(input["tensors"]);
  const uint64_t size = header.size();
  std::ofstream weights(folder() / "model.safetensors", std::ios::binary);
  weights.write(reinterpret_cast<const char*>(&size), sizeof size);
  weights << header << std::string(static_cast<size_t>(input["bytes"].get<int64_t>()), '\x3c');
}

void read_linear(const hearth::formats::Checkpoint& checkpoint, const std::string& module) {
  const auto header = checkpoint.linear_header(module);
  const auto data = checkpoint.linear(module);
  if (!header || !data) return;
  if (data->host.out != header->out || data->host.in != header->in) std::abort();
  if (int64_t{header->in} * header->out <= 1 << 20) (void)hearth::formats::dequantize(data->host);
}

void read_all() {
  const auto checkpoint = hearth::formats::Checkpoint::open(folder().string());
  if (!checkpoint) return;
  (void)hearth::model::read_model_spec(**checkpoint);
  for (const std::string& name : (*checkpoint)->names()) {
    (void)(*checkpoint)->floats(name, {});
    const size_t dot = name.rfind('.');
    if (dot != std::string::npos) read_linear(**checkpoint, name.substr(0, dot));
    (void)(*checkpoint)->packed_header(name);
  }
}

bool well_formed(const Json& input) {
  return input.is_object() && input.contains("files") && input["files"].is_object() && input.contains("tensors") && input.contains("bytes") &&
         input["bytes"].is_number_integer() && input["bytes"] >= 0 && input["bytes"] <= weight_bytes_max;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Json input = Json::parse(data, data + size, nullptr, false);
  if (input.is_discarded() || !well_formed(input)) return -1;
  lay_down(input);
  read_all();
  return 0;
}
