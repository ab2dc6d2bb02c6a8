#include "formats/awq.h"

#include <cmath>

#include "formats/packing.h"

namespace hearth::formats {

namespace {

struct Sizes { int64_t in = 0, out = 0, group = 0; };

// qweight int32 [in, out/8], qzeros int32 [in/group, out/8], scales f16 [in/group, out]; w = (q - z) * s.
class AwqGemmReader final : public LinearReader {
 public:
  explicit AwqGemmReader(int64_t group_size) : group_size_(group_size) {}
  std::string_view format() const override { return "awq-gemm"; }
  bool has(const TensorStore& store, const std::string& module) const override { return store.find(module + ".qweight"); }

  Result<LinearHeader> header(const TensorStore& store, const std::string& module) const override {
    HEARTH_ASSIGN(const Sizes sizes, check(store, module));
    return w4_header(sizes.in, sizes.out, sizes.group, false, store.find(module + ".bias") != nullptr);
  }

  Result<LinearData> read(const TensorStore& store, const std::string& module) const override {
    HEARTH_ASSIGN(const Sizes sizes, check(store, module));
    const int64_t groups = sizes.in / sizes.group;
    W4Parts parts{.in = sizes.in, .out = sizes.out, .group = sizes.group, .symmetric = false, .packed = {}, .scales = {}, .zeros = {}};
    parts.packed.resize(static_cast<size_t>(sizes.in / 2 * sizes.out));
    transpose_packed_out(store.find(module + ".qweight")->data.data(), sizes.in, sizes.out, awq_order,
                         reinterpret_cast<uint8_t*>(parts.packed.data()));
    parts.zeros = unpack_zeros(store.find(module + ".qzeros")->data.data(), groups, sizes.out, awq_order, 0);
    HEARTH_ASSIGN(const std::vector<float> scales, to_floats(*store.find(module + ".scales")));
    parts.scales.resize(scales.size());
    for (int64_t g = 0; g < groups; g++) {
      for (int64_t n = 0; n < sizes.out; n++) parts.scales[static_cast<size_t>(n * groups + g)] = scales[static_cast<size_t>(g * sizes.out + n)];
    }
    HEARTH_ASSIGN(std::vector<float> bias, read_bias(store, module, sizes.out));
    return w4_data(std::move(parts), std::move(bias));
  }

 private:
  Result<Sizes> check(const TensorStore& store, const std::string& module) const {
    HEARTH_ASSIGN(const TensorView* weight, part(store, module, "qweight"));
    HEARTH_ASSIGN(const TensorView* zeros, part(store, module, "qzeros"));
    HEARTH_ASSIGN(const TensorView* scales, part(store, module, "scales"));
    HEARTH_TRY(expect(*weight, DType::i32, {{-1, -1}}));
    const Sizes sizes{weight->shape[0], weight->shape[1] * 8, group_size_ > 0 ? group_size_ : weight->shape[0]};
    HEARTH_TRY(check_w4_sizes(label(*weight), sizes.in, sizes.out, sizes.group));
    const int64_t groups = sizes.in / sizes.group;
    HEARTH_TRY(expect(*zeros, DType::i32, {{groups, sizes.out / 8}}));
    HEARTH_TRY(expect(*scales, scales->type == DType::bf16 ? DType::bf16 : DType::f16, {{groups, sizes.out}}));
    return sizes;
  }
  int64_t group_size_;
};

// qweight int16 [out/4, in], scales and scaled zeros float [groups, padded; out]; w = q * s + scaled_zero, where
// scaled_zero = -(s * zero).
class GemvFastReader final : public LinearReader {
 public:
  GemvFastReader(int64_t group_size, std::string zeros_suffix, std::string_view format)
      : group_size_(group_size), zeros_suffix_(std::move(zeros_suffix)), format_(format) {}
  std::string_view format() const override { return format_; }
  bool has(const TensorStore& store, const std::string& module) const override { return store.find(module + ".qweight"); }

  Result<LinearHeader> header(const TensorStore& store, const std::string& module) const override {
    HEARTH_ASSIGN(const Sizes sizes, check(store, module));
    return w4_header(sizes.in, sizes.out, sizes.group, false, store.find(module + ".bias") != nullptr);
  }

  Result<LinearData> read(const TensorStore& store, const std::string& module) const override {
    HEARTH_ASSIGN(const Sizes sizes, check(store, module));
    W4Parts parts{.in = sizes.in, .out = sizes.out, .group = sizes.group, .symmetric = false, .packed = {}, .scales = {}, .zeros = {}};
    parts.packed.resize(static_cast<size_t>(sizes.in / 2 * sizes.out));
    unpack_gemv_fast(store.find(module + ".qweight")->data.data(), sizes.in, sizes.out, reinterpret_cast<uint8_t*>(parts.packed.data()));
    HEARTH_TRY(read_codes(store, module, sizes, parts));
    HEARTH_ASSIGN(std::vector<float> bias, read_bias(store, module, sizes.out));
    return w4_data(std::move(parts), std::move(bias));
  }

 private:
  // Rows of `scales`: whole int32 words of eight 4-bit zeros, in even multiples for the smaller groups.
  static int64_t padded_groups(int64_t in, int64_t group) {
    const int64_t groups = in / group, multiple = group >= 128 ? 8 : group == 64 ? 16 : 32;
    return (groups + multiple - 1) / multiple * multiple;
  }

  Result<int64_t> find_group(const TensorView& scales, int64_t in) const {
    if (group_size_ != 0) return group_size_ > 0 ? group_size_ : in;
    for (const int64_t group : {128, 64, 32}) {
      if (in % group == 0 && scales.shape.size() == 2 && scales.shape[0] == padded_groups(in, group)) return group;
    }
    return corrupt(label(scales) + " has shape " + shape_text(scales.shape) + ", which fits no group size of 128, 64 or 32 for " +
                   std::to_string(in) + " inputs");
  }

  Result<Sizes> check(const TensorStore& store, const std::string& module) const {
    HEARTH_ASSIGN(const TensorView* weight, part(store, module, "qweight"));
    HEARTH_ASSIGN(const TensorView* zeros, part(store, module, zeros_suffix_));
    HEARTH_ASSIGN(const TensorView* scales, part(store, module, "scales"));
    HEARTH_TRY(expect(*weight, DType::i16, {{-1, -1}}));
    Sizes sizes{weight->shape[1], weight->shape[0] * 4, 0};
    if (sizes.in % 64 != 0) return corrupt(label(*weight) + ": " + std::to_string(sizes.in) + " inputs, not a multiple of 64");
    HEARTH_ASSIGN(sizes.group, find_group(*scales, sizes.in));
    HEARTH_TRY(check_w4_sizes(label(*weight), sizes.in, sizes.out, sizes.group));
    const int64_t rows = padded_groups(sizes.in, sizes.group);
    HEARTH_TRY(expect(*scales, scales->type == DType::bf16 ? DType::bf16 : DType::f16, {{rows, sizes.out}}));
    HEARTH_TRY(expect(*zeros, scales->type, {{rows, sizes.out}}));
    return sizes;
  }

  // The zero points come back as integers: scaled_zero / -scale, whose rounding error is far below one half.
  Status read_codes(const TensorStore& store, const std::string& module, const Sizes& sizes, W4Parts& parts) const {
    const TensorView& zeros_view = *store.find(module + "." + zeros_suffix_);
    HEARTH_ASSIGN(const std::vector<float> scales, to_floats(*store.find(module + ".scales")));
    HEARTH_ASSIGN(const std::vector<float> scaled_zeros, to_floats(zeros_view));
    const int64_t groups = sizes.in / sizes.group;
    parts.scales.resize(static_cast<size_t>(groups * sizes.out));
    parts.zeros.resize(parts.scales.size());
    for (int64_t g = 0; g < groups; g++) {
      for (int64_t n = 0; n < sizes.out; n++) {
        const size_t from = static_cast<size_t>(g * sizes.out + n), to = static_cast<size_t>(n * groups + g);
        const float zero = scales[from] == 0 && scaled_zeros[from] == 0 ? 0.0f : -scaled_zeros[from] / scales[from];
        if (!(zero > -0.25f && zero < 15.25f) || std::fabs(zero - std::round(zero)) > 0.25f) {
          return corrupt(label(zeros_view) + ": the zero point of output " + std::to_string(n) + ", group " + std::to_string(g) +
                         " is not a whole number from 0 to 15");
        }
        parts.scales[to] = scales[from];
        parts.zeros[to] = static_cast<uint8_t>(std::lround(zero));
      }
    }
    return Status::ok();
  }

  int64_t group_size_;
  std::string zeros_suffix_;
  std::string_view format_;
};

}  // namespace

std::unique_ptr<LinearReader> make_awq_gemm_reader(int64_t group_size) { return std::make_unique<AwqGemmReader>(group_size); }

std::unique_ptr<LinearReader> make_gemv_fast_reader(int64_t group_size, std::string zeros_suffix, std::string_view format) {
  return std::make_unique<GemvFastReader>(group_size, std::move(zeros_suffix), format);
}

}  // namespace hearth::formats
