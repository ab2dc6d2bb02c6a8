#include "vision/qwen_tables.h"

#include <algorithm>
#include <cmath>

namespace hearth::vision {

std::vector<PatchAt> patch_order(int grid_h, int grid_w, const std::vector<int32_t>& cells) {
  (void)grid_h;
  std::vector<PatchAt> order;
  order.reserve(cells.size() * 4);
  for (const int32_t cell : cells) {
    const int y = cell / (grid_w / 2) * 2, x = cell % (grid_w / 2) * 2;
    for (int i = 0; i < 4; i++) order.push_back({y + i / 2, x + i % 2});
  }
  return order;
}

CellOrder cell_order(int cells_h, int cells_w, int window) {
  CellOrder order;
  order.windows.push_back(0);
  const int step_h = window > 0 ? window : cells_h, step_w = window > 0 ? window : cells_w;
  for (int y0 = 0; y0 < cells_h; y0 += step_h) {
    for (int x0 = 0; x0 < cells_w; x0 += step_w) {
      for (int y = y0; y < std::min(y0 + step_h, cells_h); y++) {
        for (int x = x0; x < std::min(x0 + step_w, cells_w); x++) order.cells.push_back(y * cells_w + x);
      }
      order.windows.push_back(static_cast<int32_t>(order.cells.size()) * 4);
    }
  }
  return order;
}

void fill_rope(const std::vector<PatchAt>& patches, int head_dim, std::vector<float>& cos, std::vector<float>& sin) {
  const int pairs = head_dim / 2, quarter = head_dim / 4;
  std::vector<float> frequency(static_cast<size_t>(quarter));
  for (int i = 0; i < quarter; i++) {
    frequency[static_cast<size_t>(i)] = 1.0f / std::pow(10000.0f, static_cast<float>(2 * i) / static_cast<float>(pairs));
  }
  cos.resize(patches.size() * static_cast<size_t>(head_dim));
  sin.resize(cos.size());
  for (size_t row = 0; row < patches.size(); row++) {
    float* c = cos.data() + row * static_cast<size_t>(head_dim);
    float* s = sin.data() + row * static_cast<size_t>(head_dim);
    for (int i = 0; i < pairs; i++) {
      const int position = i < quarter ? patches[row].y : patches[row].x;
      const float angle = static_cast<float>(position) * frequency[static_cast<size_t>(i % quarter)];
      c[i] = c[i + pairs] = std::cos(angle);
      s[i] = s[i + pairs] = std::sin(angle);
    }
  }
}

namespace {

// Where grid position i of `count` falls in a table of `side`: the entries around it and how far it is past the first.
struct Between { int low, high; float weight; };

std::vector<Between> spread(int count, int side) {
  std::vector<Between> places;
  const float step = count > 1 ? static_cast<float>(side - 1) / static_cast<float>(count - 1) : 0;
  for (int i = 0; i < count; i++) {
    // Counted from the nearer end, as torch.linspace does.
    const float at = i < count / 2 || count == 1 ? step * static_cast<float>(i) : static_cast<float>(side - 1) - step * static_cast<float>(count - 1 - i);
    const int low = static_cast<int>(at);
    places.push_back({low, std::min(low + 1, side - 1), at - static_cast<float>(low)});
  }
  return places;
}

}  // namespace

std::vector<float> interpolate_positions(const std::vector<float>& table, int side, int width, int grid_h, int grid_w,
                                         const std::vector<PatchAt>& patches) {
  const std::vector<Between> rows = spread(grid_h, side), columns = spread(grid_w, side);
  std::vector<float> out(patches.size() * static_cast<size_t>(width));
  auto entry = [&](int y, int x) { return table.data() + (static_cast<size_t>(y) * static_cast<size_t>(side) + static_cast<size_t>(x)) * static_cast<size_t>(width); };
  for (size_t i = 0; i < patches.size(); i++) {
    const Between y = rows[static_cast<size_t>(patches[i].y)], x = columns[static_cast<size_t>(patches[i].x)];
    const float* corner[4] = {entry(y.low, x.low), entry(y.low, x.high), entry(y.high, x.low), entry(y.high, x.high)};
    const float weight[4] = {(1 - y.weight) * (1 - x.weight), (1 - y.weight) * x.weight, y.weight * (1 - x.weight), y.weight * x.weight};
    float* to = out.data() + i * static_cast<size_t>(width);
    for (int c = 0; c < width; c++) {
      to[c] = ((corner[0][c] * weight[0] + corner[1][c] * weight[1]) + corner[2][c] * weight[2]) + corner[3][c] * weight[3];
    }
  }
  return out;
}

}  // namespace hearth::vision
