// What the tuning pass measured: for each shape and number of rows the path of its linear that was fastest. Kept in a file
// per device; a file that is damaged, of another device or of another build is said so and measured again, never used.
#pragma once

#include <array>
#include <map>
#include <string>

#include "core/status.h"
#include "ops/ops.h"

namespace hearth::kernels::cuda {

// How a w4 linear is run.
enum class LinearPath : int {
  rows = 0,     // linear_rows_w4: few rows, activations in shared memory
  cluster = 1,  // Hopper's linear_w4_cluster; `variant`: its size, `split`: blocks that share K
  prefill = 2,  // Hopper's whole tiles of 128 or 256 rows
  tile = 3,     // linear_tile; `variant`: its size
  mma = 4,      // linear_mma
};
struct LinearChoice {
  LinearPath path = LinearPath::rows;
  int variant = 0, split = 0;
  float microseconds = 0;
  bool operator==(const LinearChoice&) const = default;
};

// Rows are tuned at these counts; others take the next larger one's choice.
inline constexpr int tuned_rows[] = {4, 8, 16, 32, 64, 128, 256};
// The count that stands for `rows`, or 0: too few or too many for the pass.
int tuned_rows_for(int rows);

class TuningTable {
 public:
  // in, out, group, compute type, x type, gated, residual, norm, rows
  using Key = std::array<int, 9>;
  static Key key(const ops::LinearSpec& spec, int rows);

  const LinearChoice* find(const ops::LinearSpec& spec, int rows) const;
  void set(const Key& key, const LinearChoice& choice) { choices_[key] = choice; }
  size_t size() const { return choices_.size(); }
  void clear() { choices_.clear(); }
  void merge(const TuningTable& other) { for (const auto& [key, choice] : other.choices_) choices_.emplace(key, choice); }

  // Text with `device` (any one line) in its head and a checksum at its end.
  std::string text(const std::string& device) const;
  // Errors: corrupt (damaged; says how), unsupported (whole, but of another device or build).
  static Result<TuningTable> parse(const std::string& text, const std::string& device);

 private:
  std::map<Key, LinearChoice> choices_;
};

// The process's table: what run() looks into.
TuningTable& tuning_table();

// Where tables are kept: HEARTH_TUNING_CACHE, or hearth/tuning under XDG_CACHE_HOME or ~/.cache. Empty: nowhere.
std::string tuning_folder();
// Reads and writes a table's file. A missing file is not_found; writing goes through a temporary name.
Result<TuningTable> read_tuning(const std::string& path, const std::string& device);
Status write_tuning(const std::string& path, const std::string& device, const TuningTable& table);

}  // namespace hearth::kernels::cuda
