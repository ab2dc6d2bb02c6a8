#include "kernels/cuda/host/tuning_table.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <sstream>

namespace hearth::kernels::cuda {
namespace {

// Counts the forms of this file and of the kernels it chooses between: older choices say nothing about newer kernels.
constexpr const char* first_line = "hearth tuning 1";

uint64_t checksum(const std::string& text) {
  uint64_t hash = 14695981039346656037ull;
  for (unsigned char c : text) hash = (hash ^ c) * 1099511628211ull;
  return hash;
}
std::string hex(uint64_t v) {
  char text[20];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(v));
  return text;
}

}  // namespace

int tuned_rows_for(int rows) {
  if (rows < tuned_rows[0]) return 0;
  for (int count : tuned_rows) if (rows <= count) return count;
  return 0;
}

TuningTable::Key TuningTable::key(const ops::LinearSpec& s, int rows) {
  return {s.in, s.out, s.group, static_cast<int>(s.y_type), static_cast<int>(s.x_type), s.gated, s.residual, static_cast<int>(s.norm), tuned_rows_for(rows)};
}

const LinearChoice* TuningTable::find(const ops::LinearSpec& spec, int rows) const {
  if (choices_.empty() || !tuned_rows_for(rows)) return nullptr;
  const auto found = choices_.find(key(spec, rows));
  return found == choices_.end() ? nullptr : &found->second;
}

std::string TuningTable::text(const std::string& device) const {
  std::ostringstream out;
  out << std::setprecision(9) << first_line << '\n' << device << '\n';
  for (const auto& [key, choice] : choices_) {
    for (int v : key) out << v << ' ';
    out << static_cast<int>(choice.path) << ' ' << choice.variant << ' ' << choice.split << ' ' << choice.microseconds << '\n';
  }
  std::string body = out.str();
  return body + "checksum " + hex(checksum(body)) + '\n';
}

Result<TuningTable> TuningTable::parse(const std::string& text, const std::string& device) {
  const size_t last = text.rfind("checksum ");
  if (last == std::string::npos) return corrupt("it ends early");
  if (text.substr(last) != "checksum " + hex(checksum(text.substr(0, last))) + '\n') return corrupt("its checksum is wrong");
  std::istringstream in(text.substr(0, last));
  std::string head, of, line;
  if (!std::getline(in, head) || !std::getline(in, of)) return corrupt("it has no head");
  if (head != first_line) return unsupported("it is of another build (" + head + ")");
  if (of != device) return unsupported("it is of another device or driver (" + of + ")");
  TuningTable table;
  while (std::getline(in, line)) {
    std::istringstream words(line);
    Key key{};
    LinearChoice choice;
    int path = -1;
    for (int& v : key) words >> v;
    words >> path >> choice.variant >> choice.split >> choice.microseconds;
    std::string rest;
    const bool known = path >= 0 && path <= 4 && choice.variant >= 0 && choice.variant < 16 && choice.split >= 0 && choice.split <= 8;
    if (words.fail() || (words >> rest) || !known) return corrupt("a line is not a choice: " + line);
    choice.path = static_cast<LinearPath>(path);
    table.set(key, choice);
  }
  return table;
}

TuningTable& tuning_table() {
  static TuningTable table;
  return table;
}

std::string tuning_folder() {
  if (const char* given = std::getenv("HEARTH_TUNING_CACHE")) return given;
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache && *cache) return std::string(cache) + "/hearth/tuning";
  if (const char* home = std::getenv("HOME"); home && *home) return std::string(home) + "/.cache/hearth/tuning";
  return "";
}

Result<TuningTable> read_tuning(const std::string& path, const std::string& device) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return not_found(path);
  std::ostringstream text;
  text << file.rdbuf();
  if (file.bad()) return io_error("reading " + path);
  return TuningTable::parse(text.str(), device);
}

Status write_tuning(const std::string& path, const std::string& device, const TuningTable& table) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  if (error) return io_error("making the folder of " + path + ": " + error.message());
  const std::string temporary = path + ".new";
  {
    std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
    file << table.text(device);
    if (!file.flush()) return io_error("writing " + temporary);
  }
  std::filesystem::rename(temporary, path, error);
  return error ? io_error("renaming " + temporary + ": " + error.message()) : Status::ok();
}

}  // namespace hearth::kernels::cuda
