// hearth-bench: what the whole engine does, against what the machine could do, both measured in this process.
//
//   hearth-bench --json (--model DIR | --shape NAME) --device cpu|cuda --precision w4a16|w4a8|w4a32|w8a8|f16|...
//                --batch 1,4,16 --prompt 128,512,2048 --new 128 [--context N] [--threads N] [--prompt-threads N]
//                [--kv auto|f16|int8|...]
//                [--group N] [--symmetric] [--head-bits N] [--repeat N] [--chunk N] [--images 1,8] [--interactive]
//                [--sampling '{"temperature":0.6,"top_p":0.9}']   how tokens are drawn; without it the best one is taken
//                [--predicted PERCENT]   decodes again, that much of the answer given as its prediction: phase "predicted"
//                [--set name=value,...]   choices between CUDA kernels, as in hearth-gpu-bench
// --interactive: measures "PROMPT BATCH NEW" for each line of standard input, so that another program can take turns.
//
// With --images the prompt holds that many pictures: see vision_bench.h.
//
// One JSON line a measurement. Requests go through the engine as a server's would: mailbox, scheduler, step loop, ring.
//   prefill: batch prompts from submit to the last first token; a token is a prompt token.
//   decode: from the moment every sequence has its first token until the first one ends; a token is a generated one.
// bytes_per_token (decode): weights that a step reads, and the KV of all live sequences, over the tokens of a step.
// limit: bandwidth over those bytes (decode); measured matrix throughput over 2 x parameters (prefill).
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>

#include "device/bandwidth.h"
#include "device/cpu_stream.h"
#include "device/placement.h"
#include "kernels/cuda/host/tuning.h"
#include "ops/bind.h"
#include "runtime/engine.h"
#include "runtime/json_reader.h"
#include "vision_bench.h"

namespace {

using namespace hearth;
using runtime::Json;
using Clock = std::chrono::steady_clock;

struct Arguments {
  std::string model, shape, device = "cpu", precision = "auto", vision = "auto", kv = "auto", set, sampling = R"({"temperature":0})";
  std::vector<int> batch = {1}, prompt = {128}, images;
  bool symmetric = false, interactive = false;
  int count_new = 128, context = 0, threads = 0, prompt_threads = 0, group = 0, head_bits = 0, repeat = 1, chunk = 0, predicted = -1;
  bool json = false;
};

constexpr const char* usage_text =
    "usage: hearth-bench (--model DIR | --shape NAME) [--json] [--device cpu|cuda] [--precision P] [--batch 1,4]\n"
    "       [--prompt 128,512] [--new 128] [--context N] [--threads N] [--prompt-threads N] [--kv K] [--group N] [--symmetric] [--head-bits N]\n"
    "       [--repeat N] [--chunk N] [--images 1,8 [--vision-precision P]] [--interactive] [--sampling JSON]\n"
    "       [--predicted PERCENT] [--set CHOICES]\n";

[[noreturn]] void usage(const std::string& problem) {
  std::fprintf(stderr, "hearth-bench: %s\n%s", problem.c_str(), usage_text);
  std::exit(2);
}

[[noreturn]] void help() {
  std::fputs(usage_text, stdout);
  std::exit(0);
}

int number(const std::string& text, const char* option) {
  size_t end = 0;
  int value = -1;
  try {
    value = std::stoi(text, &end);
  } catch (const std::exception&) {
  }
  if (value < 0 || end != text.size()) usage(std::string(option) + " needs a whole number, not \"" + text + "\"");
  return value;
}

std::vector<int> numbers(const std::string& text, const char* option) {
  std::vector<int> out;
  for (size_t begin = 0; begin <= text.size();) {
    size_t end = std::min(text.find(',', begin), text.size());
    out.push_back(std::max(1, number(text.substr(begin, end - begin), option)));
    begin = end + 1;
  }
  return out;
}

Arguments parse(int argc, char** argv) {
  Arguments a;
  for (int i = 1; i < argc; ++i) {
    std::string option = argv[i];
    if (option == "--help" || option == "-h") help();
    if (option == "--json") { a.json = true; continue; }
    if (option == "--symmetric") { a.symmetric = true; continue; }
    if (option == "--interactive") { a.interactive = true; continue; }
    // Taken only by an option that is known, so that a mistyped one is named as such.
    auto value = [&] {
      if (i + 1 >= argc) usage(option + " needs a value");
      return std::string(argv[++i]);
    };
    if (option == "--model") a.model = value();
    else if (option == "--shape") a.shape = value();
    else if (option == "--device") a.device = value();
    else if (option == "--precision") a.precision = value();
    else if (option == "--kv") a.kv = value();
    else if (option == "--batch") a.batch = numbers(value(), "--batch");
    else if (option == "--prompt") a.prompt = numbers(value(), "--prompt");
    else if (option == "--new") a.count_new = std::max(2, number(value(), "--new"));
    else if (option == "--context") a.context = number(value(), "--context");
    else if (option == "--threads") a.threads = number(value(), "--threads");
    else if (option == "--prompt-threads") a.prompt_threads = number(value(), "--prompt-threads");
    else if (option == "--group") a.group = number(value(), "--group");
    else if (option == "--head-bits") a.head_bits = number(value(), "--head-bits");
    else if (option == "--vision-precision") a.vision = value();
    else if (option == "--images") a.images = numbers(value(), "--images");
    else if (option == "--repeat") a.repeat = std::max(1, number(value(), "--repeat"));
    else if (option == "--set") a.set = value();
    else if (option == "--sampling") a.sampling = value();
    else if (option == "--predicted") a.predicted = number(value(), "--predicted");
    else if (option == "--chunk") a.chunk = number(value(), "--chunk");
    else usage("unknown option " + option);
  }
  if (a.model.empty() == a.shape.empty()) usage("either --model or --shape is needed");
  if (a.predicted > 100) usage("--predicted takes a percentage");
  if (a.shape.empty() && !std::filesystem::exists(a.model)) usage("--model: there is no \"" + a.model + "\"");
  return a;
}

// Ends with 2 for what can be corrected in the command, the model or the machine's memory, with 1 for a failure of Hearth.
void must(const Status& status) {
  if (status) return;
  std::fprintf(stderr, "hearth-bench: %s\n", status.message().c_str());
  const bool to_correct = status.code() <= Code::io;
  std::exit(to_correct ? 2 : 1);
}
template <class T>
T must(Result<T> result) {
  if (!result) must(result.status());
  return std::move(result).value();
}

// ---- The machine's limits --------------------------------------------------------------------------------------------

// CUDA: a device copy reads and writes every byte.
double copy_gb_s(device::Device& device) {
  const size_t bytes = size_t{1} << 30;
  void* a = must(device.allocate(bytes, device::MemoryKind::workspace, "bandwidth"));
  void* b = must(device.allocate(bytes, device::MemoryKind::workspace, "bandwidth"));
  double best = 0;
  for (int pass = 0; pass < 8; ++pass) {
    must(device.stream().synchronize());
    auto begin = Clock::now();
    for (int i = 0; i < 4; ++i) must(device.copy(b, a, bytes));
    must(device.stream().synchronize());
    best = std::max(best, 4 * 2 * static_cast<double>(bytes) / std::chrono::duration<double>(Clock::now() - begin).count() / 1e9);
  }
  device.release(a);
  device.release(b);
  return best;
}

// Operations a second of a large linear: the best this engine's own kernels reach. Dense; on a CPU whose activations are
// int8, 8-bit weights, which need no decoding and no scales of groups.
double matrix_flops(device::Device& device, bool int8 = false) {
  const bool cpu = device.info().kind == device::DeviceKind::cpu;
  const int width = cpu ? 2048 : 8192, rows = cpu ? 256 : 8192;
  device.begin_rows(rows);
  ops::LinearSpec spec;
  spec.in = spec.out = width;
  spec.weight = cpu ? ops::WeightFormat::f32 : ops::WeightFormat::f16;
  spec.x_type = spec.y_type = cpu ? DType::f32 : DType::f16;
  std::vector<float> scales;
  if (cpu && int8) {
    spec.weight = ops::WeightFormat::w8, spec.activations = ops::ActivationFormat::int8_row;
    scales.assign(width, 0.01f);
  }
  auto bound = must(ops::bind(spec, device.info()));
  size_t weight_bytes = static_cast<size_t>(width) * width * (cpu ? 4 : 2), row_bytes = static_cast<size_t>(rows) * width * (cpu ? 4 : 2);
  std::vector<std::byte> host(weight_bytes, std::byte{0}), packed(bound.packed_bytes());
  bound.pack({width, width, spec.weight, 0, false, host.data(), scales.empty() ? nullptr : scales.data(), nullptr}, packed.data());
  void* weight = must(device.allocate(packed.size(), device::MemoryKind::workspace, "matrix"));
  void* x = must(device.allocate(row_bytes, device::MemoryKind::workspace, "matrix"));
  void* y = must(device.allocate(row_bytes, device::MemoryKind::workspace, "matrix"));
  void* scratch = must(device.allocate(std::max<size_t>(1, bound.workspace_bytes(rows, device.info())), device::MemoryKind::workspace, "matrix"));
  must(device.upload(weight, packed.data(), packed.size()));
  must(device.fill_zero(x, row_bytes));
  ops::LinearParams params;
  params.rows = rows;
  params.x = x, params.x_stride = width, params.weight = weight, params.y = y, params.y_stride = width, params.workspace = scratch;
  double best = 0;
  for (int pass = 0; pass < 6; ++pass) {
    must(device.stream().synchronize());
    auto begin = Clock::now();
    bound.run(params, device.stream());
    must(device.stream().synchronize());
    best = std::max(best, 2.0 * width * width * rows / std::chrono::duration<double>(Clock::now() - begin).count());
  }
  for (void* pointer : {weight, x, y, scratch}) device.release(pointer);
  return best;
}

// Most memory the process had at once, file pages left out; with a GPU, the plan of its memory on top.
int64_t peak_bytes(const Json& info, bool cuda) {
  std::ifstream file("/proc/self/status");
  int64_t peak = 0, pages_of_files = 0;
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("VmHWM:", 0) == 0) peak = std::atoll(line.c_str() + 6) * 1024;
    if (line.rfind("RssFile:", 0) == 0) pages_of_files = std::atoll(line.c_str() + 8) * 1024;
  }
  peak = std::max<int64_t>(0, peak - pages_of_files);
  if (cuda)
    for (const Json& line : info["memory"])
      if (line["what"] != "total") peak += line["bytes"].get<int64_t>();
  return peak;
}

// ---- Driving the engine ----------------------------------------------------------------------------------------------

class Bench {
 public:
  explicit Bench(const Arguments& a) : a_(a), count_new_(a.count_new) {
    runtime::EngineOptions options;
    options.device = a.device;
    options.threads = a.threads, options.prompt_threads = a.prompt_threads;
    options.ring_bytes = 64 << 20;
    options.queue_tokens = INT64_MAX / 2;
    options.queue_requests = 4096;
    measure_limits(options);
    std::ofstream("/proc/self/clear_refs") << "5";  // the peak is the model's, not the bandwidth test's
    engine_ = must(runtime::Engine::open(options));
    doorbell_ = engine_->take_doorbell();
    load();
  }
  ~Bench() {
    engine_->close();
    close(doorbell_);
  }

  void run() {
    if (a_.interactive) return run_as_told();
    for (int prompt : a_.prompt)
      for (int batch : a_.batch) measure(batch, prompt);
  }

 private:
  // "PROMPT BATCH NEW" a line of standard input: each is measured when it comes, and not warmed up.
  void run_as_told() {
    std::fprintf(stderr, "ready\n");
    for (int prompt, batch; std::scanf("%d %d %d", &prompt, &batch, &count_new_) == 3;) measure(batch, prompt);
  }

  // Before the model is there: the bandwidth test wants quiet memory of its own.
  void measure_limits(const runtime::EngineOptions& options) {
    auto device = must(runtime::open_device(options));
    cuda_ = device->info().kind == device::DeviceKind::cuda;
    bandwidth_ = cuda_ ? copy_gb_s(*device) : must(device::measure_cpu_read_bandwidth(*device)).gb_s;
    flops_ = matrix_flops(*device, a_.precision == "w4a8" || a_.precision == "w8a8" || a_.precision == "auto");
  }

  void load() {
    int longest = *std::max_element(a_.prompt.begin(), a_.prompt.end()), most = *std::max_element(a_.batch.begin(), a_.batch.end());
    int context = a_.context > 0 ? a_.context : longest + count_new_ + 16;
    Json request = {{"precision", a_.precision}, {"kv", a_.kv}, {"group", a_.group}, {"symmetric", a_.symmetric}, {"head_bits", a_.head_bits}, {"context", context},
                    {"max_sequences", most}, {"kv_tokens", static_cast<int64_t>(context + 16) * most}, {"prefix_cache", false}, {"prefill_chunk", a_.chunk}};
    request[a_.model.empty() ? "shape" : "path"] = a_.model.empty() ? a_.shape : a_.model;
    uint32_t job = 0;
    must(engine_->model_open(request.dump(), model_, job));
    Status loading(Code::internal, "the load did not finish");
    wait([&](const Json& finished) {
      loading = finished.contains("error") ? Status(finished["error"]["status"].get<Code>(), finished["error"]["message"].get<std::string>()) : Status::ok();
      return true;
    }, job);
    must(loading);
    info_ = must(engine_->model_info(model_));
    auto loaded = must(engine_->ready_model(model_));
    kv_bytes_per_token_ = static_cast<double>(loaded->model->kv_block_bytes()) / kv::block_tokens;
    for (const Json& line : info_["memory"])
      if (line["what"] == "weights") weight_bytes_ = line["bytes"].get<double>();
  }

  // Drains until `job` is finished.
  template <class Done>
  void wait(Done done, uint32_t job) {
    for (bool over = false; !over;) {
      drain([&](const uint8_t* record, uint16_t type, uint32_t request, uint32_t) {
        if (type != 4 || request != job) return;
        uint32_t size;
        std::memcpy(&size, record + 28, 4);
        over = done(Json::parse(std::string(reinterpret_cast<const char*>(record) + 48, size)));
      });
    }
  }
  template <class Each>
  void drain(Each each) {
    pollfd p{doorbell_, POLLIN, 0};
    ::poll(&p, 1, 1000);
    char bell[64];
    (void)!::read(doorbell_, bell, sizeof bell);
    for (;;) {
      uint32_t written = 0;
      engine_->drain(buffer_, written);
      if (written == 0) return;
      for (uint32_t at = 0; at < written;) {
        uint32_t size, request, reason;
        uint16_t type;
        std::memcpy(&size, &buffer_[at], 4), std::memcpy(&type, &buffer_[at + 4], 2);
        std::memcpy(&request, &buffer_[at + 8], 4), std::memcpy(&reason, &buffer_[at + 16], 4);
        each(&buffer_[at], type, request, reason);
        at += size;
      }
    }
  }

  // What steps cost besides time: products by operand, and threads waiting for one another.
  struct Cost {
    ops::Work work;
    uint64_t barriers = 0;
  };
  Cost cost() const {
    Cost c{ops::work(), 0};
    if (!cuda_) c.barriers = device::pool_of(engine_->ready_model(model_).value()->device->stream()).synchronisations();
    return c;
  }
  struct Timing {
    double prefill_s = 0, decode_s = 0;
    int64_t decoded = 0;
    Cost begin, first, end;
  };
  // The answer before, of which every so many tokens are others.
  std::vector<int32_t> prediction(size_t sequence, std::mt19937& random) const {
    std::vector<int32_t> tokens = answers_[sequence];
    const int vocabulary = info_["vocabulary"];
    for (int32_t& token : tokens)
      if (static_cast<int>(random() % 100) >= a_.predicted) token = static_cast<int32_t>(random() % vocabulary);
    return tokens;
  }

  Timing once(int batch, int prompt, bool predicted = false) {
    std::mt19937 random(static_cast<unsigned>(batch * 131 + prompt));
    int vocabulary = info_["vocabulary"];
    Json request = Json::parse(a_.sampling);
    request.update(Json{{"max_tokens", count_new_}, {"ignore_eos", true}, {"speculate", predicted}});
    std::vector<std::vector<int32_t>> prompts(batch, std::vector<int32_t>(prompt));
    for (auto& ids : prompts)
      for (int32_t& id : ids) id = static_cast<int32_t>(random() % vocabulary);
    auto begin = Clock::now(), all_first = begin, end = begin;
    Timing t;
    t.begin = cost();
    std::map<uint32_t, size_t> sequence_of;
    for (size_t i = 0; i < prompts.size(); ++i) {
      uint32_t id = 0;
      if (predicted) request["prediction"] = prediction(i, random);
      must(engine_->submit(model_, {request.dump(), {}, {}, prompts[i], {}}, id));
      sequence_of[id] = i;
    }
    if (!predicted) answers_.assign(batch, {});
    int started = 0, finished = 0;
    double own_decode_s = 0;
    std::map<uint32_t, int> seen, together;  // tokens of a request: all, and those of steps that decode all of the batch
    while (finished < batch) {
      drain([&](const uint8_t* record, uint16_t type, uint32_t request, uint32_t reason) {
        auto now = Clock::now();
        int32_t token;
        std::memcpy(&token, record + 12, 4);
        if (type == 1 && !predicted) answers_[sequence_of.at(request)].push_back(token);
        if (type == 1 && seen[request]++ == 0 && ++started == batch) all_first = now, t.first = cost();
        else if (type == 1 && started == batch && finished == 0) ++together[request], end = now;
        if (type != 4) return;
        // The step in which the first is done counts for all of them, though their records come behind it.
        if (finished++ == 0) t.decoded = int64_t{batch} * together[request];
        uint32_t size;
        std::memcpy(&size, record + 28, 4);
        std::string usage(reinterpret_cast<const char*>(record) + 48, size);
        if (reason != 2) must(Status(Code::internal, usage));
        if (batch == 1) own_decode_s = Json::parse(usage)["decode_ms"].get<double>() / 1000;
      });
    }
    t.end = cost();
    t.prefill_s = std::chrono::duration<double>(all_first - begin).count();
    t.decode_s = std::chrono::duration<double>(end - all_first).count();
    if (batch == 1) {  // the engine's own clock: a fast model's tokens reach the reader in bundles
      t.decode_s = own_decode_s;
      t.decoded = count_new_ - 1;
    }
    return t;
  }

  void measure(int batch, int prompt) {
    if (!a_.interactive) once(batch, std::min(prompt, 32));  // warm: pages, caches, graphs
    std::vector<double> prefill, decode;
    Timing last;
    for (int i = 0; i < a_.repeat; ++i) {
      Timing t = last = once(batch, prompt);
      prefill.push_back(static_cast<double>(batch) * prompt / t.prefill_s);
      decode.push_back(t.decode_s > 0 ? static_cast<double>(t.decoded) / t.decode_s : 0);
    }
    measure_predicted(batch, prompt);
    std::sort(prefill.begin(), prefill.end());
    std::sort(decode.begin(), decode.end());
    double parameters = info_["parameters"].get<double>();
    double context = prompt + count_new_ / 2.0;
    double step_bytes = weight_bytes_ + batch * context * kv_bytes_per_token_;
    double prefill_limit = flops_ / (2 * parameters), decode_limit = bandwidth_ * 1e9 / (step_bytes / batch);
    print("prefill", batch, prompt, prefill[prefill.size() / 2], weight_bytes_ / (static_cast<double>(batch) * prompt), prefill_limit,
          last.begin, last.first, 0);
    print("decode", batch, prompt, decode[decode.size() / 2], step_bytes / batch, decode_limit, last.first, last.end, count_new_ - 1);
  }

  // Rates have no limit here: how many tokens a step gives is the prediction's matter.
  void measure_predicted(int batch, int prompt) {
    if (a_.predicted < 0) return;
    std::vector<double> rates;
    for (int i = 0; i <= a_.repeat; ++i) {  // one more: what rows cost is learned in the first
      const Timing t = once(batch, prompt, true);
      if (i > 0) rates.push_back(t.decode_s > 0 ? static_cast<double>(t.decoded) / t.decode_s : 0);
    }
    std::sort(rates.begin(), rates.end());
    const double rate = rates[rates.size() / 2];
    if (a_.json)
      std::printf("%s\n", Json{{"phase", "predicted"}, {"batch", batch}, {"prompt", prompt}, {"new", count_new_}, {"predicted", a_.predicted},
                               {"tokens_per_second", rate}}.dump().c_str());
    else std::printf("predicted batch %3d prompt %5d new %4d  %10.1f tok/s, %d %% of the answer known\n", batch, prompt, count_new_, rate, a_.predicted);
    std::fflush(stdout);
  }

  // On a CPU also: the share of multiply-adds done on int8 operands, barriers of a step (decode), and where the memory is.
  void add_cpu(Json& line, const Cost& from, const Cost& to, int steps) const {
    const uint64_t total = to.work.total - from.work.total;
    line["int8_share"] = total > 0 ? static_cast<double>(to.work.int8 - from.work.int8) / static_cast<double>(total) : 0.0;
    if (steps > 0) line["barriers_per_step"] = static_cast<double>(to.barriers - from.barriers) / steps;
    const device::MemoryPlacement placed = device::memory_placement();
    line["huge_page_bytes"] = placed.huge_page_bytes;
    line["pinned_threads"] = placed.pinned_threads;
    line["numa_node_bytes"] = placed.node_bytes;
  }

  void print(const char* phase, int batch, int prompt, double rate, double bytes, double limit, const Cost& from, const Cost& to, int steps) {
    Json line = {{"phase", phase}, {"model", a_.model.empty() ? a_.shape : a_.model}, {"device", info_["device"]}, {"precision", info_["precision"]},
                 {"kv", info_["kv"]}, {"batch", batch}, {"prompt", prompt}, {"new", count_new_}, {"context", info_["context"]},
                 {"tokens_per_second", rate}, {"bytes_per_token", bytes}, {"bandwidth_gb_s", bandwidth_}, {"matrix_tflops", flops_ / 1e12},
                 {"limit_tokens_per_second", limit}, {"fraction_of_limit", rate / limit}, {"peak_bytes", peak_bytes(info_, cuda_)}};
    if (!cuda_) add_cpu(line, from, to, steps);
    if (a_.json) std::printf("%s\n", line.dump().c_str());
    else std::printf("%-8s batch %3d prompt %5d new %4d  %10.1f tok/s  %5.1f %% of %.1f\n", phase, batch, prompt, count_new_, rate, 100 * rate / limit, limit);
    std::fflush(stdout);
  }

  const Arguments& a_;
  int count_new_;
  std::shared_ptr<runtime::Engine> engine_;
  std::vector<uint8_t> buffer_ = std::vector<uint8_t>(1 << 20);
  int doorbell_ = -1;
  uint32_t model_ = 0;
  bool cuda_ = false;
  Json info_;
  std::vector<std::vector<int32_t>> answers_;  // of the last run without predictions, by sequence
  double bandwidth_ = 0, flops_ = 0, kv_bytes_per_token_ = 0, weight_bytes_ = 0;
};

void with_images(const Arguments& a) {
  runtime::EngineOptions options;
  options.device = a.device;
  options.threads = a.threads, options.prompt_threads = a.prompt_threads;
  auto device = must(runtime::open_device(options));
  bench::VisionRun run;
  run.load.path = a.model, run.load.shape = a.shape, run.load.precision = a.precision, run.load.kv = a.kv, run.load.vision = a.vision;
  run.load.group = a.group, run.load.head_bits = a.head_bits, run.load.context = a.context, run.load.step_tokens = a.chunk;
  run.images = a.images, run.prompt = a.prompt.front(), run.count_new = a.count_new, run.repeat = a.repeat;
  run.matrix_flops = matrix_flops(*device);
  must(bench::run_vision(run, *device));
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments = parse(argc, argv);
  if (!arguments.set.empty()) must(kernels::cuda::set_tuning(arguments.set));
  if (arguments.images.empty()) Bench(arguments).run();
  else with_images(arguments);
  return 0;
}
