#include "formats/gptq.h"

#include <algorithm>

#include "formats/packing.h"

namespace hearth::formats {

Result<std::vector<int32_t>> input_order_of(const TensorView& g_idx, int64_t in, int64_t group) {
  HEARTH_TRY(expect(g_idx, DType::i32, {{in}}));
  const int64_t groups = in / group;
  std::vector<int32_t> filled(static_cast<size_t>(groups), 0), order(static_cast<size_t>(in));
  bool identity = true;
  for (int64_t k = 0; k < in; k++) {
    const int32_t g = load_at<int32_t>(g_idx.data.data(), k);
    if (g < 0 || g >= groups) return corrupt(label(g_idx) + ": group " + std::to_string(g) + " of " + std::to_string(groups));
    int32_t& count = filled[static_cast<size_t>(g)];
    if (count == group) return corrupt(label(g_idx) + ": group " + std::to_string(g) + " has more than " + std::to_string(group) + " inputs");
    order[static_cast<size_t>(g * group + count++)] = static_cast<int32_t>(k);
    identity &= g == k / group;
  }
  if (identity) order.clear();
  return order;
}

namespace {

struct Sizes { int64_t in = 0, out = 0, group = 0; };

// qweight int32 [in/8, out] along in, qzeros int32 [in/group, out/8] along out, scales f16 [in/group, out],
// g_idx int32 [in] optional; w = (q - zero) * s with zero = (stored + offset) mod 16, as the writers' own kernels do.
class GptqReader final : public LinearReader {
 public:
  GptqReader(int64_t group_size, int zero_offset) : group_size_(group_size), zero_offset_(zero_offset) {}
  std::string_view format() const override { return "gptq"; }
  bool has(const TensorStore& store, const std::string& module) const override { return store.find(module + ".qweight"); }

  Result<LinearHeader> header(const TensorStore& store, const std::string& module) const override {
    HEARTH_ASSIGN(const Sizes sizes, check(store, module));
    HEARTH_ASSIGN(const std::vector<int32_t> order, order_of(store, module, sizes));
    LinearHeader header = w4_header(sizes.in, sizes.out, sizes.group, symmetric(zeros_of(store, module, sizes)), has_bias(store, module));
    header.act_order = !order.empty() && header.group;
    return header;
  }

  Result<LinearData> read(const TensorStore& store, const std::string& module) const override {
    HEARTH_ASSIGN(const Sizes sizes, check(store, module));
    HEARTH_ASSIGN(std::vector<int32_t> order, order_of(store, module, sizes));
    const int64_t groups = sizes.in / sizes.group;
    W4Parts parts{.in = sizes.in, .out = sizes.out, .group = sizes.group, .symmetric = false, .packed = {}, .scales = {}, .zeros = {}};
    parts.packed.resize(static_cast<size_t>(sizes.in / 2 * sizes.out));
    auto* rows = reinterpret_cast<uint8_t*>(parts.packed.data());
    transpose_packed_in(store.find(module + ".qweight")->data.data(), sizes.in, sizes.out, rows);
    if (!order.empty()) permute_columns(rows, sizes.in, sizes.out, order);
    parts.zeros = zeros_of(store, module, sizes);
    parts.symmetric = symmetric(parts.zeros);
    if (parts.symmetric) parts.zeros.clear();
    HEARTH_ASSIGN(const std::vector<float> scales, to_floats(*store.find(module + ".scales")));
    parts.scales.resize(scales.size());
    for (int64_t g = 0; g < groups; g++) {
      for (int64_t n = 0; n < sizes.out; n++) parts.scales[static_cast<size_t>(n * groups + g)] = scales[static_cast<size_t>(g * sizes.out + n)];
    }
    HEARTH_ASSIGN(std::vector<float> bias, read_bias(store, module, sizes.out));
    return w4_data(std::move(parts), std::move(bias), std::move(order));
  }

 private:
  static bool has_bias(const TensorStore& store, const std::string& module) { return store.find(module + ".bias") != nullptr; }
  static bool symmetric(const std::vector<uint8_t>& zeros) {
    return std::all_of(zeros.begin(), zeros.end(), [](uint8_t zero) { return zero == 8; });
  }

  Result<Sizes> check(const TensorStore& store, const std::string& module) const {
    HEARTH_ASSIGN(const TensorView* weight, part(store, module, "qweight"));
    HEARTH_ASSIGN(const TensorView* zeros, part(store, module, "qzeros"));
    HEARTH_ASSIGN(const TensorView* scales, part(store, module, "scales"));
    HEARTH_TRY(expect(*weight, DType::i32, {{-1, -1}}));
    const int64_t in = weight->shape[0] * 8;  // at most the file's size in elements: no overflow
    const Sizes sizes{in, weight->shape[1], group_size_ > 0 ? group_size_ : in};
    HEARTH_TRY(check_w4_sizes(label(*weight), sizes.in, sizes.out, sizes.group));
    if (sizes.out % 8 != 0) return corrupt(label(*weight) + ": " + std::to_string(sizes.out) + " outputs, not a multiple of 8");
    HEARTH_TRY(expect(*zeros, DType::i32, {{sizes.in / sizes.group, sizes.out / 8}}));
    HEARTH_TRY(expect(*scales, scales->type == DType::bf16 ? DType::bf16 : DType::f16, {{sizes.in / sizes.group, sizes.out}}));
    return sizes;
  }

  Result<std::vector<int32_t>> order_of(const TensorStore& store, const std::string& module, const Sizes& sizes) const {
    const TensorView* g_idx = store.find(module + ".g_idx");
    if (!g_idx) return std::vector<int32_t>();
    return input_order_of(*g_idx, sizes.in, sizes.group);
  }

  std::vector<uint8_t> zeros_of(const TensorStore& store, const std::string& module, const Sizes& sizes) const {
    return unpack_zeros(store.find(module + ".qzeros")->data.data(), sizes.in / sizes.group, sizes.out, plain_order, zero_offset_);
  }

  int64_t group_size_;
  int zero_offset_;
};

}  // namespace

std::unique_ptr<LinearReader> make_gptq_reader(int64_t group_size, int zero_offset) {
  return std::make_unique<GptqReader>(group_size, zero_offset);
}

}  // namespace hearth::formats
