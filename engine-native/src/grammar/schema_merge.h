// Resolving and joining schemas: $ref, allOf and keywords beside anyOf become plain schemas.
#pragma once

#include <string>

#include "core/status.h"
#include "grammar/schema_facts.h"

namespace hearth::grammar {

// A schema that is fulfilled exactly by what fulfils both. Neither has $ref, allOf, anyOf or oneOf at its top, but
// inner schemas may: they are joined by allOf.
Result<Json> merge_schemas(const Json& a, const Json& b, const std::string& path);

}  // namespace hearth::grammar
