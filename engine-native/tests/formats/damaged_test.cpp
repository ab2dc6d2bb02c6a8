// Damaged and hostile files: a table for each format. Each is refused, with a message that names the tensor or the part.
#include <gtest/gtest.h>

#include <functional>

#include "fixtures.h"
#include "formats/gguf.h"
#include "formats/json_text.h"
#include "formats/pickle.h"
#include "formats/safetensors.h"
#include "formats/torch_file.h"
#include "formats/zip.h"

namespace hearth::formats {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) { return {reinterpret_cast<const std::byte*>(text.data()), text.size()}; }

struct Damage {
  const char* name;
  std::string content;
  const char* message;  // part of the refusal
};

void PrintTo(const Damage& damage, std::ostream* out) { *out << damage.name; }

std::string damage_name(const testing::TestParamInfo<Damage>& info) { return info.param.name; }

// ---- safetensors ----

std::string one(const std::string& entry, const std::string& data) { return safetensors_file("{\"w\":" + entry + "}", data); }

std::vector<Damage> damaged_safetensors() {
  const std::string four(4, '\0'), eight(8, '\0');
  std::string deep = "{\"w\":";
  for (int i = 0; i < 100; i++) deep += "[";
  return {
      {"Empty", "abc", "too short"},
      {"HeaderLongerThanFile", raw<uint64_t>(1000) + "{}", "header of 1000 bytes"},
      {"HeaderOf2To63", raw<uint64_t>(uint64_t{1} << 63) + "{}", "header of 9223372036854775808"},
      {"HeaderWraps", raw<uint64_t>(~uint64_t{0} - 3) + "{}", "header of"},
      {"WebPage", "<!doctype html><title>404</title>", "a web page"},
      {"NotJson", safetensors_file("{\"w\":", four), "not valid JSON"},
      {"NotAnObject", safetensors_file("[1]", ""), "not a JSON object"},
      {"NotUtf8", safetensors_file("{\"\xff\":1}", ""), "not valid JSON"},
      {"Deep", safetensors_file(deep, ""), "nested deeper"},
      {"Duplicate", safetensors_file(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", eight), "'w' appears twice"},
      {"DuplicateKey", one(R"({"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]})", four), "'dtype' appears twice"},
      {"UnknownType", one(R"({"dtype":"Q9","shape":[1],"data_offsets":[0,4]})", four), "'w': dtype 'Q9'"},
      {"NoType", one(R"({"shape":[1],"data_offsets":[0,4]})", four), "'w': dtype ''"},
      {"NoShape", one(R"({"dtype":"F32","data_offsets":[0,4]})", four), "'w': no 'shape'"},
      {"NegativeSize", one(R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})", four), "'w': a size"},
      {"SizeOf2To63", one(R"({"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,4]})", four), "'w': a size"},
      {"FractionalSize", one(R"({"dtype":"F32","shape":[1.5],"data_offsets":[0,4]})", four), "'w': a size"},
      {"ProductOverflows", one(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]})", four), "'w': shape"},
      {"ProductWrapsToSize", one(R"({"dtype":"F32","shape":[2147483649,8589934592],"data_offsets":[0,4]})", four), "'w': shape"},
      {"SizeOf2To31", one(R"({"dtype":"F32","shape":[2147483648],"data_offsets":[0,4]})", four), "'w': shape"},
      {"WrongSize", one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})", four), "'w': shape [2]"},
      {"Truncated", one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})", four), "'w': its data ends at byte 8 of 4"},
      {"OffsetsDescend", one(R"({"dtype":"F32","shape":[0],"data_offsets":[4,0]})", four), "'w': 'data_offsets'"},
      {"OffsetsOf2To64", one(R"({"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,18446744073709551616]})", four), "'w': 'data_offsets'"},
      {"OffsetsAreText", one(R"({"dtype":"F32","shape":[1],"data_offsets":["0","4"]})", four), "'w': 'data_offsets'"},
      {"Overlap", safetensors_file(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", eight), "'w' overlaps"},
      {"SameBytesTwice", safetensors_file(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", four), "overlaps"},
      {"Hole", safetensors_file(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", eight), "'w': unused bytes"},
      {"Tail", safetensors_file(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", eight), "unused bytes at the end"},
      {"ManyDimensions", one(R"({"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]})", four), "'w': 'shape'"},
      {"Metadata", safetensors_file(R"({"__metadata__":{"a":1}})", ""), "__metadata__.a"},
      {"EntryIsANumber", one("1", four), "'w': dtype"},
  };
}

class DamagedSafetensors : public testing::TestWithParam<Damage> {};
TEST_P(DamagedSafetensors, IsRefused) {
  const auto header = parse_safetensors(bytes_of(GetParam().content), "file");
  ASSERT_FALSE(header);
  EXPECT_NE(header.status().message().find(GetParam().message), std::string::npos) << header.status().message();
}
INSTANTIATE_TEST_SUITE_P(Formats, DamagedSafetensors, testing::ValuesIn(damaged_safetensors()), damage_name);

TEST(DamagedFolders, EveryCutOfAFileIsRefused) {
  const std::string whole = read_file(fixture("dense-f16/model.safetensors"));
  ASSERT_TRUE(parse_safetensors(bytes_of(whole), "file"));
  for (size_t size = 0; size < whole.size(); size += 1 + size / 50) {
    EXPECT_FALSE(parse_safetensors(bytes_of(whole.substr(0, size)), "file")) << size;
  }
}

// ---- GGUF ----

std::string gguf_text(const std::string& text) { return raw<uint64_t>(text.size()) + text; }
std::string gguf_header(uint64_t tensors, uint64_t values) { return "GGUF" + raw<uint32_t>(3) + raw(tensors) + raw(values); }
std::string gguf_info(const std::string& name, const std::vector<uint64_t>& sizes, uint32_t type, uint64_t offset) {
  std::string info = gguf_text(name) + raw<uint32_t>(static_cast<uint32_t>(sizes.size()));
  for (const uint64_t size : sizes) info += raw(size);
  return info + raw(type) + raw(offset);
}
std::string padded(std::string text) { return text + std::string((32 - text.size() % 32) % 32, '\0'); }

std::vector<Damage> damaged_gguf() {
  const std::string data(64, '\0');
  const auto tensor = [&](const std::string& info) { return padded(gguf_header(1, 0) + info) + data; };
  const auto value = [&](const std::string& text) { return gguf_header(0, 1) + text; };
  return {
      {"Empty", "GG", "truncated"},
      {"NotGguf", "GGML" + raw<uint32_t>(3) + std::string(16, '\0'), "not a GGUF"},
      {"Version1", "GGUF" + raw<uint32_t>(1) + std::string(16, '\0'), "version 1"},
      {"BigEndian", "GGUF" + raw<uint32_t>(0x03000000) + std::string(16, '\0'), "version 50331648"},
      {"TensorCount", gguf_header(uint64_t{1} << 62, 0), "tensors"},
      {"ValueCount", gguf_header(0, ~uint64_t{0}), "keys"},
      {"TensorsMissing", gguf_header(5, 0), "truncated"},
      {"KeyLength", value(raw<uint64_t>(~uint64_t{0}) + "k"), "a string of 18446744073709551615"},
      {"LongKey", value(gguf_text(std::string(5000, 'k')) + raw<uint32_t>(0) + "x"), "a key of 5000"},
      {"ValueType", value(gguf_text("k") + raw<uint32_t>(77)), "'k' has unknown type 77"},
      {"ValueTruncated", value(gguf_text("k") + raw<uint32_t>(10) + "abc"), "truncated in key 'k'"},
      {"ValueOver63Bits", value(gguf_text("k") + raw<uint32_t>(10) + raw(~uint64_t{0})), "'k' is over"},
      {"ArrayCount", value(gguf_text("k") + raw<uint32_t>(9) + raw<uint32_t>(4) + raw(uint64_t{1} << 62)), "'k': an array"},
      {"ArrayCountWraps", value(gguf_text("k") + raw<uint32_t>(9) + raw<uint32_t>(10) + raw((uint64_t{1} << 61) + 1) + std::string(16, '\0')), "'k': an array"},
      {"StringArrayCount", value(gguf_text("k") + raw<uint32_t>(9) + raw<uint32_t>(8) + raw(uint64_t{1} << 60)), "'k': an array"},
      {"StringInArray", value(gguf_text("k") + raw<uint32_t>(9) + raw<uint32_t>(8) + raw<uint64_t>(1) + raw<uint64_t>(99) + "a"), "a string of 99"},
      {"ArrayOfArrays", value(gguf_text("k") + raw<uint32_t>(9) + raw<uint32_t>(9) + raw<uint64_t>(1) + std::string(32, '\0')), "'k': an array of type 9"},
      {"KeyTwice", gguf_header(0, 2) + gguf_text("k") + raw<uint32_t>(0) + "x" + gguf_text("k") + raw<uint32_t>(0) + "x", "'k' appears twice"},
      {"NoName", tensor(gguf_info("", {4}, 0, 0)), "name of 0"},
      {"NoDimensions", tensor(gguf_info("w", {}, 0, 0)), "'w' has 0 dimensions"},
      {"FiveDimensions", tensor(gguf_info("w", {1, 1, 1, 1, 1}, 0, 0)), "'w' has 5 dimensions"},
      {"ZeroSize", tensor(gguf_info("w", {0}, 0, 0)), "'w' has a size of 0"},
      {"SizeOf2To63", tensor(gguf_info("w", {uint64_t{1} << 63}, 0, 0)), "'w' has a size"},
      {"SizeOf2To31", tensor(gguf_info("w", {uint64_t{1} << 31}, 0, 0)), "'w' of shape"},
      {"ProductOverflows", tensor(gguf_info("w", {uint64_t{1} << 40, uint64_t{1} << 40}, 0, 0)), "'w' of shape"},
      {"ProductWraps", tensor(gguf_info("w", {(uint64_t{1} << 31) + 1, uint64_t{1} << 33}, 0, 0)), "'w' of shape"},
      {"UnknownType", tensor(gguf_info("w", {32}, 13, 0)), "'w' has ggml type 13"},
      {"TypeOver32Bits", tensor(gguf_info("w", {32}, 0xffffffff, 0)), "'w' has ggml type"},
      {"PartOfABlock", tensor(gguf_info("w", {33}, 2, 0)), "'w': rows of 33"},
      {"Unaligned", tensor(gguf_info("w", {4}, 0, 4)), "'w': offset 4"},
      {"OffsetOutside", tensor(gguf_info("w", {4}, 0, 96)), "'w' of shape"},
      {"OffsetWraps", tensor(gguf_info("w", {4}, 0, ~uint64_t{0} - 31)), "'w' of shape"},
      {"Overlap", padded(gguf_header(2, 0) + gguf_info("a", {16}, 0, 0) + gguf_info("w", {4}, 0, 32)) + data, "'w' overlaps 'a'"},
      {"Alignment", padded(gguf_header(1, 1) + gguf_text("general.alignment") + raw<uint32_t>(4) + raw<uint32_t>(3) + gguf_info("w", {4}, 0, 0)) + data, "general.alignment is 3"},
      {"AlignmentZero", padded(gguf_header(1, 1) + gguf_text("general.alignment") + raw<uint32_t>(4) + raw<uint32_t>(0) + gguf_info("w", {4}, 0, 0)) + data, "general.alignment is 0"},
  };
}

class DamagedGguf : public testing::TestWithParam<Damage> {};
TEST_P(DamagedGguf, IsRefused) {
  const auto gguf = parse_gguf(bytes_of(GetParam().content), "file");
  ASSERT_FALSE(gguf);
  EXPECT_NE(gguf.status().message().find(GetParam().message), std::string::npos) << gguf.status().message();
}
INSTANTIATE_TEST_SUITE_P(Formats, DamagedGguf, testing::ValuesIn(damaged_gguf()), damage_name);

TEST(DamagedGguf, EveryCutOfAFileIsRefused) {
  const std::string whole = read_file(fixture("q4_0.gguf"));
  ASSERT_TRUE(parse_gguf(bytes_of(whole), "file"));
  for (size_t size = 0; size < whole.size() - 32; size += 1 + size / 50) {
    EXPECT_FALSE(parse_gguf(bytes_of(whole.substr(0, size)), "file")) << size;
  }
}

// ---- torch.save: zip and pickle ----

// A zip with one stored entry, and every field of it open to damage.
struct Zip {
  std::string name = "a/data.pkl", content = "\x80\x02}.";
  uint16_t method = 0, flags = 0;
  uint32_t size = 4, stored = 4, offset = 0;
  uint16_t entries = 1;
  std::string build() const {
    const std::string local = raw<uint32_t>(0x04034b50) + std::string(22, '\0') + raw<uint16_t>(static_cast<uint16_t>(name.size())) + raw<uint16_t>(0) + name + content;
    std::string directory;
    for (int i = 0; i < (entries == 2 ? 2 : 1); i++) {
      directory += raw<uint32_t>(0x02014b50) + std::string(4, '\0') + raw(flags) + raw(method) + std::string(8, '\0') + raw(stored) + raw(size) +
                   raw<uint16_t>(static_cast<uint16_t>(name.size())) + std::string(12, '\0') + raw(offset) + name;
    }
    return local + directory + raw<uint32_t>(0x06054b50) + std::string(4, '\0') + raw(entries) + raw(entries) +
           raw<uint32_t>(static_cast<uint32_t>(directory.size())) + raw<uint32_t>(static_cast<uint32_t>(local.size())) + raw<uint16_t>(0);
  }
};

std::string pickled(const std::string& code) {
  Zip zip;
  zip.content = "\x80\x02" + code;
  zip.size = zip.stored = static_cast<uint32_t>(zip.content.size());
  return zip.build();
}

Zip with(const std::function<void(Zip&)>& change) {
  Zip zip;
  change(zip);
  return zip;
}

std::string pickle_text(const std::string& text) { return "X" + raw<uint32_t>(static_cast<uint32_t>(text.size())) + text; }

std::string tensor_call(const std::string& key, int elements, const std::string& offset, const std::string& shape, const std::string& stride) {
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + pickle_text("storage") + "ctorch\nHalfStorage\n" + pickle_text(key) + pickle_text("cpu") +
         "J" + raw<int32_t>(elements) + "tQ" + offset + shape + stride + std::string("\x89") + "ccollections\nOrderedDict\n)RtR";
}

std::vector<Damage> damaged_torch() {
  const std::string one_entry = "}" + pickle_text("w");
  return {
      {"NotAZip", std::string(100, 'x'), "not a zip"},
      {"Short", "PK", "not a zip"},
      {"Compressed", with([](Zip& z) { z.method = 8; }).build(), "'a/data.pkl' is compressed"},
      {"Bomb", with([](Zip& z) { z.method = 8; z.size = 0xfffffff0; }).build(), "is compressed"},
      {"TwoSizes", with([](Zip& z) { z.size = 1000; }).build(), "has two sizes"},
      {"OutsideTheFile", with([](Zip& z) { z.size = z.stored = 100000; }).build(), "ends outside the file"},
      {"Encrypted", with([](Zip& z) { z.flags = 1; }).build(), "is encrypted"},
      {"LocalHeaderElsewhere", with([](Zip& z) { z.offset = 3; }).build(), "has no local header"},
      {"LocalHeaderOutside", with([](Zip& z) { z.offset = 0xfffffff0; }).build(), "has no local header"},
      {"NoExtra64", with([](Zip& z) { z.offset = 0xffffffff; }).build(), "damaged size"},
      {"EntryTwice", with([](Zip& z) { z.entries = 2; }).build(), "appears twice"},
      {"EntriesMissing", with([](Zip& z) { z.entries = 9; }).build(), "directory entry is damaged"},
      {"NoPickle", with([](Zip& z) { z.name = "a/other.pkl"; }).build(), "no data.pkl"},
      {"OsSystem", pickled("cos\nsystem\n(" + pickle_text("true") + "tR."), "the pickle names 'os.system'"},
      {"BuiltinEval", pickled("c__builtin__\neval\n(" + pickle_text("1") + "tR."), "__builtin__.eval"},
      {"UnknownInstruction", pickled("i"), "instruction 105"},
      {"StackGlobal", pickled(std::string("\x93", 1)), "instruction 147"},
      {"EmptyStack", pickled("."), "an empty stack"},
      {"NoEnd", pickled("}"), "truncated"},
      {"LongString", pickled("X" + raw<uint32_t>(0xffffffff) + "a"), "a string longer"},
      {"UnknownReference", pickled("h\x07."), "an unknown reference"},
      {"NoMark", pickled("}u."), "no mark"},
      {"MarkAsValue", pickled("(."), "a mark where"},
      {"KeyAlone", pickled("}(" + pickle_text("w") + "u."), "a key without"},
      {"CallOfANumber", pickled("K\x01)R."), "a call of something else"},
      {"BigInteger", pickled("\x8a\x09" + std::string(9, '\x7f') + "."), "over 64 bits"},
      {"NotADictionary", pickled("]."), "no dictionary of tensors"},
      {"NotATensor", pickled(one_entry + "K\x01s."), "'w' is not a tensor"},
      {"KeyIsANumber", pickled("}K\x01K\x01s."), "a key that is not a string"},
      {"NoStorage", pickled(one_entry + "ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x01))tRs."), "'w': no storage"},
      {"DataMissing", pickled(one_entry + tensor_call("9", 4, std::string("K\0", 2), "K\x04\x85", "K\x01\x85") + "s."), "'w': its data '9' is not"},
      {"NegativeElements", pickled(one_entry + tensor_call("9", -4, std::string("K\0", 2), "K\x04\x85", "K\x01\x85") + "s."), "'w': "},
  };
}

class DamagedTorch : public testing::TestWithParam<Damage> {};
TEST_P(DamagedTorch, IsRefused) {
  const auto tensors = parse_torch_file(bytes_of(GetParam().content), "file");
  ASSERT_FALSE(tensors);
  EXPECT_NE(tensors.status().message().find(GetParam().message), std::string::npos) << tensors.status().message();
}
INSTANTIATE_TEST_SUITE_P(Formats, DamagedTorch, testing::ValuesIn(damaged_torch()), damage_name);

// Sizes inside a real file made wrong one by one: the tensor never reaches past its storage.
TEST(DamagedTorch, EveryByteOfARealFile) {
  const std::string whole = read_file(fixture("llm-awq-g32/tiny-w4-g32-awq-v2.pt"));
  ASSERT_TRUE(parse_torch_file(bytes_of(whole), "file"));
  for (size_t at = 0; at < 1200; at++) {
    for (const char flip : {'\x01', '\x80', '\xff'}) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ flip);
      const auto tensors = parse_torch_file(bytes_of(damaged), "file");
      if (!tensors) continue;
      for (const TensorView& view : *tensors) {
        const std::byte* begin = reinterpret_cast<const std::byte*>(damaged.data());
        EXPECT_GE(view.data.data(), begin);
        EXPECT_LE(view.data.data() + view.data.size(), begin + damaged.size());
        EXPECT_EQ(view.data.size(), static_cast<size_t>(view.elements()) * size_of(view.type));
      }
    }
  }
}

// ---- Folders: quantised linears whose tensors do not fit each other ----

struct FolderDamage {
  const char* name;
  const char* base;                                   // fixture folder
  std::function<void(std::string& config, std::string& weights)> change;
  const char* message;
};
void PrintTo(const FolderDamage& damage, std::ostream* out) { *out << damage.name; }

// Replaces text of the same length, so that no offset moves.
void replace(std::string& text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  text.replace(at, from.size(), to);
}

std::vector<FolderDamage> damaged_folders() {
  const auto config = [](const char* from, const char* to) {
    return [=](std::string& c, std::string&) { replace(c, from, to); };
  };
  const auto weights = [](const char* from, const char* to) {
    return [=](std::string&, std::string& w) { replace(w, from, to); };
  };
  return {
      {"Bits", "awq-gemm-g128", config("\"bits\": 4", "\"bits\": 3"), "3-bit"},
      {"Method", "awq-gemm-g128", config("\"awq\"", "\"hqq\""), "quant_method 'hqq'"},
      {"Version", "awq-gemm-g128", config("\"gemm\"", "\"marlin\""), "version 'marlin'"},
      {"GroupZero", "awq-gemm-g128", config("\"group_size\": 128", "\"group_size\": 0"), "group_size"},
      {"GroupHuge", "awq-gemm-g128", config("\"group_size\": 128", "\"group_size\": 9223372036854775807"), "group_size"},
      {"GroupDoesNotDivide", "awq-gemm-g128", config("\"group_size\": 128", "\"group_size\": 96"), "down_proj.qweight': group size 96"},
      {"GroupOfAnother", "awq-gemm-g128", config("\"group_size\": 128", "\"group_size\": 64"), "down_proj.qzeros' has shape [2, 4], expected [4, 4]"},
      {"NoZeroPoint", "awq-gemm-g128", config("\"zero_point\": true", "\"zero_point\": false"), "without zero points"},
      {"NoQuantization", "awq-gemm-g128", config("quantization_config", "quantizaion_config"), "down_proj.qweight' is quantised, but"},
      {"NothingQuantised", "dense-f16", config("{", R"({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": true, "version": "gemm"},)"), "but none of them is"},
      {"ConfigIsAList", "awq-gemm-g128", [](std::string& c, std::string&) { c = "[]"; }, "config.json: not a JSON object"},
      {"ConfigBroken", "awq-gemm-g128", [](std::string& c, std::string&) { c = "{"; }, "config.json: not valid JSON"},
      {"ScalesMissing", "awq-gemm-g128", weights("scales", "scalez"), "down_proj.scales' is missing"},
      {"ScalesType", "awq-gemm-g128", weights("\"F16\"", "\"I16\""), "down_proj.scales' has type i16"},
      {"WeightType", "awq-gemm-g128", weights("\"I32\", \"shape\": [256, 4]", "\"F32\", \"shape\": [256, 4]"), "down_proj.qweight' has type f32"},
      {"WeightTurned", "awq-gemm-g128", weights("[256, 4]", "[4, 256]"), "down_proj.qweight'"},
      {"GptqGroups", "gptq-act-order", [](std::string&, std::string& w) { w.replace(w.size() - 4, 4, raw<int32_t>(7)); }, "down_proj.g_idx': group 7 of 2"},
      {"GptqNegativeGroup", "gptq-act-order", [](std::string&, std::string& w) { w.replace(w.size() - 4, 4, raw<int32_t>(-1)); }, "down_proj.g_idx': group -1"},
      {"GptqUneven", "gptq-v1", [](std::string&, std::string& w) { w.replace(w.size() - 4, 4, raw<int32_t>(0)); }, "down_proj.g_idx': group 0 has more than 128"},
      {"GptqFormat", "gptq-v2", config("gptq_v2", "gptq_v9"), "checkpoint_format 'gptq_v9'"},
      {"GemvFastGroups", "awq-gemv-fast-g64", config("\"group_size\": 64", "\"group_size\": 32"), "down_proj.scales' has shape [16, 32]"},
      {"CompressedFormat", "compressed-pack", config("pack-quantized", "marlin-24-bit!"), "format 'marlin-24-bit!'"},
      {"CompressedBits", "compressed-pack", config("\"num_bits\": 4", "\"num_bits\": 2"), "2-bit"},
      {"CompressedAsymmetric8", "compressed-int8", config("\"symmetric\": true", "\"symmetric\": false"), "asymmetric"},
      {"CompressedShape", "compressed-pack-sym", [](std::string&, std::string& w) { w.replace(w.size() - 8, 8, raw<int64_t>(99)); }, "weight_shape' says 99"},
      {"CompressedScale", "compressed-int8", weights("[32, 1]", "[1, 32]"), ""},
      {"StaticScale", "compressed-int8-static", [](std::string&, std::string& w) { w.replace(w.size() - 4, 4, raw<float>(-1)); }, "input_scale': not one positive"},
  };
}

class DamagedFolder : public testing::TestWithParam<FolderDamage> {};
TEST_P(DamagedFolder, IsRefused) {
  const FolderDamage& damage = GetParam();
  TemporaryFolder folder;
  std::string config = read_file(fixture(std::string(damage.base) + "/config.json"));
  std::string weights = read_file(fixture(std::string(damage.base) + "/model.safetensors"));
  damage.change(config, weights);
  write_file(folder.path() + "/config.json", config);
  write_file(folder.path() + "/model.safetensors", weights);
  auto checkpoint = Checkpoint::open(folder.path());
  Status status = checkpoint.status();
  if (checkpoint) {
    status = (*checkpoint)->linear("model.layers.0.mlp.down_proj").status();
    EXPECT_EQ((*checkpoint)->linear_header("model.layers.0.mlp.down_proj").status().is_ok(), status.is_ok());
  }
  if (!*damage.message) {  // odd, and read all the same
    EXPECT_TRUE(status.is_ok()) << status.message();
    return;
  }
  ASSERT_FALSE(status.is_ok());
  EXPECT_NE(status.message().find(damage.message), std::string::npos) << status.message();
  EXPECT_NE(status.message().find(folder.path()), std::string::npos) << status.message();
}
INSTANTIATE_TEST_SUITE_P(Formats, DamagedFolder, testing::ValuesIn(damaged_folders()), [](const auto& info) { return std::string(info.param.name); });

TEST(DamagedFolders, IndexReachesNoOtherFolder) {
  for (const char* shard : {"../other.safetensors", "/etc/passwd", "", "..", "a/b.safetensors"}) {
    TemporaryFolder folder;
    write_file(folder.path() + "/config.json", "{}");
    write_file(folder.path() + "/model.safetensors.index.json", "{\"weight_map\":{\"w\":\"" + std::string(shard) + "\"}}");
    const auto checkpoint = Checkpoint::open(folder.path());
    ASSERT_FALSE(checkpoint);
    EXPECT_NE(checkpoint.status().message().find("tensor 'w'"), std::string::npos) << checkpoint.status().message();
  }
}

TEST(DamagedFolders, ShardsMustAgreeWithTheIndex) {
  const auto shard = [](const std::string& name) {
    return safetensors_file("{\"" + name + "\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", std::string(4, '\0'));
  };
  TemporaryFolder folder;
  write_file(folder.path() + "/config.json", "{}");
  write_file(folder.path() + "/1.safetensors", shard("a"));
  write_file(folder.path() + "/2.safetensors", shard("b"));
  const std::string index = folder.path() + "/model.safetensors.index.json";
  write_file(index, R"({"weight_map":{"a":"1.safetensors","b":"2.safetensors"}})");
  ASSERT_TRUE(Checkpoint::open(folder.path()));
  write_file(index, R"({"weight_map":{"a":"2.safetensors","b":"2.safetensors"}})");
  EXPECT_NE(Checkpoint::open(folder.path()).status().message().find("tensor 'a' is not in 2.safetensors"), std::string::npos);
  write_file(index, R"({"weight_map":{"a":"1.safetensors","b":"3.safetensors"}})");
  EXPECT_EQ(Checkpoint::open(folder.path()).status().code(), Code::not_found);
  write_file(folder.path() + "/2.safetensors", shard("a"));
  write_file(index, R"({"weight_map":{"a":"1.safetensors","b":"2.safetensors"}})");
  EXPECT_NE(Checkpoint::open(folder.path()).status().message().find("the same tensor is also in"), std::string::npos);
}

TEST(DamagedFolders, WeightsThatAreNotReadAreNamed) {
  const auto weights = safetensors_file(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", std::string(4, '\0'));
  TemporaryFolder folder;
  write_file(folder.path() + "/config.json", "{}");
  write_file(folder.path() + "/1.safetensors", weights);
  write_file(folder.path() + "/model.safetensors.index.json", R"({"weight_map":{"a":"1.safetensors"}})");
  EXPECT_TRUE((*Checkpoint::open(folder.path()))->notes().empty());
  for (const char* name : {"/model.safetensors", "/adapter_model.safetensors", "/x.safetensors", "/y.safetensors"}) write_file(folder.path() + name, weights);
  const auto notes = (*Checkpoint::open(folder.path() + "/"))->notes();
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_EQ(notes[0], "adapter_model.safetensors, model.safetensors, x.safetensors and 1 more: in the model's folder, but not read; "
                      "the weights come from 1.safetensors");
}

TEST(DamagedFolders, MissingTensorsAreNamed) {
  const auto checkpoint = Checkpoint::open(fixture("dense-f16"));
  ASSERT_TRUE(checkpoint);
  EXPECT_NE((*checkpoint)->require("model.norm.weight", {{32}}).status().message().find("tensor 'model.norm.weight' is missing"), std::string::npos);
  EXPECT_NE((*checkpoint)->floats("model.layers.0.mlp.down_proj.weight", {{3, 5}}).status().message().find("has shape [32, 256], expected [3, 5]"), std::string::npos);
  EXPECT_NE((*checkpoint)->linear("model.layers.9.x").status().message().find("model.layers.9.x.weight' is missing"), std::string::npos);
  EXPECT_EQ(Checkpoint::open("/nonexistent").status().code(), Code::not_found);
}

}  // namespace
}  // namespace hearth::formats
