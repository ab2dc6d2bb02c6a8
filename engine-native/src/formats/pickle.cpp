#include "formats/pickle.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <unordered_map>

namespace hearth::formats {

namespace {

constexpr size_t pickle_bytes_max = size_t{64} << 20;
constexpr size_t values_max = 2'000'000;

using Kind = PickleValue::Kind;

class Machine {
 public:
  Machine(std::span<const std::byte> bytes, std::span<const std::string_view> permitted, const std::string& file)
      : bytes_(bytes), permitted_(permitted), file_(file) {}

  Result<Pickle> run() {
    while (true) {
      HEARTH_ASSIGN(const uint8_t code, take<uint8_t>());
      if (code == '.') break;
      HEARTH_TRY(step(code));
      if (pickle_.values.size() > values_max) return error("more than " + std::to_string(values_max) + " values");
    }
    HEARTH_ASSIGN(pickle_.root, pop());
    return std::move(pickle_);
  }

 private:
  Status error(const std::string& what) const { return corrupt(file_ + ": pickle: " + what + " at byte " + std::to_string(position_)); }

  template <class T>
  Result<T> take() {
    if (bytes_.size() - position_ < sizeof(T)) return error("truncated");
    T value;
    __builtin_memcpy(&value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  Result<std::string> take_text(uint64_t size) {
    if (size > bytes_.size() - position_) return error("a string longer than the file");
    std::string text(reinterpret_cast<const char*>(bytes_.data()) + position_, size);
    position_ += size;
    return text;
  }

  Result<std::string> take_line() {
    const auto begin = bytes_.begin() + static_cast<std::ptrdiff_t>(position_);
    const auto end = std::find(begin, bytes_.end(), std::byte{'\n'});
    if (end == bytes_.end()) return error("a line without an end");
    std::string text(reinterpret_cast<const char*>(bytes_.data()) + position_, static_cast<size_t>(end - begin));
    position_ += text.size() + 1;
    return text;
  }

  Status push(PickleValue value) {
    pickle_.values.push_back(std::move(value));
    stack_.push_back(static_cast<PickleId>(pickle_.values.size() - 1));
    return Status::ok();
  }
  Status push_kind(Kind kind) { PickleValue v; v.kind = kind; return push(std::move(v)); }
  Status push_integer(int64_t integer, Kind kind = Kind::integer) {
    PickleValue v; v.kind = kind; v.integer = integer; return push(std::move(v));
  }
  Status push_text(Result<std::string> text) {
    if (!text) return text.status();
    PickleValue v; v.kind = Kind::text; v.text = std::move(text).value(); return push(std::move(v));
  }

  Result<PickleId> pop() {
    if (stack_.empty()) return error("an empty stack");
    const PickleId id = stack_.back();
    if (pickle_.values[id].kind == Kind::mark) return error("a mark where a value should be");
    stack_.pop_back();
    return id;
  }

  // What was pushed since the last mark; the mark goes too.
  Result<std::vector<PickleId>> pop_to_mark() {
    size_t begin = stack_.size();
    while (begin > 0 && pickle_.values[stack_[begin - 1]].kind != Kind::mark) begin--;
    if (begin == 0) return error("no mark");
    std::vector<PickleId> items(stack_.begin() + static_cast<std::ptrdiff_t>(begin), stack_.end());
    stack_.resize(begin - 1);
    return items;
  }

  Status push_tuple(std::vector<PickleId> items) {
    PickleValue v; v.kind = Kind::tuple; v.items = std::move(items); return push(std::move(v));
  }

  Status tuple_of(size_t count) {
    std::vector<PickleId> items(count);
    for (size_t i = count; i-- > 0;) {
      HEARTH_ASSIGN(items[i], pop());
    }
    return push_tuple(std::move(items));
  }

  Result<PickleValue*> top(Kind kind, const char* what) {
    if (stack_.empty() || pickle_.values[stack_.back()].kind != kind) return error(std::string("no ") + what + " to add to");
    return &pickle_.values[stack_.back()];
  }

  Status append(std::vector<PickleId> items) {
    HEARTH_ASSIGN(PickleValue* list, top(Kind::list, "list"));
    list->items.insert(list->items.end(), items.begin(), items.end());
    return Status::ok();
  }

  Status set_items(const std::vector<PickleId>& items) {
    if (items.size() % 2 != 0) return error("a key without a value");
    HEARTH_ASSIGN(PickleValue* dict, top(Kind::dict, "dictionary"));
    for (size_t i = 0; i < items.size(); i += 2) dict->entries.emplace_back(items[i], items[i + 1]);
    return Status::ok();
  }

  Status put(uint32_t key) {
    if (stack_.empty()) return error("nothing to remember");
    memo_[key] = stack_.back();
    return Status::ok();
  }
  Status get(uint32_t key) {
    const auto found = memo_.find(key);
    if (found == memo_.end()) return error("an unknown reference");
    stack_.push_back(found->second);
    return Status::ok();
  }

  Status global() {
    HEARTH_ASSIGN(const std::string module, take_line());
    HEARTH_ASSIGN(const std::string name, take_line());
    const std::string full = module + " " + name;
    if (std::find(permitted_.begin(), permitted_.end(), full) == permitted_.end()) {
      return unsupported(file_ + ": the pickle names '" + (module + "." + name).substr(0, 120) +
                         "', which is not part of a state_dict of tensors; nothing in it was run");
    }
    PickleValue v; v.kind = Kind::global; v.text = full; return push(std::move(v));
  }

  // OrderedDict() is a dictionary like any other; every other call is kept as it stands.
  Status reduce() {
    HEARTH_ASSIGN(const PickleId arguments, pop());
    HEARTH_ASSIGN(const PickleId callee, pop());
    if (pickle_.at(callee).kind != Kind::global || pickle_.at(arguments).kind != Kind::tuple) return error("a call of something else");
    if (pickle_.at(callee).text == "collections OrderedDict") {
      return pickle_.at(arguments).items.empty() ? push_kind(Kind::dict) : error("OrderedDict with arguments");
    }
    PickleValue v; v.kind = Kind::call; v.items = {callee, arguments}; return push(std::move(v));
  }

  // State of a dictionary (`_metadata` of a state_dict) says nothing about tensors and is dropped.
  Status build() {
    HEARTH_ASSIGN(const PickleId state, pop());
    if (pickle_.at(state).kind != Kind::dict) return error("state that is not a dictionary");
    return top(Kind::dict, "dictionary").status();
  }

  Status persistent() {
    HEARTH_ASSIGN(const PickleId id, pop());
    PickleValue v; v.kind = Kind::persistent; v.items = {id}; return push(std::move(v));
  }

  Status long_integer() {
    HEARTH_ASSIGN(const uint8_t size, take<uint8_t>());
    HEARTH_ASSIGN(const std::string digits, take_text(size));
    if (size > 8) return error("an integer over 64 bits");
    uint64_t value = size && (static_cast<uint8_t>(digits.back()) & 0x80) ? ~uint64_t{0} : 0;
    for (size_t i = digits.size(); i-- > 0;) value = value << 8 | static_cast<uint8_t>(digits[i]);
    return push_integer(static_cast<int64_t>(value));
  }

  Status big_endian_double() {
    HEARTH_ASSIGN(const uint64_t bits, take<uint64_t>());
    PickleValue v; v.kind = Kind::number; v.number = std::bit_cast<double>(__builtin_bswap64(bits)); return push(std::move(v));
  }

  Status step(uint8_t code);
  Status step_number(uint8_t code);
  Status step_container(uint8_t code);

  std::span<const std::byte> bytes_;
  std::span<const std::string_view> permitted_;
  const std::string& file_;
  size_t position_ = 0;
  Pickle pickle_;
  std::vector<PickleId> stack_;
  std::unordered_map<uint32_t, PickleId> memo_;
};

Status Machine::step(uint8_t code) {
  switch (code) {
    case 0x80: {  // PROTO
      HEARTH_ASSIGN(const uint8_t version, take<uint8_t>());
      return version >= 2 && version <= 4 ? Status::ok() : unsupported(file_ + ": pickle protocol " + std::to_string(version));
    }
    case 'X': { HEARTH_ASSIGN(const uint32_t size, take<uint32_t>()); return push_text(take_text(size)); }  // BINUNICODE
    case 0x8c: { HEARTH_ASSIGN(const uint8_t size, take<uint8_t>()); return push_text(take_text(size)); }   // SHORT_BINUNICODE
    case 'q': { HEARTH_ASSIGN(const uint8_t key, take<uint8_t>()); return put(key); }                       // BINPUT
    case 'r': { HEARTH_ASSIGN(const uint32_t key, take<uint32_t>()); return put(key); }                     // LONG_BINPUT
    case 'h': { HEARTH_ASSIGN(const uint8_t key, take<uint8_t>()); return get(key); }                       // BINGET
    case 'j': { HEARTH_ASSIGN(const uint32_t key, take<uint32_t>()); return get(key); }                     // LONG_BINGET
    case 'c': return global();                                                                              // GLOBAL
    case 'R': return reduce();                                                                              // REDUCE
    case 'b': return build();                                                                               // BUILD
    case 'Q': return persistent();                                                                          // BINPERSID
    case '(': return push_kind(Kind::mark);                                                                 // MARK
    case '0': return pop().status();                                                                        // POP
    default: return step_number(code);
  }
}

Status Machine::step_number(uint8_t code) {
  switch (code) {
    case 'N': return push_kind(Kind::none);
    case 0x88: return push_integer(1, Kind::boolean);
    case 0x89: return push_integer(0, Kind::boolean);
    case 'K': { HEARTH_ASSIGN(const uint8_t value, take<uint8_t>()); return push_integer(value); }
    case 'M': { HEARTH_ASSIGN(const uint16_t value, take<uint16_t>()); return push_integer(value); }
    case 'J': { HEARTH_ASSIGN(const int32_t value, take<int32_t>()); return push_integer(value); }
    case 0x8a: return long_integer();
    case 'G': return big_endian_double();
    default: return step_container(code);
  }
}

Status Machine::step_container(uint8_t code) {
  switch (code) {
    case ')': return push_tuple({});
    case 0x85: return tuple_of(1);
    case 0x86: return tuple_of(2);
    case 0x87: return tuple_of(3);
    case 't': { HEARTH_ASSIGN(auto items, pop_to_mark()); return push_tuple(std::move(items)); }
    case ']': return push_kind(Kind::list);
    case 'a': { HEARTH_ASSIGN(const PickleId item, pop()); return append({item}); }
    case 'e': { HEARTH_ASSIGN(auto items, pop_to_mark()); return append(std::move(items)); }
    case '}': return push_kind(Kind::dict);
    case 's': {
      HEARTH_ASSIGN(const PickleId value, pop());
      HEARTH_ASSIGN(const PickleId key, pop());
      return set_items({key, value});
    }
    case 'u': { HEARTH_ASSIGN(const auto items, pop_to_mark()); return set_items(items); }
    default: return unsupported(file_ + ": pickle instruction " + std::to_string(code) + " is not part of a state_dict; nothing in it was run");
  }
}

}  // namespace

Result<Pickle> read_pickle(std::span<const std::byte> bytes, std::span<const std::string_view> permitted, const std::string& file) {
  if (bytes.size() > pickle_bytes_max) return corrupt(file + ": a pickle of " + std::to_string(bytes.size()) + " bytes");
  return Machine(bytes, permitted, file).run();
}

}  // namespace hearth::formats
