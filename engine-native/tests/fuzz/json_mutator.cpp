// Mutations of JSON documents, for the targets whose input is one: bytes changed blindly hardly ever get past the parser.
// One mutation in four stays blind, so that the parser is tried too.
#include <cstdint>
#include <cstring>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace {

using Json = nlohmann::ordered_json;
using Random = std::minstd_rand;

constexpr size_t string_bytes_max = 256;

void collect(Json& node, std::vector<Json*>& out) {
  out.push_back(&node);
  if (node.is_structured())
    for (Json& child : node) collect(child, out);
}

Json& any_of(Json& root, Random& random) {
  std::vector<Json*> nodes;
  collect(root, nodes);
  return *nodes[random() % nodes.size()];
}

// libFuzzer's own mutations, which know the dictionary and the constants the code compared with.
std::string mutated(std::string text) {
  const size_t size = text.size();
  text.resize(std::max(size * 2, string_bytes_max));
  text.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(text.data()), size, text.size()));
  return text;
}

Json interesting(Random& random) {
  static const std::vector<Json> values = {
      nullptr, true, false, 0, 1, -1, 2, 3, 31, 32, 128, 255, 256, 65535, 100000, INT32_MAX, int64_t{INT32_MIN}, INT64_MAX, INT64_MIN, UINT64_MAX,
      1.5, -0.0, 1e-9, 1e308, "", "a", Json::array(), Json::object(), Json::array({0, 1})};
  return values[random() % values.size()];
}

// A name of an object changed, or a member doubled under another name.
void rename(Json& object, Random& random) {
  if (object.empty()) return;
  auto at = std::next(object.begin(), static_cast<std::ptrdiff_t>(random() % object.size()));
  const std::string name = mutated(at.key());
  Json value = at.value();
  if (random() % 2) object.erase(at);
  object[name] = std::move(value);
}

void mutate(Json& root, Random& random) {
  Json& node = any_of(root, random);
  switch (random() % 7) {
    case 0: node = interesting(random); break;
    case 1: node = Json(any_of(root, random)); break;
    case 2: node = Json::array({node}); break;
    case 3:
      if (node.is_structured() && !node.empty()) node.erase(std::next(node.begin(), static_cast<std::ptrdiff_t>(random() % node.size())));
      break;
    case 4:
      if (node.is_array()) node.push_back(Json(any_of(root, random)));
      else if (node.is_object()) rename(node, random);
      break;
    case 5:
      if (node.is_number_integer()) node = static_cast<int64_t>(node.get<uint64_t>() + random() % 5 - 2);  // may wrap
      break;
    default:
      if (node.is_string()) node = mutated(node.get<std::string>());
      break;
  }
}

// The document into `data`; 0 where it does not fit.
size_t write(const Json& root, uint8_t* data, size_t max_size) {
  const std::string text = root.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > max_size) return 0;
  std::memcpy(data, text.data(), text.size());
  return text.size();
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  Random random(seed);
  Json root = Json::parse(data, data + size, nullptr, false);
  if (root.is_discarded() || random() % 4 == 0) return LLVMFuzzerMutate(data, size, max_size);
  for (unsigned i = 1 + random() % 3; i > 0; --i) mutate(root, random);
  const size_t written = write(root, data, max_size);
  return written ? written : LLVMFuzzerMutate(data, size, max_size);
}

// A part of the second document put in the place of a part of the first.
extern "C" size_t LLVMFuzzerCustomCrossOver(const uint8_t* a, size_t a_size, const uint8_t* b, size_t b_size, uint8_t* out,
                                            size_t max_size, unsigned seed) {
  Random random(seed);
  Json first = Json::parse(a, a + a_size, nullptr, false), second = Json::parse(b, b + b_size, nullptr, false);
  if (first.is_discarded() || second.is_discarded()) return 0;
  any_of(first, random) = any_of(second, random);
  return write(first, out, max_size);
}
