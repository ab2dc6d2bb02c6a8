// What depends on an image's grid in Qwen's towers: rope, windows, interpolated positions. Computed on the host.
#pragma once

#include "vision/qwen_vl.h"

namespace hearth::vision {

// Rows of the tower for a grid: position (y, x) of each patch, in the order of 2x2 cells, cells in `cells` order.
struct PatchAt { int y, x; };
std::vector<PatchAt> patch_order(int grid_h, int grid_w, const std::vector<int32_t>& cells);

// Cells window by window (Qwen2.5-VL), or in reading order without windows; and the first row of each window.
struct CellOrder {
  std::vector<int32_t> cells;    // the cell (row * width + column) at each place
  std::vector<int32_t> windows;  // [windows + 1] rows
};
CellOrder cell_order(int cells_h, int cells_w, int window);

// cos and sin [rows, head_dim] of 2-D rope: the first half of the frequencies turns with y, the second with x.
void fill_rope(const std::vector<PatchAt>& patches, int head_dim, std::vector<float>& cos, std::vector<float>& sin);

// Bilinear interpolation of a [side^2, width] table to the grid, corners aligned.
std::vector<float> interpolate_positions(const std::vector<float>& table, int side, int width, int grid_h, int grid_w,
                                         const std::vector<PatchAt>& patches);

}  // namespace hearth::vision
