// JSON in its members' order: the same values as nlohmann's own parser, and in time that grows with the text alone.
#include "runtime/ordered_json.h"

#include <gtest/gtest.h>

#include <string>

#include "runtime/request.h"
#include "support/processor_time.h"

using namespace hearth::runtime;
using hearth::testing::processor_seconds;
using Ordered = nlohmann::ordered_json;

TEST(OrderedJson, IsWhatTheLibraryReads) {
  for (const char* text : {"null", "true", "-1", "18446744073709551615", "1.5e3", "\"a\\u00e9\\n\"", "[]", "{}", "[[],{},[1,[2,{}]]]",
                           R"({"z":1,"a":{"y":[{"c":1,"b":2}],"x":null},"m":[true,"t"]})", R"({"":{"":[""]}})"}) {
    EXPECT_EQ(parse_ordered(text).dump(), Ordered::parse(text).dump()) << text;
  }
  // Of two members of one name the later holds, in the place of the first.
  EXPECT_EQ(parse_ordered(R"({"a":{"x":1},"b":2,"a":[3]})").dump(), R"({"a":[3],"b":2})");
  EXPECT_TRUE(parse_ordered("{\"a\":").is_null());
}

// 7 s before; on the thread that serves everybody.
TEST(OrderedJson, ManyMembersCostNoMoreThanTheirNumber) {
  std::string members;
  for (int i = 0; i < 99'000; ++i) members += (i ? ",\"name" : "\"name") + std::to_string(i) + "\":{}";
  const double begin = processor_seconds();
  auto options = parse_request(R"({"grammar":{"type":"json_schema","spec":{"properties":{)" + members + "}}}}");
  const double spent = processor_seconds() - begin;
  ASSERT_TRUE(options.is_ok()) << options.status().message();
  EXPECT_EQ(options->grammar["spec"]["properties"].size(), 99'000u);
  EXPECT_EQ(options->grammar["spec"]["properties"].begin().key(), "name0");
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_LT(spent, 2);
#endif
}
