// $ref, allOf, anyOf and oneOf: what they refer to, and a schema spread out into alternatives without them.
#pragma once

#include <string>
#include <vector>

#include "core/status.h"
#include "grammar/expression.h"
#include "grammar/schema_facts.h"

namespace hearth::grammar {

inline constexpr int schema_nesting_max = 64;

class SchemaSpreader {
 public:
  // `root` is what "#" means, `rules` counts the work; both must outlive this.
  SchemaSpreader(const Json& root, Rules& rules) : root_(root), rules_(rules) {}

  // What a "$ref" points to, within the root. `path` begins error messages' JSON paths, here and below.
  Result<const Json*> resolve(const Json& ref, const std::string& path) const;
  // The schema as a list of schemas of which one must hold, none of them with combinations at its top but single $refs.
  Result<std::vector<Json>> spread(const Json& schema, const std::string& path, int depth);

 private:
  Result<std::vector<Json>> spread_choices(const Json& list, const std::string& key, const std::string& path, int depth, bool alone);
  Status check_exclusive(const Json& list, const std::string& path, int depth);
  Status cross(std::vector<Json>& out, const std::vector<Json>& more, const std::string& path);
  // Counts the values that are about to be copied or compared against what one schema may cost.
  Status spend(const Json& a, const Json& b, const std::string& path);

  const Json& root_;
  Rules& rules_;
};

}  // namespace hearth::grammar
