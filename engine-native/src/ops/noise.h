// The noise of sampling, the same on every device: Philox 4x32-10 (Salmon et al., SC 2011) keyed by the request's seed.
//   key = (seed, 0), counter = (position, token id, 0, 0), word 0 of the output x;
//   u = (x + 0.5) / 2^32 in double, gumbel = -log(-log(u)), rounded to float at the end.
// The draw is argmax over the kept tokens of logit / temperature + gumbel; the lowest id wins a tie.
#pragma once

#include <cmath>
#include <cstdint>

namespace hearth::ops {

inline uint32_t philox_word(uint32_t seed, uint32_t position, uint32_t token) {
  uint32_t c0 = position, c1 = token, c2 = 0, c3 = 0, k0 = seed, k1 = 0;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c0;
}

// The largest value gumbel_noise can return, with a margin: tokens further below the best cannot win.
inline constexpr float gumbel_max = 23.0f;

inline float gumbel_noise(uint32_t seed, uint32_t position, uint32_t token) {
  const double u = (philox_word(seed, position, token) + 0.5) * 0x1p-32;
  return static_cast<float>(-std::log(-std::log(u)));
}

}  // namespace hearth::ops
