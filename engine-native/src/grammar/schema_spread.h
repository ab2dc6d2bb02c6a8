// $ref, allOf, anyOf and oneOf: what they refer to, and a schema spread out into alternatives without them.
#pragma once

#include <string>
#include <vector>

#include "core/status.h"
#include "grammar/schema_facts.h"

namespace hearth::grammar {

inline constexpr int schema_nesting_max = 64;

class SchemaSpreader {
 public:
  // `root` is what "#" means; it must outlive this.
  explicit SchemaSpreader(const Json& root) : root_(root) {}

  // What a "$ref" points to, within the root. `path` begins error messages' JSON paths, here and below.
  Result<const Json*> resolve(const Json& ref, const std::string& path) const;
  // The schema as a list of schemas of which one must hold, none of them with combinations at its top but single $refs.
  Result<std::vector<Json>> spread(const Json& schema, const std::string& path, int depth) const;

 private:
  Result<std::vector<Json>> spread_choices(const Json& list, const std::string& key, const std::string& path, int depth, bool alone) const;
  Status check_exclusive(const Json& list, const std::string& path, int depth) const;

  const Json& root_;
};

}  // namespace hearth::grammar
