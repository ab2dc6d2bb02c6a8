// What AMX kernels share: the tiles' shapes.
#pragma once

#include "kernels/cpu/simd/vec.h"

namespace hearth::kernels::cpu::HEARTH_ISA {

// GCC's tile intrinsics are assembly that does not say it reads memory: what they read must be written before.
HEARTH_INLINE void memory_is_written() { asm volatile("" ::: "memory"); }

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// The tile shapes of a worker while a kernel runs; released at the end, so that the system need not save 8 KiB at every
// switch. Tiles 0-3: sums. 4, 5: 16 rows of `depth` inputs. 6, 7: weights of `depth` inputs.
class TileShapes {
 public:
  ~TileShapes() { if (set_) _tile_release(); }
  void set(int depth) {
    if (set_) return;
    set_ = true;
    TileConfig config;
    for (int tile = 0; tile < 8; ++tile) {
      config.rows[tile] = static_cast<uint8_t>(tile < 6 ? 16 : depth / 4);
      config.row_bytes[tile] = static_cast<uint16_t>(tile == 4 || tile == 5 ? depth : 64);
    }
    memory_is_written();
    _tile_loadconfig(&config);
  }

 private:
  bool set_ = false;
};

}  // namespace hearth::kernels::cpu::HEARTH_ISA
