// bench-instructions MODE CALLS: runs one linear (512 -> 64, group 32) CALLS times on one row and one thread, and
// nothing else that grows with CALLS. For counting instructions under an emulator: scripts/test-arm.mjs.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "device/cpu_features.h"
#include "device/cpu_stream.h"
#include "ops/bind.h"

int main(int argc, char** argv) {
  using namespace hearth;
  if (argc != 3) return std::fprintf(stderr, "bench-instructions w4a8|w4a32 CALLS\n"), 2;
  ops::LinearSpec s;
  s.in = 512, s.out = 64, s.weight = ops::WeightFormat::w4, s.group = 32, s.symmetric = true;
  if (std::strcmp(argv[1], "w4a8") == 0) s.activations = ops::ActivationFormat::int8_group;
  ThreadPool pool(1);
  device::CpuStream stream(pool);
  ops::DeviceInfo info;
  info.cpu = device::detect_cpu_features();
  const auto bound = ops::bind(s, info);
  if (!bound) return std::fprintf(stderr, "%s\n", bound.status().message().c_str()), 2;
  std::vector<uint8_t> data(static_cast<size_t>(s.in) * s.out / 2, 0x5a), packed(bound->packed_bytes());
  std::vector<float> scales(static_cast<size_t>(s.in) / s.group * s.out, 0.01f), x(s.in, 0.5f), y(s.out);
  bound->pack({s.in, s.out, s.weight, s.group, true, data.data(), scales.data(), nullptr}, packed.data());
  std::vector<uint8_t> workspace(bound->workspace_bytes(1, info));
  ops::LinearParams p;
  p.rows = 1, p.x = x.data(), p.x_stride = s.in, p.weight = packed.data(), p.y = y.data(), p.y_stride = s.out, p.workspace = workspace.data();
  for (int i = 0; i < std::atoi(argv[2]); ++i) bound->run(p, stream);
  std::printf("%s %g\n", bound->implementation().name, y[0]);
  return 0;
}
