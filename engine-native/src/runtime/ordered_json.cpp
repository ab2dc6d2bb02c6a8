#include "runtime/ordered_json.h"

#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace hearth::runtime {
namespace {

using Ordered = nlohmann::ordered_json;

class Builder : public nlohmann::json_sax<Ordered> {
 public:
  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }  // no JSON text has any
  bool start_object(std::size_t) override { return open(Ordered::object()); }
  bool start_array(std::size_t) override { return open(Ordered::array()); }
  bool key(string_t& name) override {
    Open& object = open_.back();
    auto& members = object.value->get_ref<Ordered::object_t&>();
    auto [at, fresh] = object.places.try_emplace(name, members.size());
    if (fresh) members.Ordered::object_t::Container::emplace_back(std::move(name), nullptr);
    member_ = &members.Ordered::object_t::Container::operator[](at->second).second;  // of two of one name the later holds
    return true;
  }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception&) override { return false; }

  Ordered take() { return std::move(root_); }

 private:
  struct Open {
    Ordered* value;
    std::unordered_map<std::string, size_t> places;  // of an object's members
  };

  Ordered& place(Ordered value) {
    if (open_.empty()) return root_ = std::move(value);
    Ordered& into = *open_.back().value;
    if (into.is_object()) return *member_ = std::move(value);
    into.push_back(std::move(value));
    return into.back();
  }
  bool add(Ordered value) {
    place(std::move(value));
    return true;
  }
  // What encloses an open value gets nothing until it is closed: pointers to open values stay good.
  bool open(Ordered value) {
    Ordered& placed = place(std::move(value));
    open_.push_back({&placed, {}});
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  Ordered root_;
  Ordered* member_ = nullptr;
  std::vector<Open> open_;
};

}  // namespace

Ordered parse_ordered(std::string_view text) {
  Builder builder;
  return Ordered::sax_parse(text, &builder) ? builder.take() : Ordered();
}

}  // namespace hearth::runtime
