#include "runtime/request.h"

#include "runtime/json_reader.h"
#include "runtime/ordered_json.h"
#include "sampling/sampler.h"
#include "ops/ops.h"

namespace hearth::runtime {
namespace {

template <class T, class Read>
Status optional(std::optional<T>& out, Read read) {
  // NaN never passes a range check, so a sentinel shows whether the key was there.
  T value{};
  bool present = false;
  HEARTH_TRY(read(value, present));
  if (present) out = value;
  return Status::ok();
}

Status read_optional(JsonReader& reader, const char* key, double low, double high, std::optional<float>& out) {
  return optional(out, [&](float& value, bool& present) {
    present = reader.find(key) != nullptr;
    return reader.read_number(key, low, high, value);
  });
}

Status read_images(JsonReader& reader, std::vector<ImageRequest>& out) {
  const Json* list = reader.find("images");
  if (!list) return Status::ok();
  if (!list->is_array() || list->size() > images_max)
    return JsonReader::wrong("images", "an array of at most " + std::to_string(images_max));
  for (const Json& item : *list) {
    if (!item.is_object()) return JsonReader::wrong("images", "an array of objects");
    JsonReader image(item);
    ImageRequest one;
    HEARTH_TRY(image.read_integer("width", 1, image_side_max, one.width).with("images"));
    HEARTH_TRY(image.read_integer("height", 1, image_side_max, one.height).with("images"));
    HEARTH_TRY(image.read("detail", one.detail).with("images"));
    HEARTH_TRY(image.finish().with("images"));
    if (one.width < 1 || one.height < 1) return JsonReader::wrong("images", "objects with width and height");
    if (one.detail != "auto" && one.detail != "low" && one.detail != "high")
      return JsonReader::wrong("detail", "auto, low or high");
    out.push_back(one);
  }
  return Status::ok();
}

Status read_bias(JsonReader& reader, std::vector<std::pair<int32_t, float>>& out) {
  const Json* list = reader.find("logit_bias");
  if (!list) return Status::ok();
  if (!list->is_array() || list->size() > static_cast<size_t>(sampling::bias_entries_max))
    return JsonReader::wrong("logit_bias", "an array of at most " + std::to_string(sampling::bias_entries_max) + " pairs");
  for (const Json& item : *list) {
    int64_t id = -1;
    bool pair = item.is_array() && item.size() == 2 && JsonReader::as_integer(item[0], id) && item[1].is_number();
    double bias = pair ? item[1].get<double>() : NAN;
    if (!pair || id < 0 || id > INT32_MAX || !(bias >= -100 && bias <= 100))
      return JsonReader::wrong("logit_bias", "pairs of a token id and a number from -100 to 100");
    out.emplace_back(static_cast<int32_t>(id), static_cast<float>(bias));
  }
  return Status::ok();
}

Status read_stops(JsonReader& reader, RequestOptions& out) {
  if (const Json* list = reader.find("stop")) {
    if (!list->is_array() || list->size() > stop_strings_max)
      return JsonReader::wrong("stop", "an array of at most " + std::to_string(stop_strings_max) + " strings");
    for (const Json& item : *list) {
      if (!item.is_string() || item.get_ref<const std::string&>().empty() ||
          item.get_ref<const std::string&>().size() > stop_string_bytes_max)
        return JsonReader::wrong("stop", "strings of 1 to " + std::to_string(stop_string_bytes_max) + " bytes");
      out.stop.push_back(item.get<std::string>());
    }
  }
  if (const Json* list = reader.find("stop_tokens")) {
    if (!list->is_array() || list->size() > stop_tokens_max)
      return JsonReader::wrong("stop_tokens", "an array of at most " + std::to_string(stop_tokens_max) + " ids");
    for (const Json& item : *list) {
      int64_t id = -1;
      if (!JsonReader::as_integer(item, id) || id < 0 || id > INT32_MAX)
        return JsonReader::wrong("stop_tokens", "token ids");
      out.stop_tokens.push_back(static_cast<int32_t>(id));
    }
  }
  return Status::ok();
}

Status read_prediction(JsonReader& reader, RequestOptions& out) {
  const Json* given = reader.find("prediction");
  if (!given) return Status::ok();
  if (given->is_string()) return reader.read("prediction", out.prediction);
  if (!given->is_array()) return JsonReader::wrong("prediction", "a string or an array of token ids");
  for (const Json& item : *given) {
    int64_t id = -1;
    if (!JsonReader::as_integer(item, id) || id < 0 || id > INT32_MAX) return JsonReader::wrong("prediction", "a string or an array of token ids");
    out.predicted_ids.push_back(static_cast<int32_t>(id));
  }
  return Status::ok();
}

Status read_sampling(JsonReader& reader, RequestOptions& out) {
  HEARTH_TRY(read_optional(reader, "temperature", 0, 100, out.temperature));
  HEARTH_TRY(read_optional(reader, "top_p", 0, 1, out.top_p));
  HEARTH_TRY(read_optional(reader, "min_p", 0, 1, out.min_p));
  HEARTH_TRY(read_optional(reader, "repetition_penalty", 0.01, 100, out.repetition_penalty));
  HEARTH_TRY(reader.read_number("frequency_penalty", -100, 100, out.frequency_penalty));
  HEARTH_TRY(reader.read_number("presence_penalty", -100, 100, out.presence_penalty));
  HEARTH_TRY(optional(out.top_k, [&](int& value, bool& present) {
    present = reader.find("top_k") != nullptr;
    return reader.read_integer("top_k", 0, INT32_MAX, value);
  }));
  HEARTH_TRY(optional(out.seed, [&](uint32_t& value, bool& present) {
    present = reader.find("seed") != nullptr;
    return reader.read_integer("seed", 0, UINT32_MAX, value);
  }));
  return read_bias(reader, out.logit_bias);
}

Status read_pooling(JsonReader& reader, RequestOptions& out) {
  std::string pooling = "mean";
  HEARTH_TRY(reader.read("pooling", pooling));
  if (pooling != "mean" && pooling != "last") return JsonReader::wrong("pooling", "mean or last");
  out.pool_mean = pooling == "mean";
  HEARTH_TRY(reader.read("normalize", out.normalize));
  return reader.read_integer("dimensions", 0, INT32_MAX, out.dimensions);
}

Status read_kind(JsonReader& reader, Kind& out) {
  std::string kind = "generate";
  HEARTH_TRY(reader.read("kind", kind));
  if (kind == "generate") out = Kind::generate;
  else if (kind == "embed") out = Kind::embed;
  else if (kind == "score") out = Kind::score;
  else return JsonReader::wrong("kind", "generate, embed or score");
  return Status::ok();
}

Status check_combinations(const RequestOptions& o) {
  if (o.max_tokens > 0 && o.min_tokens > o.max_tokens) return invalid("\"min_tokens\" is more than \"max_tokens\"");
  if (o.top_logprobs > 0 && !o.logprobs && !o.prompt_logprobs)
    return invalid("\"top_logprobs\" needs \"logprobs\" or \"prompt_logprobs\"");
  if (!o.grammar.is_null() && o.kind != Kind::generate) return invalid("\"grammar\" needs kind generate");
  if ((!o.prediction.empty() || !o.predicted_ids.empty()) && o.kind != Kind::generate) return invalid("\"prediction\" needs kind generate");
  if (!o.grammar.is_null() && o.min_tokens > 0) return invalid("\"min_tokens\" cannot be combined with \"grammar\"");
  return Status::ok();
}

}  // namespace

Result<RequestOptions> parse_request(std::string_view json) {
  HEARTH_ASSIGN(JsonReader reader, JsonReader::parse(json, "request_json"));
  RequestOptions out;
  HEARTH_TRY(read_kind(reader, out.kind));
  HEARTH_TRY(reader.read("add_special_tokens", out.add_special_tokens));
  HEARTH_TRY(read_images(reader, out.images));
  HEARTH_TRY(reader.read_integer("max_tokens", 0, INT32_MAX, out.max_tokens));
  HEARTH_TRY(reader.read_integer("min_tokens", 0, INT32_MAX, out.min_tokens));
  HEARTH_TRY(reader.read("ignore_eos", out.ignore_eos));
  HEARTH_TRY(read_sampling(reader, out));
  HEARTH_TRY(reader.read("logprobs", out.logprobs));
  HEARTH_TRY(reader.read_integer("top_logprobs", 0, ops::max_top_logprobs, out.top_logprobs));
  HEARTH_TRY(reader.read("prompt_logprobs", out.prompt_logprobs));
  HEARTH_TRY(read_stops(reader, out));
  HEARTH_TRY(reader.read("include_stop", out.include_stop));
  HEARTH_TRY(reader.read("skip_special_tokens", out.skip_special_tokens));
  if (const Json* grammar = reader.find("grammar")) {
    if (!grammar->is_object()) return JsonReader::wrong("grammar", "an object");
    // Members of an object come out in the schema's order, which only a second, ordered reading keeps.
    out.grammar = parse_ordered(json)["grammar"];
  }
  HEARTH_TRY(reader.read_integer("priority", -1000000, 1000000, out.priority));
  HEARTH_TRY(reader.read("speculate", out.speculate));
  HEARTH_TRY(read_prediction(reader, out));
  HEARTH_TRY(read_pooling(reader, out));
  HEARTH_TRY(reader.finish());
  HEARTH_TRY(check_combinations(out));
  return out;
}

}  // namespace hearth::runtime
