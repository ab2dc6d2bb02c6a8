#include "device/cpu_features.h"

#include <fstream>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace hearth::device {
namespace {

#if defined(__x86_64__)

struct Registers { unsigned eax = 0, ebx = 0, ecx = 0, edx = 0; };

Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers r;
  if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
  return r;
}

constexpr bool bit(unsigned word, int index) { return (word >> index) & 1u; }

// Extended control register 0: the register files the operating system saves on a context switch.
uint64_t saved_register_files() {
  unsigned low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

// AMX tiles are 8 KiB of state that Linux grants a process on request (since 5.16).
bool request_amx() {
  constexpr long arch_request_xcomp_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, arch_request_xcomp_permission, tile_data) == 0;
}

CpuFeatures detect() {
  CpuFeatures f;
  const Registers one = cpuid(1, 0);
  const bool os_saves = bit(one.ecx, 27);
  if (!os_saves) return f;
  const uint64_t saved = saved_register_files();
  const bool ymm = (saved & 0x6) == 0x6, zmm = (saved & 0xe6) == 0xe6, tiles = (saved & 0x60000) == 0x60000;
  const Registers seven = cpuid(7, 0), seven_one = cpuid(7, 1);
  const bool fma = bit(one.ecx, 12), f16c = bit(one.ecx, 29);
  f.avx2 = ymm && fma && f16c && bit(seven.ebx, 5);
  f.avx_vnni = f.avx2 && bit(seven_one.eax, 4);
  const bool foundation = bit(seven.ebx, 16), dq = bit(seven.ebx, 17), bw = bit(seven.ebx, 30), vl = bit(seven.ebx, 31);
  f.avx512 = f.avx2 && zmm && foundation && dq && bw && vl;
  f.avx512_vnni = f.avx512 && bit(seven.ecx, 11);
  f.avx512_bf16 = f.avx512 && bit(seven_one.eax, 5);
  f.avx512_fp16 = f.avx512 && bit(seven.edx, 23);
  const bool amx_tile = bit(seven.edx, 24) && tiles && f.avx512_vnni && request_amx();
  f.amx_int8 = amx_tile && bit(seven.edx, 25);
  f.amx_bf16 = amx_tile && bit(seven.edx, 22);
  return f;
}

#elif defined(__aarch64__)

CpuFeatures detect() {
  // Bits of asm/hwcap.h, spelt out because old headers lack the newer ones.
  const unsigned long one = getauxval(AT_HWCAP), two = getauxval(AT_HWCAP2);
  CpuFeatures f;
  f.neon = (one >> 1) & 1;
  f.neon_fp16 = ((one >> 9) & 1) && ((one >> 10) & 1);
  f.neon_dotprod = (one >> 20) & 1;
  f.neon_i8mm = (two >> 13) & 1;
  return f;
}

#else
CpuFeatures detect() { return {}; }
#endif

}  // namespace

CpuFeatures detect_cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

Result<CpuFeatures> cap_cpu_features(CpuFeatures f, const std::string& cap) {
  if (cap.empty()) return f;
  if (cap == "reference") return CpuFeatures{};
#if defined(__x86_64__)
  constexpr const char* names[] = {"avx2", "avx-vnni", "avx512", "amx"};
#else
  constexpr const char* names[] = {"neon", "dotprod", "i8mm"};
#endif
  int level = -1;
  for (size_t i = 0; i < std::size(names); ++i) if (cap == names[i]) level = static_cast<int>(i);
  if (level < 0) {
    std::string known = "reference";
    for (const char* name : names) known += std::string(", ") + name;
    return invalid("HEARTH_CPU_MAX=" + cap + " is not one of: " + known);
  }
#if defined(__x86_64__)
  if (level < 3) f.amx_int8 = f.amx_bf16 = false;
  if (level < 2) f.avx512 = f.avx512_vnni = f.avx512_bf16 = f.avx512_fp16 = false;
  if (level < 1) f.avx_vnni = false;
#else
  if (level < 2) f.neon_i8mm = false;
  if (level < 1) f.neon_dotprod = f.neon_fp16 = false;
#endif
  return f;
}

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0 || line.rfind("Model", 0) == 0) {
      const size_t colon = line.find(": ");
      if (colon != std::string::npos) return line.substr(colon + 2);
    }
  }
  return "CPU";
}

std::string describe(const CpuFeatures& f) {
  std::string text;
  auto add = [&](bool has, const char* name) {
    if (has) text += (text.empty() ? "" : " ") + std::string(name);
  };
  add(f.avx2, "avx2");
  add(f.avx_vnni, "avx-vnni");
  add(f.avx512, "avx512");
  add(f.avx512_vnni, "avx512-vnni");
  add(f.avx512_bf16, "avx512-bf16");
  add(f.avx512_fp16, "avx512-fp16");
  add(f.amx_int8, "amx-int8");
  add(f.amx_bf16, "amx-bf16");
  add(f.neon, "neon");
  add(f.neon_dotprod, "dotprod");
  add(f.neon_i8mm, "i8mm");
  add(f.neon_fp16, "fp16");
  return text.empty() ? "reference" : text;
}

}  // namespace hearth::device
