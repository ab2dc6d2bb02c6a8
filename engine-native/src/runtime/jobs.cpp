#include "runtime/jobs.h"

#include "quantize/convert.h"
#include "quantize/evaluate.h"
#include "quantize/quantize.h"
#include "runtime/json_reader.h"
#include "verify/verify.h"

namespace hearth::runtime {

void Job::report(const char* stage, double done, double total, Json detail) {
  {
    std::lock_guard lock(mutex_);
    notice_ = dump({{"stage", stage}, {"done", done}, {"total", total}, {"detail", std::move(detail)}});
  }
  if (on_notice) on_notice();
}

std::string Job::take_notice() {
  std::lock_guard lock(mutex_);
  return std::exchange(notice_, {});
}

namespace {

quantize::Progress progress_of(Job& job) {
  return [&job](const quantize::ProgressReport& r) {
    Json detail = {{"text", r.detail}};
    if (r.seconds_left >= 0) detail["seconds_left"] = r.seconds_left;
    job.report(r.stage.c_str(), r.done, r.total, std::move(detail));
    return !job.cancelled();
  };
}

Status require_text(const std::string& value, const char* key) {
  return value.empty() ? invalid("\"" + std::string(key) + "\" is missing") : Status::ok();
}

Status read_group(JsonReader& reader, int& group) {
  HEARTH_TRY(reader.read_integer("group", 0, 128, group));
  if (group != 0 && group != 32 && group != 64 && group != 128) return JsonReader::wrong("group", "32, 64 or 128");
  return Status::ok();
}

Result<JobFunction> make_quantize(JsonReader& reader) {
  quantize::QuantizeOptions o;
  HEARTH_TRY(reader.read("path", o.path));
  HEARTH_TRY(reader.read("out", o.out));
  HEARTH_TRY(reader.read("method", o.method));
  if (o.method != "awq" && o.method != "smoothquant" && o.method != "rtn")
    return JsonReader::wrong("method", "awq, smoothquant or rtn");
  HEARTH_TRY(reader.read("calibrate", o.calibrate));
  HEARTH_TRY(read_group(reader, o.group));
  if (o.group == 0) o.group = 128;
  HEARTH_TRY(reader.read_integer("tokens", 1, 1 << 24, o.tokens));
  HEARTH_TRY(reader.read_integer("sequence", 1, 1 << 20, o.sequence));
  HEARTH_TRY(reader.read_integer("search_tokens", 0, 1 << 24, o.search_tokens));
  HEARTH_TRY(reader.read_integer("threads", 0, 1024, o.threads));
  HEARTH_TRY(reader.read("device", o.device));
  if (o.device != "auto" && o.device != "cpu" && o.device != "cuda") return JsonReader::wrong("device", "auto, cpu or cuda");
  HEARTH_TRY(reader.read("clip", o.clip));
  HEARTH_TRY(reader.read("rounding", o.rounding));
  if (o.rounding != "compensated" && o.rounding != "nearest") return JsonReader::wrong("rounding", "compensated or nearest");
  HEARTH_TRY(reader.finish());
  HEARTH_TRY(require_text(o.path, "path"));
  HEARTH_TRY(require_text(o.out, "out"));
  if (o.method != "rtn") HEARTH_TRY(require_text(o.calibrate, "calibrate"));
  return JobFunction([o](Job& job) { return quantize::quantize(o, progress_of(job)); });
}

Result<JobFunction> make_convert(JsonReader& reader) {
  quantize::ConvertOptions o;
  HEARTH_TRY(reader.read("path", o.path));
  HEARTH_TRY(reader.read("out", o.out));
  HEARTH_TRY(reader.read("target", o.target));
  HEARTH_TRY(reader.read("precision", o.precision));
  HEARTH_TRY(read_group(reader, o.group));
  HEARTH_TRY(reader.read_integer("head_bits", 0, 16, o.head_bits));
  HEARTH_TRY(reader.finish());
  HEARTH_TRY(require_text(o.path, "path"));
  HEARTH_TRY(require_text(o.out, "out"));
  return JobFunction([o](Job& job) { return quantize::convert(o, progress_of(job)); });
}

// Opens a device of its own: the engine's belongs to the step thread.
Result<std::unique_ptr<device::Device>> open_device(const std::string& kind, int threads) {
  if (kind == "cpu") return device::open_cpu_device(threads);
  const Result<int> gpus = device::count_cuda_devices();
  if (kind == "cuda" || (gpus && *gpus > 0)) return device::open_cuda_device(0, "", false);
  return device::open_cpu_device(threads);
}

Result<JobFunction> make_evaluate(JsonReader& reader) {
  quantize::EvaluateOptions o;
  std::string kind = "cpu";
  int threads = 0;
  HEARTH_TRY(reader.read("path", o.path));
  HEARTH_TRY(reader.read("against", o.against));
  HEARTH_TRY(reader.read("text", o.text));
  HEARTH_TRY(reader.read("precision", o.precision));
  HEARTH_TRY(read_group(reader, o.group));
  HEARTH_TRY(reader.read("kv", o.kv));
  HEARTH_TRY(reader.read_integer("head_bits", 0, 16, o.head_bits));
  HEARTH_TRY(reader.read_integer("window", 0, 1 << 24, o.window));
  HEARTH_TRY(reader.read_integer("tokens", 0, INT32_MAX, o.tokens));
  HEARTH_TRY(reader.read_integer("threads", 0, 1024, threads));
  HEARTH_TRY(reader.read("device", kind));
  if (kind != "auto" && kind != "cpu" && kind != "cuda") return JsonReader::wrong("device", "auto, cpu or cuda");
  HEARTH_TRY(reader.finish());
  HEARTH_TRY(require_text(o.path, "path"));
  HEARTH_TRY(require_text(o.text, "text"));
  return JobFunction([o, kind, threads](Job& job) -> Result<Json> {
    HEARTH_ASSIGN(const auto device, open_device(kind, threads));
    return quantize::evaluate(o, *device, progress_of(job));
  });
}

// The engine's device is named as engine options name it: a report is about one device.
Result<JobFunction> make_verify(JsonReader& reader) {
  verify::Options o;
  std::string kind = "auto";
  int threads = 0, seed = 0;
  HEARTH_TRY(reader.read("device", kind));
  HEARTH_TRY(reader.read("model", o.model));
  HEARTH_TRY(reader.read("speed", o.speed));
  HEARTH_TRY(reader.read_integer("seed", 0, INT32_MAX, seed));
  HEARTH_TRY(reader.read_integer("threads", 0, 1024, threads));
  if (kind != "auto" && kind != "cpu" && kind != "cuda") return JsonReader::wrong("device", "auto, cpu or cuda");
  HEARTH_TRY(reader.finish());
  o.seed = static_cast<uint32_t>(seed);
  return JobFunction([o, kind, threads](Job& job) -> Result<Json> {
    HEARTH_ASSIGN(const auto device, open_device(kind, threads));
    return verify::verify(*device, o, [&job](const std::string& stage, double done, double total) {
      job.report(stage.c_str(), done, total);
      return !job.cancelled();
    });
  });
}

}  // namespace

Result<JobFunction> make_job(std::string_view json) {
  HEARTH_ASSIGN(JsonReader reader, JsonReader::parse(json, "job_json"));
  std::string kind;
  HEARTH_TRY(reader.read("job", kind));
  if (kind == "quantize") return make_quantize(reader);
  if (kind == "convert") return make_convert(reader);
  if (kind == "evaluate") return make_evaluate(reader);
  if (kind == "verify") return make_verify(reader);
  return JsonReader::wrong("job", "quantize, convert, evaluate or verify");
}

}  // namespace hearth::runtime
