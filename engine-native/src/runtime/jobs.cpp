#include "runtime/jobs.h"

#include "runtime/json_reader.h"

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

Result<JobFunction> make_job(std::string_view json) {
  HEARTH_ASSIGN(JsonReader reader, JsonReader::parse(json, "job_json"));
  std::string kind;
  HEARTH_TRY(reader.read("job", kind));
  for (const char* known : {"quantize", "convert", "evaluate", "verify"})
    if (kind == known) return unsupported("this build has no job \"" + kind + "\"");
  return JsonReader::wrong("job", "quantize, convert, evaluate or verify");
}

}  // namespace hearth::runtime
