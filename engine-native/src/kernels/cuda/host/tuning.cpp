#include "kernels/cuda/host/tuning.h"

#include <cstdlib>
#include <map>
#include <sstream>

namespace hearth::kernels::cuda {

Tuning& tuning() {
  static Tuning values;
  return values;
}

Status set_tuning(const std::string& choices) {
  Tuning& t = tuning();
  const std::map<std::string, int*> names{
      {"rows_stages", &t.rows_stages}, {"rows_max", &t.rows_max}, {"dense_stream", &t.dense_stream}, {"fused_norm_rows", &t.fused_norm_rows},
      {"attention_overlaps", &t.attention_overlaps}, {"attention_early", &t.attention_early_sequences}, {"attention_pairs", &t.attention_early_pairs},
      {"decode_warps", &t.decode_warps}, {"decode_int8_warps", &t.decode_int8_warps}, {"decode_stages", &t.decode_stages}, {"decode_kb", &t.decode_shared_kb}, {"decode_few", &t.decode_few}, {"decode_few_kb", &t.decode_few_kb}, {"decode_few_warps", &t.decode_few_warps},
      {"short_context", &t.short_context}, {"short_pairs", &t.short_pairs}, {"short_ranks", &t.short_ranks},
      {"program_rows", &t.program_rows}, {"program_columns", &t.program_columns}, {"program_dense", &t.program_dense}, {"program_slots", &t.program_slots}, {"program_parts", &t.program_parts}, {"program_flight", &t.program_flight}, {"program_wide_slots", &t.program_wide_slots},
      {"chain", &t.chain_rows}, {"chain_min", &t.chain_rows_min}, {"chain_kb", &t.chain_kb}, {"chain_beside_kb", &t.chain_beside_kb}, {"cluster_rows", &t.cluster_rows}, {"prefill_rows", &t.prefill_rows}, {"mma_rows", &t.mma_rows}, {"half_sums", &t.half_sums}, {"ranks", &t.w4_ranks}, {"wide", &t.w4_wide}, {"prefetch", &t.w4_prefetch_kb}};
  std::istringstream parts(choices);
  for (std::string part; std::getline(parts, part, ',');) {
    const size_t equals = part.find('=');
    const auto found = names.find(part.substr(0, equals));
    if (equals == std::string::npos || found == names.end()) return invalid("no kernel choice '" + part + "'");
    *found->second = std::atoi(part.c_str() + equals + 1);
  }
  return Status::ok();
}

}  // namespace hearth::kernels::cuda
