#include "optiq/server/chat/schema.h"

#include <fmt/ranges.h>

#include <stdexcept>

#include "optiq/base/log.h"

namespace optiq::server {
namespace {

text::Constraint compile(const text::GrammarCompiler& compiler, const Json& schema) {
  return compiler.compile({text::Grammar::Kind::kJsonSchema, schema.dump()});
}

// Keywords that only narrow a value: without them more is allowed, nothing is lost that
// the caller relies on for parsing. The ones that are refused most come first.
constexpr const char* kNarrowing[] = {"format",
                                      "pattern",
                                      "propertyNames",
                                      "if",
                                      "then",
                                      "else",
                                      "not",
                                      "contains",
                                      "minContains",
                                      "maxContains",
                                      "uniqueItems",
                                      "dependentRequired",
                                      "dependentSchemas",
                                      "patternProperties",
                                      "unevaluatedProperties",
                                      "unevaluatedItems",
                                      "multipleOf",
                                      "minLength",
                                      "maxLength",
                                      "minItems",
                                      "maxItems",
                                      "minimum",
                                      "maximum",
                                      "exclusiveMinimum",
                                      "exclusiveMaximum",
                                      "minProperties",
                                      "maxProperties",
                                      "additionalProperties",
                                      "oneOf"};

// Takes a keyword out of a schema and all schemas inside of it. True if it was there.
bool remove(Json& schema, const std::string& keyword) {
  bool found = false;
  if (schema.is_object()) {
    if (schema.contains(keyword)) {
      schema.erase(keyword);
      found = true;
    }
    for (auto& [name, inner] : schema.items()) {
      // Values that are data, and names that are the caller's.
      if (name == "enum" || name == "const" || name == "default" || name == "examples")
        continue;
      if (name == "properties" || name == "$defs" || name == "definitions") {
        if (inner.is_object())
          for (auto& [own, value] : inner.items())
            found = remove(value, keyword) || found;
        continue;
      }
      found = remove(inner, keyword) || found;
    }
  } else if (schema.is_array()) {
    for (Json& inner : schema) found = remove(inner, keyword) || found;
  }
  return found;
}

}  // namespace

Json relaxed_schema(const text::GrammarCompiler& compiler, Json schema) {
  std::string refusal;
  std::vector<std::string> removed;
  for (const char* keyword : kNarrowing) {
    try {
      compile(compiler, schema);
      if (!removed.empty())
        log_debug("a schema is enforced without {}: {}", fmt::join(removed, ", "),
                  refusal);
      return schema;
    } catch (const std::invalid_argument& error) {
      if (refusal.empty()) refusal = error.what();
    }
    if (remove(schema, keyword)) removed.emplace_back(keyword);
  }
  try {
    compile(compiler, schema);
    return schema;
  } catch (const std::invalid_argument&) {
    log_debug("a schema cannot be enforced beyond being an object: {}", refusal);
    Json any;
    any["type"] = "object";
    return any;
  }
}

text::Constraint compile_schema(const text::GrammarCompiler& compiler, Json schema,
                                bool strict) {
  if (strict) return compile(compiler, schema);
  return compile(compiler, relaxed_schema(compiler, std::move(schema)));
}

}  // namespace optiq::server
