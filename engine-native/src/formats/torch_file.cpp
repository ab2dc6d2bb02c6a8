#include "formats/torch_file.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>

#include "formats/pickle.h"
#include "formats/zip.h"

namespace hearth::formats {

namespace {

using Kind = PickleValue::Kind;
using Entries = std::map<std::string, std::span<const std::byte>>;

constexpr std::array<std::pair<std::string_view, DType>, 9> storages{{
    {"torch FloatStorage", DType::f32}, {"torch HalfStorage", DType::f16}, {"torch BFloat16Storage", DType::bf16},
    {"torch DoubleStorage", DType::f64}, {"torch LongStorage", DType::i64}, {"torch IntStorage", DType::i32},
    {"torch ShortStorage", DType::i16}, {"torch CharStorage", DType::i8}, {"torch ByteStorage", DType::u8},
}};
constexpr std::array<std::string_view, 12> permitted{
    "collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter",
    "torch FloatStorage", "torch HalfStorage", "torch BFloat16Storage", "torch DoubleStorage", "torch LongStorage",
    "torch IntStorage", "torch ShortStorage", "torch CharStorage", "torch ByteStorage"};

struct Archive {
  Pickle pickle;
  Entries entries;
  std::string prefix;  // "archive/" of "archive/data.pkl"
  std::string file;
};

struct Storage { DType type = DType::f32; std::span<const std::byte> bytes; };

Status bad(const TensorView& view, const std::string& what) { return corrupt(label(view) + ": " + what); }

// The persistent id ('storage', type, key, location, elements) of a tensor's bytes.
Result<Storage> find_storage(const Archive& archive, PickleId id, const TensorView& view) {
  const Pickle& pickle = archive.pickle;
  if (pickle.at(id).kind != Kind::persistent) return bad(view, "no storage");
  const PickleValue& key = pickle.at(pickle.at(id).items[0]);
  if (key.kind != Kind::tuple || key.items.size() != 5) return bad(view, "a storage id of another form");
  const PickleValue &tag = pickle.at(key.items[0]), &type = pickle.at(key.items[1]), &name = pickle.at(key.items[2]);
  const PickleValue& elements = pickle.at(key.items[4]);
  if (tag.kind != Kind::text || tag.text != "storage" || name.kind != Kind::text || elements.kind != Kind::integer) {
    return bad(view, "a storage id of another form");
  }
  for (const auto& [text, element_type] : storages) {
    if (type.kind != Kind::global || type.text != text) continue;
    const auto entry = archive.entries.find(archive.prefix + "data/" + name.text);
    if (entry == archive.entries.end()) return bad(view, "its data '" + name.text + "' is not in the archive");
    const auto bytes = checked_bytes({{elements.integer}}, static_cast<int64_t>(size_of(element_type)));
    if (!bytes || static_cast<uint64_t>(*bytes) > entry->second.size()) return bad(view, "its data is shorter than its storage");
    return Storage{element_type, entry->second.first(static_cast<size_t>(*bytes))};
  }
  return bad(view, "an unknown storage type");
}

std::optional<std::vector<int64_t>> sizes_of(const Pickle& pickle, PickleId id) {
  const PickleValue& tuple = pickle.at(id);
  if (tuple.kind != Kind::tuple || tuple.items.size() > 8) return std::nullopt;
  std::vector<int64_t> sizes;
  for (const PickleId item : tuple.items) {
    if (pickle.at(item).kind != Kind::integer || pickle.at(item).integer < 0) return std::nullopt;
    sizes.push_back(pickle.at(item).integer);
  }
  return sizes;
}

bool contiguous(std::span<const int64_t> shape, std::span<const int64_t> strides) {
  int64_t expected = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    if (shape[i] != 1 && strides[i] != expected) return false;
    if (__builtin_mul_overflow(expected, std::max<int64_t>(shape[i], 1), &expected)) return false;
  }
  return true;
}

// _rebuild_tensor_v2(storage, offset, size, stride, ...)
Status read_tensor(const Archive& archive, const PickleValue& arguments, TensorView& view) {
  const Pickle& pickle = archive.pickle;
  if (arguments.items.size() < 4) return bad(view, "a tensor of another form");
  HEARTH_ASSIGN(const Storage storage, find_storage(archive, arguments.items[0], view));
  const PickleValue& offset = pickle.at(arguments.items[1]);
  const auto shape = sizes_of(pickle, arguments.items[2]), strides = sizes_of(pickle, arguments.items[3]);
  if (offset.kind != Kind::integer || offset.integer < 0 || !shape || !strides || shape->size() != strides->size()) {
    return bad(view, "a shape of another form");
  }
  if (!contiguous(*shape, *strides)) return Status(Code::unsupported, label(view) + " is not contiguous");
  const int64_t element_size = static_cast<int64_t>(size_of(storage.type));
  const auto bytes = checked_bytes(*shape, element_size), begin = checked_bytes({{offset.integer}}, element_size);
  const int64_t available = static_cast<int64_t>(storage.bytes.size());
  if (!bytes || !begin || *begin > available || *bytes > available - *begin) return bad(view, "it does not fit its storage");
  view.type = storage.type;
  view.shape = *shape;
  view.data = storage.bytes.subspan(static_cast<size_t>(*begin), static_cast<size_t>(*bytes));
  return Status::ok();
}

// A tensor, or a parameter around one. Anything else in the dictionary is not ours to read.
const PickleValue* tensor_arguments(const Pickle& pickle, PickleId id) {
  const PickleValue& value = pickle.at(id);
  if (value.kind != Kind::call) return nullptr;
  const PickleValue &callee = pickle.at(value.items[0]), &arguments = pickle.at(value.items[1]);
  if (callee.text == "torch._utils _rebuild_tensor_v2") return &arguments;
  if (callee.text != "torch._utils _rebuild_parameter" || arguments.items.empty()) return nullptr;
  const PickleValue& inner = pickle.at(arguments.items[0]);
  if (inner.kind != Kind::call || pickle.at(inner.items[0]).text != "torch._utils _rebuild_tensor_v2") return nullptr;
  return &pickle.at(inner.items[1]);
}

Result<Archive> open_archive(std::span<const std::byte> bytes, const std::string& file) {
  Archive archive{.pickle = {}, .entries = {}, .prefix = {}, .file = file};
  HEARTH_ASSIGN(archive.entries, read_zip(bytes, file));
  constexpr std::string_view pickle_name = "data.pkl";
  const std::span<const std::byte>* pickle = nullptr;
  for (const auto& [name, data] : archive.entries) {
    const size_t slash = name.find('/');
    const size_t start = slash == std::string::npos ? 0 : slash + 1;
    if (std::string_view(name).substr(start) != pickle_name) continue;
    if (pickle) return corrupt(file + ": two pickles");
    pickle = &data;
    archive.prefix = name.substr(0, start);
  }
  if (!pickle) return corrupt(file + ": no data.pkl: not a torch.save file");
  if (const auto order = archive.entries.find(archive.prefix + "byteorder"); order != archive.entries.end()) {
    const std::string_view text(reinterpret_cast<const char*>(order->second.data()), order->second.size());
    if (text != "little") return unsupported(file + ": byte order '" + std::string(text.substr(0, 16)) + "'");
  }
  HEARTH_ASSIGN(archive.pickle, read_pickle(*pickle, permitted, file));
  return archive;
}

}  // namespace

Result<std::vector<TensorView>> parse_torch_file(std::span<const std::byte> bytes, const std::string& file) {
  HEARTH_ASSIGN(const Archive archive, open_archive(bytes, file));
  const PickleValue& root = archive.pickle.at(archive.pickle.root);
  if (root.kind != Kind::dict) return corrupt(file + ": holds no dictionary of tensors");
  std::vector<TensorView> tensors;
  for (const auto& [key, value] : root.entries) {
    const PickleValue& name = archive.pickle.at(key);
    if (name.kind != Kind::text) return corrupt(file + ": a key that is not a string");
    const PickleValue* arguments = tensor_arguments(archive.pickle, value);
    if (!arguments) return unsupported(file + ": '" + name.text.substr(0, 200) + "' is not a tensor");
    TensorView view{.name = name.text, .type = DType::f32, .shape = {}, .data = {}, .file = file};
    HEARTH_TRY(read_tensor(archive, *arguments, view));
    tensors.push_back(std::move(view));
  }
  return tensors;
}

Status add_torch_file(TensorStore& store, const std::string& path, const std::string& prefix) {
  HEARTH_ASSIGN(auto file, MappedFile::open(path));
  HEARTH_ASSIGN(auto tensors, parse_torch_file(file->bytes(), path));
  store.keep(file);
  for (TensorView& view : tensors) HEARTH_TRY(store.add(std::move(view), prefix));
  return Status::ok();
}

}  // namespace hearth::formats
