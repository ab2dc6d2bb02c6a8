// Calibration's arithmetic on a GPU: arrays stay in its memory as f32, products are the engine's FP16 linears.
#include <algorithm>
#include <map>

#include "ops/calibration.h"
#include "ops/registry.h"
#include "quantize/compensate.h"
#include "quantize/math.h"

namespace hearth::quantize {

namespace {

// Memory that was given back waits here for the next array of its size: a search asks for the same sizes again and again.
class Memory {
 public:
  explicit Memory(std::unique_ptr<device::Device> device) : device_(std::move(device)) {}
  device::Device& device() { return *device_; }

  void* take(size_t bytes) {
    if (!status_) return nullptr;
    const auto found = idle_.lower_bound(bytes);
    if (found != idle_.end() && found->first <= bytes + bytes / 8) return reuse(found);
    Result<void*> pointer = device_->allocate(bytes, device::MemoryKind::workspace, "calibration");
    if (!pointer && !idle_.empty()) {  // full of sizes that nobody wants any more
      for (const auto& [size, idle] : idle_) device_->release(idle);
      idle_.clear();
      pointer = device_->allocate(bytes, device::MemoryKind::workspace, "calibration");
    }
    if (!pointer) {
      fail(Status(pointer.status().code(), pointer.status().message() + "; --device cpu needs no GPU memory"));
      return nullptr;
    }
    sizes_[*pointer] = bytes;
    return *pointer;
  }
  void give_back(void* pointer) {
    if (pointer) idle_.emplace(sizes_[pointer], pointer);
  }
  void fail(Status status) {
    if (status_) status_ = std::move(status);
  }
  bool ok() const { return status_.is_ok(); }
  Status check() {
    const Status stream = device_->stream().synchronize();
    fail(stream);
    return std::exchange(status_, Status::ok());
  }

 private:
  void* reuse(std::multimap<size_t, void*>::iterator at) {
    void* pointer = at->second;
    idle_.erase(at);
    return pointer;
  }
  std::unique_ptr<device::Device> device_;
  std::multimap<size_t, void*> idle_;
  std::map<void*, size_t> sizes_;
  Status status_;
};

class GpuStore final : public DeviceStore {
 public:
  GpuStore(std::shared_ptr<Memory> memory, size_t bytes) : memory_(std::move(memory)), bytes_(bytes), data_(memory_->take(bytes)) {}
  ~GpuStore() override { memory_->give_back(data_); }
  std::unique_ptr<DeviceStore> copy() const override {
    auto other = std::make_unique<GpuStore>(memory_, bytes_);
    if (memory_->ok()) memory_->fail(memory_->device().copy(other->data_, data_, bytes_));
    return other;
  }
  void* data() const { return data_; }

 private:
  std::shared_ptr<Memory> memory_;
  size_t bytes_;
  void* data_;
};

class CudaMath final : public Math {
 public:
  CudaMath(std::unique_ptr<device::Device> device, const ops::CalibrationOps& ops, int threads)
      : memory_(std::make_shared<Memory>(std::move(device))), ops_(ops), pool_(threads) {
    ops_.begin(stream());
  }
  std::string name() const override { return memory_->device().info().name; }
  bool fast() const override { return true; }
  Status check() override { return memory_->check(); }
  ThreadPool& pool() override { return pool_; }

  Array upload(Array host) override {
    Array x = make(host.rows, host.columns);
    to_device(data(x), host.host.data(), bytes_of(x));
    return x;
  }
  std::vector<float> download(const Array& x) override {
    std::vector<float> host(static_cast<size_t>(x.size()));
    to_host(host.data(), data(x), bytes_of(x));
    return host;
  }

  Array multiply(const Array& x, const Array& w) override {
    Array y = make(x.rows, w.rows);
    const Scratch workspace(*this, ops_.product_bytes(x.rows, w.rows, x.columns, info()));
    if (ok()) ops_.product({data(x), data(w), data(y), x.rows, w.rows, x.columns, workspace.data()}, stream());
    return y;
  }

  std::vector<std::vector<float>> grams(const Array& x, int64_t window) override {
    std::vector<std::vector<float>> all;
    for (int64_t first = 0; first < x.columns; first += window) all.push_back(download(gram(x, first, std::min(window, x.columns - first))));
    return all;
  }

  Array norm(const Array& x, std::span<const float> weight, float epsilon) override {
    Array y = make(x.rows, x.columns);
    const Scratch w(*this, weight);
    if (ok()) ops_.norm({data(x), w.floats(), data(y), x.rows, x.columns, epsilon}, stream());
    return y;
  }
  void rotate(Array& x, const Rotation& r) override {
    const Scratch norm(*this, r.norm), frequency(*this, r.rope->inverse_frequency);
    if (!ok()) return;
    ops_.rotate({data(x), r.norm.empty() ? nullptr : norm.floats(), frequency.floats(), x.rows, r.length, r.heads, r.head_dim,
                 static_cast<int>(r.rope->inverse_frequency.size()), r.norm_epsilon, r.rope->amplitude}, stream());
  }
  Array attend(const Array& q, const Array& k, const Array& v, const AttentionShape& s, const Tokens& tokens) override {
    Array out = make(q.rows, q.columns);
    if (ok()) ops_.attend({data(q), data(k), data(v), data(out), tokens.sequences, tokens.length, s.window, s.heads, s.kv_heads, s.head_dim, s.scale}, stream());
    return out;
  }
  void gate(Array& gate, const Array& up, ops::Activation kind) override { map(gate, data(up), kind == ops::Activation::gelu_tanh ? ops::map_gate_gelu_tanh : ops::map_gate_silu); }
  void add(Array& x, const Array& y) override { map(x, data(y), ops::map_add); }
  void add_row(Array& x, std::span<const float> row) override { map_with(x, row, ops::map_add_row); }
  void multiply_columns(Array& x, std::span<const float> factors) override { map_with(x, factors, ops::map_multiply_columns); }
  void divide_columns(Array& x, std::span<const float> factors) override { map_with(x, factors, ops::map_divide_columns); }
  void divide_rows(Array& x, int64_t first, std::span<const float> factors) override {
    const Scratch row(*this, factors);
    if (ok()) ops_.map({data(x) + first * x.columns, row.floats(), static_cast<int64_t>(factors.size()), x.columns, ops::map_divide_rows}, stream());
  }
  Array pick(const Array& x, std::span<const int64_t> rows) override {
    Array y = make(static_cast<int64_t>(rows.size()), x.columns);
    const Scratch index(*this, rows.size_bytes());
    to_device(index.data(), rows.data(), rows.size_bytes());
    if (ok()) ops_.pick({data(x), static_cast<const int64_t*>(index.data()), data(y), y.rows, y.columns}, stream());
    return y;
  }

  std::vector<float> mean_magnitude(const Array& x) override { return columns(x, 0); }
  std::vector<float> largest_magnitude(const Array& x) override { return columns(x, 1); }
  double sum_of_squares(const Array& x) override { return sum(x, nullptr, ops::sum_squares); }
  double squared_distance(const Array& a, const Array& b) override { return sum(a, data(b), ops::sum_squared_differences); }

  void round_int8(Array& x) override {
    if (ok()) ops_.int8({data(x), x.rows, x.columns}, stream());
  }
  Array round_groups(const Array& w, int group, std::span<const float> scales) override {
    Array y = make(w.rows, w.columns);
    const Scratch s(*this, scales);
    if (ok()) ops_.groups({data(w), scales.empty() ? nullptr : s.floats(), data(y), w.rows, w.columns, group}, stream());
    return y;
  }

  double clip(Weight& weight, const Array& inputs, int group) override {
    Array changed = zeros(weight.out, 1);
    for (int64_t first = 0; first < weight.in; first += group) {
      const Array h = gram(inputs, first, group);
      if (ok()) ops_.clip({data(weight.values) + first, data(h), data(changed), weight.out, weight.in, group}, stream());
    }
    return sum(changed, nullptr, ops::sum_values);
  }

  RoundingResult round_compensated(Weight& weight, const Inverse& inverse, int group, bool clip) override {
    const int64_t groups = weight.in / group;
    const size_t codes_bytes = static_cast<size_t>(weight.out * weight.in / 2), cells = static_cast<size_t>(weight.out * groups);
    const Scratch codes(*this, codes_bytes), scales(*this, cells * sizeof(float)), zero_points(*this, cells), errors(*this, static_cast<size_t>(weight.out * group) * sizeof(float));
    Array loss = zeros(weight.out, 1), narrowed = zeros(weight.out, 1);
    for (const Inverse::Window& window : inverse.windows) {
      for (int64_t first = 0; first < window.size && ok(); first += group) {
        const int64_t column = window.first + first, rest = window.size - first - group;
        const float* upper = data(window.upper) + first * window.size + first;
        ops_.round({data(weight.values) + column, upper, errors.floats(), static_cast<uint8_t*>(codes.data()) + column / 2, scales.floats() + column / group,
                    static_cast<uint8_t*>(zero_points.data()) + column / group, data(loss), data(narrowed), weight.out, weight.in, window.size, groups, group, clip ? 10 : 1}, stream());
        if (rest > 0) ops_.push({data(weight.values) + column + group, errors.floats(), upper + group, weight.out, weight.in, rest, window.size, group}, stream());
      }
    }
    weight.grid = {std::vector<uint8_t>(codes_bytes), std::vector<float>(cells), std::vector<uint8_t>(cells)};
    to_host(weight.grid.codes.data(), codes.data(), codes_bytes);
    to_host(weight.grid.scales.data(), scales.data(), cells * sizeof(float));
    to_host(weight.grid.zeros.data(), zero_points.data(), cells);
    return {sum(loss, nullptr, ops::sum_values), sum(narrowed, nullptr, ops::sum_values)};
  }

 private:
  // Memory for the length of a call. Its next user comes later in the same stream.
  class Scratch {
   public:
    Scratch(CudaMath& math, size_t bytes) : memory_(*math.memory_), data_(memory_.take(std::max<size_t>(bytes, 1))) {}
    Scratch(CudaMath& math, std::span<const float> values) : Scratch(math, values.size_bytes()) { math.to_device(data_, values.data(), values.size_bytes()); }
    ~Scratch() { memory_.give_back(data_); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    void* data() const { return data_; }
    float* floats() const { return static_cast<float*>(data_); }

   private:
    Memory& memory_;
    void* data_;
  };

  bool ok() const { return memory_->ok(); }
  device::Stream& stream() { return memory_->device().stream(); }
  const device::DeviceInfo& info() { return memory_->device().info(); }
  static size_t bytes_of(const Array& x) { return static_cast<size_t>(x.size()) * sizeof(float); }
  static float* data(const Array& x) { return static_cast<float*>(static_cast<const GpuStore*>(x.device.get())->data()); }
  Array make(int64_t rows, int64_t columns) { return Array(rows, columns, std::make_unique<GpuStore>(memory_, static_cast<size_t>(rows * columns) * sizeof(float))); }
  Array zeros(int64_t rows, int64_t columns) {
    Array x = make(rows, columns);
    if (ok()) memory_->fail(memory_->device().fill_zero(data(x), bytes_of(x)));
    return x;
  }
  void to_device(void* to, const void* from, size_t bytes) {
    if (ok()) memory_->fail(memory_->device().upload(to, from, bytes));
  }
  void to_host(void* to, const void* from, size_t bytes) {
    if (ok()) memory_->fail(memory_->device().download(to, from, bytes));
    if (ok()) memory_->fail(stream().synchronize());
  }
  void map(Array& x, const float* y, int what) {
    if (ok()) ops_.map({data(x), y, x.rows, x.columns, what}, stream());
  }
  void map_with(Array& x, std::span<const float> row, int what) {
    const Scratch y(*this, row);
    map(x, y.floats(), what);
  }
  std::vector<float> columns(const Array& x, int largest) {
    Array y = make(1, x.columns);
    if (ok()) ops_.columns({data(x), data(y), x.rows, x.columns, largest}, stream());
    return download(y);
  }
  double sum(const Array& a, const float* b, int what) {
    const Scratch partial(*this, ops::calibration_partials * sizeof(double));
    if (ok()) ops_.sum({data(a), b, static_cast<double*>(partial.data()), a.size(), what}, stream());
    double host[ops::calibration_partials] = {};
    to_host(host, partial.data(), sizeof host);
    double total = 0;
    for (const double value : host) total += value;
    return total;
  }
  Array gram(const Array& x, int64_t first, int64_t size) {
    Array y = make(size, size);
    const Scratch workspace(*this, ops_.gram_bytes(x.rows, size, info()));
    if (ok()) ops_.gram({data(x), data(y), x.rows, x.columns, first, size, workspace.data()}, stream());
    return y;
  }

  std::shared_ptr<Memory> memory_;
  const ops::CalibrationOps& ops_;
  ThreadPool pool_;
};

}  // namespace

Result<std::unique_ptr<Math>> make_cuda_math(std::unique_ptr<device::Device> device, int threads) {
  const ops::CalibrationOps* ops = ops::calibration_ops(device->info().kind);
  if (!ops) return unsupported("this build has no CUDA kernels to quantize with; --device cpu does without");
  return std::unique_ptr<Math>(std::make_unique<CudaMath>(std::move(device), *ops, threads));
}

}  // namespace hearth::quantize
