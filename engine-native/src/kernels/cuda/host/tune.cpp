// The tuning pass: every way to run a model's 4-bit linears at a few numbers of rows, timed on the model's own weights in
// captured graphs. Takes seconds, once per device and shape (tuning_table.h).
#include <algorithm>
#include <chrono>
#include <cctype>
#include <cstdlib>
#include <cstring>

#include "core/log.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/host/convert.h"
#include "kernels/cuda/host/linear_shared.h"
#include "kernels/cuda/host/tuning_table.h"

namespace hearth::kernels::cuda {

using namespace ops;
using device::CudaStream;
using device::Device;
using device::MemoryKind;

namespace {

const char* path_name(LinearPath path) {
  switch (path) {
    case LinearPath::rows: return "rows";
    case LinearPath::cluster: return "cluster";
    case LinearPath::prefill: return "prefill";
    case LinearPath::mma: return "mma";
    default: return "tile";
  }
}
std::string describe_choice(const LinearChoice& c) {
  char text[80];
  std::snprintf(text, sizeof(text), "%s %d/%d %.1f us", path_name(c.path), c.variant, c.split, static_cast<double>(c.microseconds));
  return text;
}

// Device memory of one pass, given back at its end.
class Buffers {
 public:
  explicit Buffers(Device& device) : device_(device) {}
  ~Buffers() { for (void* p : taken_) device_.release(p); }
  Buffers(const Buffers&) = delete;
  // Zeroed: what the kernels read must be numbers.
  Result<void*> take(size_t bytes) {
    HEARTH_ASSIGN(void* p, device_.allocate(std::max<size_t>(bytes, 256), MemoryKind::workspace, "tuning"));
    taken_.push_back(p);
    HEARTH_TRY(device_.fill_zero(p, bytes));
    return p;
  }

 private:
  Device& device_;
  std::vector<void*> taken_;
};

struct Pass {
  Device& device;
  const TuneRequest& request;
  const LinearImplementation& linear;
  LinearParams params;
};

// One candidate's time for one linear, in microseconds; an error when it cannot run.
Result<float> measure(Pass& pass) {
  constexpr int launches = 16, repeats = 3;
  constexpr float long_us = 2000;  // a launch this long says enough the first time
  auto body = [](void* argument) {
    Pass& p = *static_cast<Pass*>(argument);
    for (int i = 0; i < launches; ++i) {
      p.params.weight = p.request.weights[i % p.request.weights.size()];
      p.linear.run(p.request.spec, p.params, p.device.stream());
    }
    return device::cuda(p.device.stream()).status();
  };
  CudaStream& stream = device::cuda(pass.device.stream());
  stream.defers = false;  // each as a kernel of its own, also where captured steps are programs
  auto graph = pass.device.capture(body, &pass);
  stream.defers = true;
  if (Status s = pass.device.stream().synchronize(); !s) return s;
  if (!graph) return graph.status();
  float best = 0;
  for (int i = 0; i <= repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    HEARTH_TRY(pass.device.replay(**graph));
    HEARTH_TRY(pass.device.stream().synchronize());
    const float us = std::chrono::duration<float, std::micro>(std::chrono::steady_clock::now() - start).count() / launches;
    if (i > 0 || us > long_us) best = best == 0 ? us : std::min(best, us);  // the first run warms up
    if (us > long_us) break;
  }
  return best;
}

// Times every candidate and leaves the best in the table.
Status tune_rows(Pass& pass, int rows, bool trace) {
  pass.params.rows = rows;
  const auto key = TuningTable::key(pass.request.spec, rows);
  LinearChoice best;
  std::string report;
  for (LinearChoice candidate : w4_candidates(pass.request.spec, rows, device::cuda(pass.device.stream()))) {
    tuning_table().set(key, candidate);
    auto us = measure(pass);
    if (!us) {
      if (us.status().code() == Code::device) return us.status();
      continue;
    }
    candidate.microseconds = *us;
    report += (report.empty() ? "" : ", ") + describe_choice(candidate);
    if (best.microseconds == 0 || candidate.microseconds < best.microseconds) best = candidate;
  }
  if (best.microseconds == 0) return unsupported("no kernel could be timed for a linear of " + std::to_string(pass.request.spec.in) + " to " + std::to_string(pass.request.spec.out));
  tuning_table().set(key, best);
  if (trace) std::fprintf(stderr, "tuned linear %d to %d, %d rows: %s (of %s)\n", pass.request.spec.in, pass.request.spec.out, rows, describe_choice(best).c_str(), report.c_str());
  return Status::ok();
}

const LinearImplementation* takes(const LinearSpec& spec, const device::DeviceInfo& info) {
  return spec.weight == WeightFormat::w4 && !linear_w4.declines(spec, info) ? &linear_w4 : nullptr;
}

// What tells devices and drivers apart, on one line.
std::string device_line(Device& device) {
  int driver = 0;
  device::cuda(device.stream()).api().cuDriverGetVersion(&driver);
  const auto& info = device.info();
  return info.name + ", profile " + info.profile.name + ", sm " + std::to_string(info.compute_capability) + ", " + std::to_string(info.threads) + " multiprocessors, driver " + std::to_string(driver);
}
std::string file_name(Device& device) {
  std::string name = device.info().name + "-" + device.info().profile.name;
  for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? static_cast<char>(std::tolower(c)) : '-';
  return name + ".txt";
}

// HEARTH_TUNING=on or off; otherwise where nobody has measured whole steps. The H200's choices by shape were (docs/performance-cuda.md):
// they take into account which kernels stand beside each other, and the pass, which times op by op, chose steps 2 to 4 % slower.
bool wanted(const device::DeviceInfo& info) {
  const char* mode = std::getenv("HEARTH_TUNING");
  if (mode && std::strcmp(mode, "on") == 0) return true;
  if (mode && std::strcmp(mode, "off") == 0) return false;
  return info.profile.name != "h200";
}

std::string table_path(Device& device) {
  const std::string folder = tuning_folder();
  return folder.empty() ? "" : folder + "/" + file_name(device);
}

// Fills the process's table from the file, and says so when the file cannot be used.
void load_table(const std::string& path, const std::string& line) {
  if (path.empty()) return;
  auto table = read_tuning(path, line);
  if (table) { tuning_table().merge(*table); return; }
  if (table.status().code() == Code::not_found) return;
  log::write(log::Level::warn, "tuning cache " + path + " is not used: " + table.status().message() + "; measuring again");
}

}  // namespace

std::string describe_tuning(Device& device) {
  if (!wanted(device.info())) {
    const char* mode = std::getenv("HEARTH_TUNING");
    return mode && std::strcmp(mode, "off") == 0 ? "off (HEARTH_TUNING=off)" : "off: this device's choices were measured in whole steps (HEARTH_TUNING=on tunes all the same)";
  }
  const std::string path = table_path(device);
  if (path.empty()) return "on, at every load: there is no folder to keep results in (set HEARTH_TUNING_CACHE)";
  const auto table = read_tuning(path, device_line(device));
  if (table) return "on; " + std::to_string(table->size()) + " results in " + path;
  if (table.status().code() == Code::not_found) return "on; nothing measured yet, results will be kept in " + path;
  return "on; " + path + " is not used: " + table.status().message() + "; the next load measures again";
}

Status tune_linears(Device& device, std::span<const TuneRequest> requests, int max_rows, const std::function<void(double, double)>& progress) {
  if (!is_cuda(device.info()) || !wanted(device.info())) return Status::ok();
  const std::string line = device_line(device), path = table_path(device);
  load_table(path, line);
  struct Work { const TuneRequest* request; int rows; };
  std::vector<Work> work;
  int widest = 0;
  size_t x = 0, y = 0, workspace = 0;
  for (const TuneRequest& r : requests)
    for (int rows : tuned_rows) {
      if (rows > max_rows || r.weights.empty() || !takes(r.spec, device.info()) || tuning_table().find(r.spec, rows)) continue;
      work.push_back({&r, rows});
      widest = std::max(widest, std::max(r.spec.in, r.spec.out));
      x = std::max(x, static_cast<size_t>(rows) * r.spec.in * 4);
      y = std::max(y, static_cast<size_t>(rows) * r.spec.out * 4);
      workspace = std::max(workspace, linear_w4.workspace_bytes(r.spec, rows, device.info()));
    }
  if (work.empty()) return Status::ok();
  const char* kernels = std::getenv("HEARTH_KERNELS");
  const bool trace = kernels && std::strcmp(kernels, "trace") == 0;
  Buffers buffers(device);
  LinearParams params;
  {
    auto take = [&](size_t bytes) { return buffers.take(bytes); };
    auto a = take(x), b = take(y), w = take(workspace), vector = take(static_cast<size_t>(widest) * 4);
    if (!a || !b || !w || !vector) {
      log::write(log::Level::warn, "no memory left to tune kernels in; they are chosen by shape");
      return Status::ok();
    }
    params.x = *a; params.y = *b; params.workspace = *w;
    params.norm_weight = params.norm_bias = params.bias = static_cast<const float*>(*vector);
  }
  const auto start = std::chrono::steady_clock::now();
  for (size_t i = 0; i < work.size(); ++i) {
    if (progress) progress(static_cast<double>(i), static_cast<double>(work.size()));
    const LinearSpec& s = work[i].request->spec;
    params.x_stride = s.in;
    params.y_stride = s.gated ? s.out / 2 : s.out;
    Pass pass{device, *work[i].request, linear_w4, params};
    HEARTH_TRY(tune_rows(pass, work[i].rows, trace));
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  char took[32];
  std::snprintf(took, sizeof(took), "%.1f s", seconds);
  log::write(log::Level::info, "tuned " + std::to_string(work.size()) + " shapes in " + took + (path.empty() ? std::string(", nowhere to keep them") : ", kept in " + path));
  if (path.empty()) return Status::ok();
  if (Status s = write_tuning(path, line, tuning_table()); !s) log::write(log::Level::warn, "the tuning could not be kept: " + s.message());
  return Status::ok();
}

}  // namespace hearth::kernels::cuda
