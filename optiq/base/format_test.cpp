#include "optiq/base/format.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace optiq {
namespace {

TEST(Format, BytesHaveThreeDigitsAndADecimalUnit) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_bytes(1000), "1.00 kB");
  EXPECT_EQ(format_bytes(23'412'345), "23.4 MB");
  EXPECT_EQ(format_bytes(999'999), "1.00 MB");
  EXPECT_EQ(format_bytes(4'800'000'000), "4.80 GB");
}

TEST(Format, SizesAreReadInDecimalAndBinaryUnits) {
  EXPECT_EQ(parse_bytes("4.8GB"), 4'800'000'000u);
  EXPECT_EQ(parse_bytes("512MiB"), 512u << 20);
  EXPECT_EQ(parse_bytes("100 kb"), 100'000u);
  EXPECT_EQ(parse_bytes("123456"), 123456u);
  EXPECT_EQ(parse_bytes("2g"), 2'000'000'000u);
}

TEST(Format, WhatIsNoSizeIsRefusedByName) {
  for (const char* bad :
       {"", "GB", "-1GB", "1.2.3GB", "4 lb", "1e9", "nan", "0", "4.8", "99999TB0",
        "123456789012345678901234567890", "99999999999TB"})
    try {
      parse_bytes(bad);
      ADD_FAILURE() << "accepted '" << bad << "'";
    } catch (const std::invalid_argument& error) {
      EXPECT_NE(std::string(error.what()).find(std::string("'") + bad + "'"),
                std::string::npos);
    }
}

TEST(Format, DurationsGrowFromSecondsToHours) {
  EXPECT_EQ(format_duration(0.4213), "0.42 s");
  EXPECT_EQ(format_duration(12.34), "12.3 s");
  EXPECT_EQ(format_duration(59.99), "1 min 00 s");
  EXPECT_EQ(format_duration(245), "4 min 05 s");
  EXPECT_EQ(format_duration(7800), "2 h 10 min");
  EXPECT_EQ(format_duration(-1), "0.00 s");
}

TEST(Format, ColumnsAreAlignedByWhatIsSeenNotByBytes) {
  Table table({"name", ">bits"});
  table.add_row({"größe", "4"});
  table.add_row({"x", "16"});
  EXPECT_EQ(table.text(), "name   bits\ngröße     4\nx        16\n");
}

TEST(Format, ARowWithAMissingCellIsABug) {
  Table table({"a", "b"});
  EXPECT_THROW(table.add_row({"1"}), std::logic_error);
}

}  // namespace
}  // namespace optiq
