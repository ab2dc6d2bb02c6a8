// The folder that quantising makes: built aside as <out>.partial, one file a layer, and renamed when it is whole.
#pragma once

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/safetensors_writer.h"
#include "quantize/block.h"

namespace hearth::quantize {

class OutputFolder {
 public:
  // `state` tells what the folder is made of (source, method, options): an interrupted folder with another state is
  // refused. invalid when `out` exists.
  static Result<OutputFolder> open(const formats::Checkpoint& source, const std::string& out, const nlohmann::json& state);

  // The report of a finished layer, or nothing.
  const nlohmann::json* finished(int layer) const;
  Status write_layer(int layer, const formats::SafetensorsWriter& tensors, const nlohmann::json& report);
  // Everything that no layer wrote, as it is (f32 of the language model becomes f16), then the other files, the
  // configuration with `quantization`, the report, and the new name.
  Status finish(const nlohmann::json& quantization, const nlohmann::json& report, const std::string& picture);

  // The module's name as the source's file spells it.
  std::string file_module(const std::string& module) const;

 private:
  explicit OutputFolder(const formats::Checkpoint& source) : source_(source) {}
  std::string layer_path(int layer, const char* extension) const;
  Status write_rest();
  Status join_files();
  void remove_parts() const;
  Status copy_files() const;
  Status write_config(const nlohmann::json& quantization) const;

  const formats::Checkpoint& source_;
  std::string out_, partial_;
  std::string part_;              // "/llm" of a VILA folder, or empty
  std::vector<nlohmann::json> reports_;  // by layer; null = not done
};

}  // namespace hearth::quantize
