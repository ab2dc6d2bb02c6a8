// JSON Schema (draft 2020-12) to grammar rules.
//
// Keywords: type (one or several), enum, const, properties, required, additionalProperties, items (a schema or false),
// prefixItems, minItems, maxItems, minimum, maximum, exclusiveMinimum, exclusiveMaximum, minLength, maxLength, pattern,
// format (date, time, date-time, duration, uuid, email, hostname, ipv4, ipv6, uri), anyOf, oneOf (alternatives that
// provably exclude each other), allOf, $ref to "#" or "#/...", $defs and definitions. Annotations (title, description,
// default, examples, $schema, $id, $comment, deprecated, readOnly, writeOnly) change nothing. Everything else is an
// error that names its JSON path, and so is a schema that nothing fulfils.
//
// What is made is always valid; not all that is valid can be made: members come in the schema's order, an object whose
// "type" is missing but that has members is taken to mean an object, members beyond the schema's have plain names (no
// escapes), numbers have at most 16 digits, and strings with pattern, format or enum use the short escapes.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "core/status.h"
#include "grammar/expression.h"

namespace hearth::grammar {

// The expression of one JSON value that fulfils the schema; may add rules. `path` begins error messages' JSON paths.
Result<Expr> compile_schema(const nlohmann::ordered_json& schema, Rules& rules, const std::string& path);

}  // namespace hearth::grammar
