#include "device/profiles.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <cstring>

namespace hearth::device {
namespace {

constexpr int64_t mib = int64_t{1} << 20, gib = int64_t{1} << 30;

// Sources: NVIDIA's Ada and Hopper whitepapers, the Jetson Orin series data sheets, the cards' product pages.
// step_tokens: the chunk at which a 7B prefill keeps the device busy while a step stays near 100 ms.
const std::array<DeviceProfile, 9> profiles = {{
    {"rtx-4090", 89, 128, 72 * mib, 24 * gib, 1008, false, 101376, 1024},
    {"rtx-4070", 89, 46, 36 * mib, 12 * gib, 504, false, 101376, 512},
    {"rtx-4070-laptop", 89, 36, 32 * mib, 8 * gib, 256, false, 101376, 512},
    {"orin-agx", 87, 16, 4 * mib, 64 * gib, 204.8, true, 166912, 256},
    {"orin-agx-32", 87, 14, 4 * mib, 32 * gib, 204.8, true, 166912, 256},
    {"orin-nx", 87, 8, 2 * mib, 16 * gib, 102.4, true, 166912, 128},
    {"orin-nano", 87, 8, 2 * mib, 8 * gib, 68, true, 166912, 128},
    {"orin-nano-super", 87, 8, 2 * mib, 8 * gib, 102, true, 166912, 128},
    {"h200", 90, 132, 60 * mib, 141 * gib, 4800, false, 232448, 2048},
}};

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

}  // namespace

std::span<const DeviceProfile> gpu_profiles() { return profiles; }

const DeviceProfile* find_profile(const std::string& name) {
  for (const DeviceProfile& p : profiles)
    if (p.name == name) return &p;
  return nullptr;
}

const DeviceProfile* match_profile(const std::string& device_name, int sm, int multiprocessors) {
  std::string name = lower(device_name);
  auto has = [&](const char* part) { return name.find(part) != std::string::npos; };
  if (sm == 90 && has("h200")) return find_profile("h200");
  if (sm == 89 && has("4090") && !has("laptop") && multiprocessors == 128) return find_profile("rtx-4090");
  if (sm == 89 && has("4070") && multiprocessors == 46) return find_profile("rtx-4070");
  if (sm == 89 && has("4070") && multiprocessors == 36) return find_profile("rtx-4070-laptop");
  if (sm == 87) {  // Jetsons call their GPU "Orin", with or without the module's name
    if (has("nano") && has("super")) return find_profile("orin-nano-super");
    if (has("nano")) return find_profile("orin-nano");
    if (has("nx")) return find_profile("orin-nx");
    if (multiprocessors == 16) return find_profile("orin-agx");
    if (multiprocessors == 14) return find_profile("orin-agx-32");
  }
  return nullptr;
}

// Measured on the H200, 2026-11-22 and 23 (docs/performance-cuda.md): 1 to 4 rows of the 7B, 8B and 1.1B shapes, contexts of 160
// to 8,192, with Orin's code path forced, which is also the A100's, and with that of sm_86 and 89, whose shared memory holds a
// ring of two or three slots, where only 4 rows of the 3B shape are 2 % faster by a kernel an op, and no ring beside the sums of
// more than four. H100 and GH200 are the H200's chip.
int program_rows(const DeviceProfile& profile) {
  const char* mode = std::getenv("HEARTH_DECODE_PROGRAM");
  if (mode && std::strcmp(mode, "off") == 0) return 0;
  switch (profile.sm) {
    case 86: case 89: return 4;
    case 80: case 87: case 90: return 8;
    default: return 0;
  }
}

bool sums_in_half(const DeviceProfile& profile) {
  const char* mode = std::getenv("HEARTH_F16_SUMS");
  if (mode && std::strcmp(mode, "off") == 0) return false;
  return profile.sm == 86 || profile.sm == 89 || profile.sm == 120;
}

int shared_bytes_per_block(int sm) {
  switch (sm) {
    case 80: case 87: return 166912;
    case 86: case 89: case 120: case 121: return 101376;
    case 90: case 100: case 103: case 110: return 232448;
    default: return 49152;
  }
}

}  // namespace hearth::device
