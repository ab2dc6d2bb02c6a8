// Full disks and killed processes: what is found afterwards is the whole result or none, and the same command goes on.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <random>
#include <set>
#include <thread>

#include "fixtures.h"
#include "formats/json_text.h"
#include "formats/safetensors.h"
#include "quantize/convert.h"
#include "quantize/quantize.h"

namespace hearth::quantize {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const std::string root = HEARTH_SOURCE_DIR;
const std::string model_path = root + "/models/tinystories-656k";

QuantizeOptions quantizing(const std::string& out) {
  QuantizeOptions o;
  o.path = model_path;
  o.out = out;
  o.calibrate = root + "/models/calibration.txt";
  o.group = 64;
  o.tokens = 512;
  o.sequence = 256;
  o.threads = 1;
  return o;
}

ConvertOptions converting(const std::string& out) { return {.path = model_path, .out = out, .target = "cpu", .precision = "w4a8"}; }

// Runs `body` in a process of its own, which it may not outlive by more than `kill_after`. Its exit code, or -signal.
template <class Body>
int in_process(const Body& body, std::chrono::microseconds kill_after = std::chrono::hours(1)) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  const auto end = std::chrono::steady_clock::now() + kill_after;
  int status = 0;
  while (::waitpid(child, &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() >= end) ::kill(child, SIGKILL);
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

std::set<std::string> names_in(const std::string& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) names.insert(entry.path().lexically_relative(folder).string());
  return names;
}

// Whatever is in an unfinished folder under its final name is whole.
void expect_whole_parts(const std::string& folder) {
  if (!fs::exists(folder)) return;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string path = entry.path().string();
    if (path.ends_with(".safetensors")) {
      formats::TensorStore store;
      EXPECT_TRUE(formats::add_safetensors(store, path)) << path;
    } else if (path.ends_with(".json")) {
      EXPECT_TRUE(formats::read_json(path)) << path;
    }
  }
}

// ---- killed ----

// Kills at moments spread over the time that the whole takes, each time going on where the last one stopped. On a machine
// with other work that time says little: a run that ends before anyone was killed is thrown away and the moments halve.
template <class Run>
void kill_until_done(const std::string& out, const std::string& whole, const Run& run) {
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_EQ(in_process([&] { return run(whole); }), 0);
  auto all = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin);
  std::mt19937 random(std::random_device{}());
  int killed = 0;
  for (int i = 0; i < 24; i++) {
    const auto moment = all * std::uniform_int_distribution<int>(2, 98)(random) / 100;
    const int code = in_process([&] { return run(out); }, moment);
    killed += code == -SIGKILL;
    expect_whole_parts(out + ".partial");
    if (fs::exists(out)) {
      if (killed > 0) break;
      fs::remove_all(out);
      all /= 2;
      continue;
    }
    ASSERT_EQ(code, -SIGKILL) << "ended by itself without a result";
  }
  std::printf("%d of the runs were killed; the whole takes %.2f s\n", killed, static_cast<double>(all.count()) / 1e6);
  EXPECT_GT(killed, 0);
  if (!fs::exists(out)) {
    ASSERT_EQ(in_process([&] { return run(out); }), 0);
  }
  EXPECT_EQ(names_in(out), names_in(whole));
  EXPECT_EQ(bytes_of(out + "/model.safetensors"), bytes_of(whole + "/model.safetensors"));
  EXPECT_EQ(bytes_of(out + "/config.json"), bytes_of(whole + "/config.json"));
  EXPECT_FALSE(fs::exists(out + ".partial"));
}

TEST(Killed, QuantizeGoesOnAndGivesTheSame) {
  TemporaryFolder folder;
  kill_until_done(folder.path() + "/out", folder.path() + "/whole", [](const std::string& out) { return quantize(quantizing(out), nullptr) ? 0 : 1; });
}

TEST(Killed, ConvertBeginsAgainAndGivesTheSame) {
  TemporaryFolder folder;
  kill_until_done(folder.path() + "/out", folder.path() + "/whole", [](const std::string& out) { return convert(converting(out), nullptr) ? 0 : 1; });
}

// Killed while the finished layers become one file: they are still there, and nothing is searched again.
TEST(Killed, WhileFinishingKeepsTheLayers) {
  TemporaryFolder folder;
  const std::string out = folder.path() + "/out";
  const int code = in_process([&] {
    const auto never = quantize(quantizing(out), [&](const ProgressReport& report) {
      if (report.stage == "write") ::kill(::getpid(), SIGKILL);
      return true;
    });
    return never ? 0 : 1;
  });
  ASSERT_EQ(code, -SIGKILL);
  // What a kill between two steps of finishing leaves: the joined file, layers and reports, an old aside.
  std::ofstream(out + ".partial/model.safetensors.partial") << "half";
  std::ofstream(out + ".partial/rest.safetensors") << "not a safetensors file";
  std::vector<std::string> stages;
  const auto done = quantize(quantizing(out), [&](const ProgressReport& report) { stages.push_back(report.stage); return true; });
  ASSERT_TRUE(done) << done.status().message();
  EXPECT_EQ(stages, std::vector<std::string>{"write"});
  EXPECT_FALSE(names_in(out).contains("model.safetensors.partial"));
  EXPECT_FALSE(names_in(out).contains("rest.safetensors"));
}

// ---- full ----

// Mounts a small disk at `folder` in a mount namespace of this process alone. False where that is not permitted.
bool mount_small(const std::string& folder, int64_t bytes) {
  if (::unshare(CLONE_NEWNS) != 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
  ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
  return ::mount("tmpfs", folder.c_str(), "tmpfs", 0, ("size=" + std::to_string(bytes)).c_str()) == 0;
}

// The disk of `folder` ends after `bytes`: really, or by a limit on the size of a file.
void limit_disk(const std::string& folder, int64_t bytes) {
  if (mount_small(folder, bytes)) return;
  ::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{static_cast<rlim_t>(bytes), static_cast<rlim_t>(bytes)};
  ::setrlimit(RLIMIT_FSIZE, &limit);
}

struct Full { int code; std::string message; std::set<std::string> names; };

// Runs on a disk of `bytes`; what was left is told through a file beside it.
template <class Run>
Full run_full(const TemporaryFolder& folder, int64_t bytes, const Run& run) {
  const std::string disk = folder.path() + "/disk", told = folder.path() + "/told";
  fs::create_directories(disk);
  Full full{};
  full.code = in_process([&] {
    const int file = ::open(told.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    limit_disk(disk, bytes);
    const Status status = run(disk + "/out");
    json left = json::array();
    for (const std::string& name : names_in(disk)) left.push_back(name);
    const std::string text = json{{"message", status.message()}, {"code", static_cast<int>(status.code())}, {"left", left}}.dump();
    if (::write(file, text.data(), text.size()) < 0) return 3;
    return status ? 0 : 1;
  });
  const auto said = formats::read_json(told);
  EXPECT_TRUE(said);
  if (!said) return full;
  full.message = (*said)["message"];
  for (const std::string name : (*said)["left"]) full.names.insert(name);
  if (full.code == 1) {
    EXPECT_EQ((*said)["code"], static_cast<int>(Code::io)) << full.message;
  }
  return full;
}

template <class Run>
void refuse_at_every_size(const Run& run) {
  int refused = 0;
  for (const int64_t kib : {8, 64, 200, 450, 700, 1100, 1400}) {
    TemporaryFolder folder;
    const Full full = run_full(folder, kib << 10, run);
    if (full.code == 0) continue;  // it was enough
    refused++;
    ASSERT_EQ(full.code, 1) << kib;
    EXPECT_NE(full.message.find("/out"), std::string::npos) << full.message;  // which file
    for (const std::string& name : full.names) {
      EXPECT_FALSE(name == "out" || name.starts_with("out/")) << name;
      EXPECT_FALSE(name.ends_with(".safetensors.partial")) << "the half-written file stays: " << name;
    }
  }
  EXPECT_GT(refused, 3);
}

TEST(DiskFull, QuantizeSaysSoAndLeavesNoResult) {
  refuse_at_every_size([](const std::string& out) { return quantize(quantizing(out), nullptr).status(); });
}

TEST(DiskFull, ConvertSaysSoAndLeavesNothing) {
  refuse_at_every_size([](const std::string& out) { return convert(converting(out), nullptr).status(); });
}

// With room again the same command goes on after the layers that fitted.
TEST(DiskFull, QuantizeGoesOnWithRoomAgain) {
  TemporaryFolder folder;
  const std::string out = folder.path() + "/out";
  const int code = in_process([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const auto result = quantize(quantizing(out), [&](const ProgressReport& report) {
      if (report.stage == "quantize" && report.done == 1) {
        const rlimit limit{4096, 4096};
        ::setrlimit(RLIMIT_FSIZE, &limit);
      }
      return true;
    });
    return result ? 0 : result.status().code() == Code::io ? 1 : 2;
  });
  ASSERT_EQ(code, 1);
  EXPECT_FALSE(fs::exists(out));
  std::vector<std::string> stages;
  const auto done = quantize(quantizing(out), [&](const ProgressReport& report) { return note_whole(report, stages); });
  ASSERT_TRUE(done) << done.status().message();
  EXPECT_EQ(stages, (std::vector<std::string>{"resume1", "quantize2", "write2"}));
}

}  // namespace
}  // namespace hearth::quantize
