#include "model/weights.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <numeric>
#include <thread>

namespace hearth::model {

using formats::Checkpoint;
using formats::LinearData;
using formats::LinearHeader;
using formats::TensorView;

namespace {

constexpr size_t alignment = 256;
// One huge allocation fails on fragmented unified memory; thousands of small ones waste huge pages.
constexpr size_t chunk_bytes = size_t{512} << 20;

size_t round_up(size_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

std::string shape_text(int rows, int columns) { return "[" + std::to_string(rows) + ", " + std::to_string(columns) + "]"; }

Status copy_floats(const std::vector<float>& values, size_t bytes, void* to, const std::string& what) {
  if (values.size() * sizeof(float) != bytes) {
    return corrupt(what + ": has " + std::to_string(values.size()) + " values, expected " + std::to_string(bytes / sizeof(float)));
  }
  std::memcpy(to, values.data(), bytes);
  return Status::ok();
}

bool same_form(const HeldLinear& a, const HeldLinear& b) {
  return a.format == b.format && a.activations == b.activations && a.group == b.group && a.symmetric == b.symmetric;
}

}  // namespace

WeightPlan::~WeightPlan() {
  for (void* chunk : chunks_) device_.release(chunk);
}

void WeightPlan::add(Item item) {
  bytes_ += static_cast<int64_t>(round_up(item.bytes));
  items_.push_back(std::move(item));
}

// The one form that all stacked parts are held in; parts stored differently meet as f16.
Result<HeldLinear> WeightPlan::held_form(const LinearRequest& request, const Precision& precision, bool& bias) const {
  std::optional<HeldLinear> form;
  bool mixed = false;
  for (size_t i = 0; i < request.modules.size(); i++) {
    HEARTH_ASSIGN(const LinearHeader header, checkpoint_.linear_header(request.modules[i]));
    if (header.in != request.in || header.out != request.rows[i]) {
      return corrupt(checkpoint_.path() + ": tensor '" + request.modules[i] + ".weight' has shape " + shape_text(header.out, header.in) +
                     ", expected " + shape_text(request.rows[i], request.in));
    }
    if (request.bias_required && !header.bias) {
      return corrupt(checkpoint_.path() + ": tensor '" + request.modules[i] + ".bias' is missing");
    }
    bias |= header.bias;
    const HeldLinear held = precision.held(header);
    mixed |= form && !same_form(*form, held);
    if (!form) form = held;
    form->converted |= held.converted;
  }
  if (mixed) return HeldLinear{ops::WeightFormat::f16, ops::ActivationFormat::exact, 0, false, 0, true};
  return *form;
}

Status WeightPlan::declare_bias(const LinearRequest& request, int out, const float** to) {
  parameters_ += out;
  return values(request.modules.front() + ".bias", out,
                [request](const Checkpoint& checkpoint) -> Result<std::vector<float>> {
                  std::vector<float> all;
                  for (size_t i = 0; i < request.modules.size(); i++) {
                    const std::string name = request.modules[i] + ".bias";
                    if (!checkpoint.find(name)) {  // only some of the stacked parts have one
                      all.resize(all.size() + static_cast<size_t>(request.rows[i]));
                      continue;
                    }
                    const int64_t shape[] = {request.rows[i]};
                    HEARTH_ASSIGN(const std::vector<float> part, checkpoint.floats(name, shape));
                    all.insert(all.end(), part.begin(), part.end());
                  }
                  return all;
                },
                to);
}

// What a converted file says of this linear, or would.
formats::PackedHeader WeightPlan::packed_header(const LinearRequest& request, const HeldLinear& held, const Linear& linear) const {
  formats::PackedHeader header;
  header.modules = request.modules;
  header.rows = request.rows;
  for (const std::string& module : request.modules) header.biases.push_back(checkpoint_.find(module + ".bias") != nullptr);
  header.linear = {request.spec.in, request.spec.out, held.format, held.group, held.symmetric, request.spec.bias, false, held.static_scale, linear.op.layout()};
  header.activations = held.activations;
  header.bytes = static_cast<int64_t>(linear.op.packed_bytes());
  return header;
}

// A converted file holds one layout: this device must want that one, in that precision.
Status WeightPlan::check_packed(const LinearRequest& request, const HeldLinear& held, const Linear& linear) const {
  const formats::PackedHeader wanted = packed_header(request, held, linear);
  const formats::PackedHeader* found = checkpoint_.packed_header(wanted.key());
  const std::string again = "; run: hearth convert SOURCE --target " + target_name(device_.info()) + " --out DIR";
  if (!found)
    return unsupported(checkpoint_.path() + " was converted for another kind of device (" + std::string(checkpoint_.target()) +
                       ")" + again);
  if (found->linear.layout != wanted.linear.layout || found->bytes != wanted.bytes || found->linear.format != wanted.linear.format ||
      found->linear.group != wanted.linear.group || found->linear.symmetric != wanted.linear.symmetric || found->rows != wanted.rows) {
    return unsupported(checkpoint_.path() + " was converted for " + std::string(checkpoint_.target()) + " (layout " + found->linear.layout +
                       "), and this device needs layout " + wanted.linear.layout + " in this precision" + again);
  }
  return Status::ok();
}

Status WeightPlan::declare_linear(const LinearRequest& request, const HeldLinear& held, Linear* to) {
  HEARTH_ASSIGN(to->op, ops::bind(request.spec, device_.info()));
  Item item;
  item.what = request.modules.front();
  item.bytes = to->op.packed_bytes();
  item.place = [to](void* at) { to->weight = at; };
  item.forget = request.modules;
  if (!request.custom) item.packed = packed_header(request, held, *to);
  if (!request.custom && !checkpoint_.target().empty()) {
    HEARTH_TRY(check_packed(request, held, *to));
    item.forget = {item.packed->key()};
    item.stored = checkpoint_.packed_bytes(item.packed->key()).first(item.bytes);
    item.fill = [this, stored = item.stored](void* at) { return checkpoint_.read(stored, at); };
  } else item.fill = [this, request, held, to](void* at) -> Status {
    if (request.custom) {
      HEARTH_ASSIGN(const std::vector<float> values, request.custom(checkpoint_));
      LinearData dense;
      dense.host = {request.spec.in, request.spec.out, ops::WeightFormat::f32, 0, false, values.data(), nullptr, nullptr};
      if (request.spec.weight == ops::WeightFormat::f32) return to->op.pack(dense.host, at), Status::ok();
      const LinearData narrow = narrow_dense(dense.host, request.spec.weight);
      to->op.pack(narrow.host, at);
      return Status::ok();
    }
    HEARTH_ASSIGN(const LinearData data, read_held(checkpoint_, request.modules, held));
    to->op.pack(data.host, at);
    return Status::ok();
  };
  add(std::move(item));
  linears_.push_back(to);
  const int64_t count = int64_t{request.spec.in} * request.spec.out;
  parameters_ += count;
  held_[name_of(held, device_.info().kind)] += count;
  const bool narrow = held.format == ops::WeightFormat::w4 || held.format == ops::WeightFormat::w8;
  if (!request.custom && request.modules.front() != "lm_head" && request.modules.front() != "model.embed_tokens") (narrow ? narrow_ : wide_)++;
  if (narrow && held.converted) rounded_[name_of(held, device_.info().kind)]++;
  return Status::ok();
}

std::vector<ops::TuneRequest> WeightPlan::tune_requests() const {
  constexpr size_t kept = 8;  // enough that a layer's weights have left the caches when it comes again
  auto same = [](const ops::LinearSpec& a, const ops::LinearSpec& b) {
    return a.in == b.in && a.out == b.out && a.weight == b.weight && a.group == b.group && a.gated == b.gated && a.residual == b.residual &&
           a.norm == b.norm && a.activation == b.activation && a.bias == b.bias && a.x_type == b.x_type && a.y_type == b.y_type;
  };
  std::vector<ops::TuneRequest> requests;
  for (const Linear* linear : linears_) {
    if (linear->weight == nullptr) continue;
    const ops::LinearSpec& spec = linear->op.inner();
    auto at = std::find_if(requests.begin(), requests.end(), [&](const ops::TuneRequest& r) { return same(r.spec, spec); });
    if (at == requests.end()) at = requests.insert(at, {spec, {}});
    if (at->weights.size() < kept) at->weights.push_back(linear->weight);
  }
  return requests;
}

Status WeightPlan::linear(LinearRequest request, const Precision& precision, Linear* to) {
  bool bias = request.custom ? request.bias_required : false;
  HeldLinear held{request.custom_format, ops::ActivationFormat::exact, 0, false, 0, false};
  if (!request.custom) {
    HEARTH_ASSIGN(held, held_form(request, precision, bias));
  }
  ops::LinearSpec& spec = request.spec;
  spec.in = request.in;
  spec.out = std::accumulate(request.rows.begin(), request.rows.end(), 0);
  spec.weight = held.format;
  spec.activations = held.activations;
  spec.group = held.group;
  spec.symmetric = held.symmetric;
  spec.static_scale = held.static_scale;
  spec.bias = bias;
  Status bound = declare_linear(request, held, to);
  if (!bound) return bound.with(request.modules.front());
  if (bias) HEARTH_TRY(declare_bias(request, spec.out, &to->bias));
  if (!request.norm.empty()) {
    HEARTH_TRY(vector(request.norm + ".weight", spec.in, request.norm_offset, &to->norm_weight));
    if (spec.norm == ops::NormKind::layer) HEARTH_TRY(vector(request.norm + ".bias", spec.in, 0, &to->norm_bias));
  }
  return Status::ok();
}

Status WeightPlan::vector(const std::string& name, int size, float offset, const float** to) {
  const int64_t shape[] = {size};
  HEARTH_TRY(checkpoint_.require(name, shape).status());
  parameters_ += size;
  return values(name, size,
                [name, size, offset](const Checkpoint& checkpoint) -> Result<std::vector<float>> {
                  const int64_t expected[] = {size};
                  HEARTH_ASSIGN(std::vector<float> read, checkpoint.floats(name, expected));
                  for (float& value : read) value += offset;
                  return read;
                },
                to);
}

Status WeightPlan::values(const std::string& what, int64_t count,
                          std::function<Result<std::vector<float>>(const Checkpoint&)> make, const float** to) {
  Item item;
  item.what = what;
  item.bytes = static_cast<size_t>(count) * sizeof(float);
  item.place = [to](void* at) { *to = static_cast<const float*>(at); };
  item.fill = [this, what, bytes = item.bytes, make = std::move(make)](void* at) -> Status {
    HEARTH_ASSIGN(const std::vector<float> made, make(checkpoint_));
    return copy_floats(made, bytes, at, what);
  };
  add(std::move(item));
  return Status::ok();
}

Status WeightPlan::table(const std::string& name, int rows, int width, DType* type, const void** to) {
  const int64_t shape[] = {rows, width};
  HEARTH_ASSIGN(const TensorView* view, checkpoint_.require(name, shape));
  if (view->type != DType::f32 && view->type != DType::f16 && view->type != DType::bf16) {
    return unsupported(view->file + ": tensor '" + name + "' has type " + hearth::name_of(view->type) + ": a table must be f32, f16 or bf16");
  }
  *type = view->type;
  Item item;
  item.what = name;
  item.bytes = view->data.size();
  item.forget = {name};
  item.place = [to](void* at) { *to = at; };
  item.stored = view->data;
  item.fill = [this, view](void* at) { return checkpoint_.read(view->data, at); };
  parameters_ += view->elements();
  add(std::move(item));
  return Status::ok();
}

std::vector<std::string> WeightPlan::notes() const {
  std::vector<std::string> notes;
  for (const auto& [form, count] : rounded_) {
    const std::string what = count == 1 ? "1 linear is" : std::to_string(count) + " linears are";
    notes.push_back(what + " rounded to nearest, to " + form + ", while loading; hearth quantize keeps more of the model");
  }
  if (narrow_ > 0 && wide_ > 0) notes.push_back(std::to_string(wide_) + " of " + std::to_string(narrow_ + wide_) + " linears are held in 16 bits or more, as the file has them or since no group divides them");
  return notes;
}

std::string WeightPlan::held_name() const {
  std::string name = "f32";
  int64_t most = -1;
  for (const auto& [form, count] : held_) {
    if (count > most) name = form, most = count;
  }
  return name;
}

// What a converted file has as ops want it is used where the checkpoint has settled it: nothing is copied.
void WeightPlan::place_settled() {
  constexpr uintptr_t line = 64;
  for (Item& item : items_) {
    const std::byte* at = checkpoint_.settled(item.stored);
    if (at == nullptr || reinterpret_cast<uintptr_t>(at) % (item.packed ? alignment : line) != 0) continue;
    item.ready = true;
    item.place(const_cast<std::byte*>(at));
  }
}

Status WeightPlan::take_memory() {
  std::vector<Item*> items;
  for (Item& item : items_) {
    if (!item.ready) items.push_back(&item);
  }
  for (size_t at = 0; at < items.size();) {
    size_t bytes = 0, end = at;
    while (end < items.size() && (end == at || bytes + round_up(items[end]->bytes) <= chunk_bytes)) {
      bytes += round_up(items[end++]->bytes);
    }
    HEARTH_ASSIGN(void* chunk, device_.allocate(bytes, device::MemoryKind::weights, "weights"));
    chunks_.push_back(chunk);
    auto* place = static_cast<uint8_t*>(chunk);
    for (; at < end; at++) {
      items[at]->device = place;
      items[at]->place(place);
      place += round_up(items[at]->bytes);
    }
  }
  return Status::ok();
}

// Two blocks of memory that the device copies from without a detour: one is read into while the other is copied.
Status WeightPlan::stream_staged(std::span<Item* const> items, const Advance& advance) {
  constexpr size_t block = size_t{8} << 20;
  struct Staging {
    device::Device& device;
    std::unique_ptr<device::Device::CopyQueue> queue;
    void* memory = nullptr;
    ~Staging() {
      if (queue) (void)queue->finish();
      if (memory) device.release(memory);
    }
  } staging[2] = {{device_, nullptr}, {device_, nullptr}};
  for (Staging& one : staging) {
    HEARTH_ASSIGN(one.queue, device_.open_copy_queue());
    HEARTH_ASSIGN(one.memory, device_.allocate(block, device::MemoryKind::staging, "weights on their way"));
  }
  int turn = 0;
  double done = 0;
  for (Item* item : items) {
    for (size_t at = 0; at < item->bytes; at += block, turn ^= 1) {
      const size_t size = std::min(block, item->bytes - at);
      Staging& one = staging[turn];
      HEARTH_TRY(one.queue->finish());
      HEARTH_TRY(checkpoint_.read(item->stored.subspan(at, size), one.memory));
      HEARTH_TRY(one.queue->upload(static_cast<uint8_t*>(item->device) + at, one.memory, size));
      HEARTH_TRY(advance(done += static_cast<double>(size)));
    }
    item->ready = true;
  }
  HEARTH_TRY(staging[0].queue->finish());
  return staging[1].queue->finish();
}

// What the file has as ops want it, in the file's order and by one thread: reading ahead then keeps the disk busy, which
// several readers of one file would confuse.
Status WeightPlan::stream_stored(const Advance& advance) {
  std::vector<Item*> items;
  for (Item& item : items_) {
    if (!item.stored.empty() && !item.ready) items.push_back(&item);
  }
  std::stable_sort(items.begin(), items.end(), [](const Item* a, const Item* b) { return a->stored.data() < b->stored.data(); });
  if (items.empty()) return Status::ok();
  if (!device_.host_visible()) return stream_staged(items, advance);
  double done = 0;
  for (Item* item : items) {
    HEARTH_TRY(fill(*item));
    item->ready = true;
    HEARTH_TRY(advance(done += static_cast<double>(item->bytes)));
  }
  return Status::ok();
}

Status WeightPlan::fill(const Item& item) {
  if (item.ready) return Status::ok();
  static std::mutex uploading;  // a device takes one copy at a time
  Status status;
  if (device_.host_visible()) {
    status = item.fill(item.device);
  } else {
    std::vector<uint8_t> packed(item.bytes);
    status = item.fill(packed.data());
    std::lock_guard lock(uploading);
    if (status) status = device_.upload(item.device, packed.data(), packed.size());
  }
  // Where weights live in the system's own memory the file's pages would be a second copy. Elsewhere they are a cache
  // that makes the next start fast.
  if (device_.host_visible()) {
    for (const std::string& name : item.forget) checkpoint_.forget(name);
  }
  return status;
}

Status WeightPlan::run_threads(const Progress& progress) {
  // Large tensors first, so that no thread is left with the biggest at the end.
  std::vector<size_t> order(items_.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return items_[a].bytes > items_[b].bytes; });
  std::atomic<size_t> next{0};
  std::mutex mutex;
  Status first;
  double done = 0;
  for (const Item& item : items_) done += item.ready ? static_cast<double>(round_up(item.bytes)) : 0;
  auto work = [&] {
    for (size_t i = next++; i < order.size(); i = next++) {
      const Item& item = items_[order[i]];
      Status status = fill(item);
      std::lock_guard lock(mutex);
      done += item.ready ? 0 : static_cast<double>(round_up(item.bytes));
      if (status && progress && !progress(done, static_cast<double>(bytes_))) status = load_cancelled();
      if (!status && first) first = status, next = order.size();
    }
  };
  constexpr unsigned threads_max = 16;
  const unsigned count = std::min({std::max(1u, std::thread::hardware_concurrency()), threads_max,
                                   static_cast<unsigned>(std::max<size_t>(1, items_.size()))});
  std::vector<std::thread> threads;
  for (unsigned i = 1; i < count; i++) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  return first;
}

void WeightPlan::packed_items(std::vector<PackedItem>& to) const {
  for (const Item& item : items_) {
    if (item.packed) to.push_back({*item.packed, item.fill});
  }
}

Status WeightPlan::load(const Progress& progress) {
  place_settled();
  HEARTH_TRY(take_memory());
  HEARTH_TRY(stream_stored([&](double done) {
    return !progress || progress(done, static_cast<double>(bytes_)) ? Status::ok() : load_cancelled();
  }));
  return run_threads(progress);
}

}  // namespace hearth::model
