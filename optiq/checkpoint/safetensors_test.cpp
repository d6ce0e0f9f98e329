#include "optiq/checkpoint/safetensors.h"

#include <fmt/format.h>

#include <random>

#include "optiq/checkpoint/testing.h"

namespace optiq::checkpoint {
namespace {

SafetensorsHeader parse(const std::string& bytes) {
  return parse_safetensors_header(std::as_bytes(std::span(bytes.data(), bytes.size())),
                                  "m.safetensors");
}

std::string error_of(const std::string& header, std::size_t data_bytes) {
  return message_of<CheckpointError>(
      [&] { parse(safetensors_bytes(header, data_bytes)); });
}

constexpr const char* kGood =
    R"({"__metadata__":{"format":"pt"},)"
    R"("b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},)"
    R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
    R"("e":{"dtype":"F32","shape":[0,7],"data_offsets":[16,16]}}   )";

TEST(Safetensors, AGoodHeaderGivesTensorsInTheOrderOfTheirBytes) {
  const SafetensorsHeader header = parse(safetensors_bytes(kGood, 16));
  ASSERT_EQ(header.tensors.size(), 3u);
  EXPECT_EQ(header.tensors[0].name, "a");
  EXPECT_EQ(header.tensors[1].name, "b");
  EXPECT_EQ(header.tensors[1].offset, 8 + std::strlen(kGood) + 4);
  EXPECT_EQ(header.tensors[1].bytes, 12u);
  EXPECT_EQ(header.tensors[1].shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(header.metadata.at("format"), "pt");
}

TEST(Safetensors, MetadataMayBeNullAndTensorsMayNot) {
  const std::string tensor = R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  const auto header =
      parse(safetensors_bytes("{\"__metadata__\":null," + tensor + "}", 4));
  EXPECT_EQ(header.tensors.size(), 1u);
  EXPECT_TRUE(header.metadata.empty());
  expect_mentions(error_of("{\"b\":null," + tensor + "}", 4), {"'b'", "null"});
}

TEST(Safetensors, ALengthBeyondTheFileIsAnError) {
  std::string bytes = safetensors_bytes(kGood, 16);
  bytes[0] = static_cast<char>(0xFF);
  bytes[1] = 0x7F;
  expect_mentions(message_of<CheckpointError>([&] { parse(bytes); }),
                  {"m.safetensors", "the file ends"});
  std::fill(bytes.begin(), bytes.begin() + 8, static_cast<char>(0xFF));
  expect_mentions(message_of<CheckpointError>([&] { parse(bytes); }),
                  {"at most 100000000 bytes", "18446744073709551615"});
  expect_mentions(message_of<CheckpointError>([&] { parse("1234567"); }),
                  {"found 7 bytes"});
}

TEST(Safetensors, AHeaderThatLiesNamesTheTensor) {
  struct Case {
    const char* tensor;
    const char* expected;
  };
  const Case cases[] = {
      {R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})",
       "expected 8 bytes, found 4"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})", "[begin, end]"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[-4,0]})", "-4"},
      {R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})", "-1"},
      {R"({"dtype":"F32","shape":[1.0],"data_offsets":[0,4]})", "1.0"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[0]})", "[begin, end]"},
      {R"({"dtype":"F32","shape":"1","data_offsets":[0,4]})", "a string"},
      {R"({"dtype":"F32","shape":[[1]],"data_offsets":[0,4]})", "an array"},
      {R"({"dtype":"F33","shape":[1],"data_offsets":[0,4]})", "unknown dtype 'F33'"},
      {R"({"dtype":"F32","data_offsets":[0,4]})", "one is missing"},
      {R"({"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]})", "twice"},
      {R"({"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]})", "twice"},
      {R"({"dtype":"F4","shape":[3],"data_offsets":[0,1]})", "expected"},
      {R"({"x":1,"dtype":"F32","shape":[1],"data_offsets":[0,4]})", "'x'"},
      {R"({"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,0]})",
       "larger than memory"},
      {R"({"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]})",
       "larger than memory"},
      {R"({"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]})",
       "18446744073709551615"},
      {"7", "expected an object"},
      {"null", "expected an object"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.tensor);
    expect_mentions(error_of(fmt::format(R"({{"layer.w":{}}})", c.tensor), 4),
                    {"m.safetensors", "'layer.w'", c.expected});
  }
}

TEST(Safetensors, TensorsNeitherOverlapNorLeaveHolesNorEndBeyondTheFile) {
  const auto two = [](int begin, int end) {
    return fmt::format(R"({{"a":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}},)"
                       R"("b":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}}}})",
                       end - begin, begin, end);
  };
  EXPECT_NO_THROW(parse(safetensors_bytes(two(4, 8), 8)));
  expect_mentions(error_of(two(3, 7), 7), {"'b'", "overlaps"});
  expect_mentions(error_of(two(5, 9), 9), {"'b'", "hole"});
  expect_mentions(error_of(two(4, 9), 8), {"'b'", "the file has"});
  expect_mentions(error_of(two(4, 8), 9), {"found 1 after the last tensor"});
  expect_mentions(
      error_of(R"({"a":{"dtype":"U8","shape":[9223372036854775807],)"
               R"("data_offsets":[9223372036854775807,18446744073709551614]}})",
               8),
      {"'a'"});
}

TEST(Safetensors, AHeaderThatIsNotAnObjectOfUniqueNamesIsAnError) {
  expect_mentions(error_of("[]", 0), {"expected an object", "an array"});
  expect_mentions(error_of("", 0), {"not JSON"});
  expect_mentions(error_of("{", 0), {"not JSON"});
  expect_mentions(error_of("{}garbage", 0), {"not JSON"});
  expect_mentions(error_of(R"({"":{}})", 0), {"empty"});
  expect_mentions(error_of(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                           R"("a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
                           0),
                  {"'a'", "twice"});
  expect_mentions(error_of("{\"a\\nb\":1}", 0), {"'a\\x0ab'"});
  expect_mentions(error_of(std::string(100000, '['), 0), {"m.safetensors"});
}

// Whatever the bytes: a header whose tensors all lie inside, or CheckpointError.
TEST(Safetensors, NoChangeOfBytesGetsPastTheChecks) {
  const std::string good = safetensors_bytes(kGood, 16);
  const std::string alphabet = "0123456789-[]{}\",:aeFBU.\\\n";
  std::mt19937 random(7);
  int accepted = 0;
  for (int i = 0; i < 30000; ++i) {
    std::string bytes = good;
    const int changes = 1 + static_cast<int>(random() % 4);
    for (int j = 0; j < changes && !bytes.empty(); ++j) {
      const std::size_t at = random() % bytes.size();
      switch (random() % 5) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes[at] = alphabet[random() % alphabet.size()];
          break;
        case 2:
          bytes.insert(at, 1, alphabet[random() % alphabet.size()]);
          break;
        case 3:
          bytes.erase(at, 1 + random() % 8);
          break;
        default:
          bytes.resize(at);
      }
    }
    try {
      const std::size_t size = bytes.size();
      for (const TensorInfo& tensor : parse(bytes).tensors) {
        ASSERT_LE(tensor.offset, size);
        ASSERT_LE(tensor.bytes, size - tensor.offset);
      }
      ++accepted;
    } catch (const CheckpointError&) {
    }
  }
  EXPECT_GT(accepted, 0);  // the changes are mild enough to reach every check
  EXPECT_LT(accepted, 15000);
}

TEST(SafetensorsWriter, WhatIsWrittenInAnyOrderIsReadBack) {
  const TemporaryDirectory directory;
  const std::vector<TensorEntry> entries = {
      {"scales", DataType::kBF16, {3}},
      {"bytes", DataType::kU8, {5}},
      {"w", DataType::kU32, {2, 3}},
      {"empty", DataType::kF32, {0}},
  };
  const std::string w(24, 'w'), scales(6, 's'), five(5, 'b');
  {
    SafetensorsWriter writer(directory / "m.safetensors", entries, {{"format", "mlx"}});
    const auto bytes = [](const std::string& s) {
      return std::as_bytes(std::span(s.data(), s.size()));
    };
    writer.write("bytes", bytes(five));
    writer.write("w", bytes(w));
    EXPECT_THROW(writer.finish(), std::invalid_argument);
    EXPECT_THROW(writer.write("w", bytes(w)), std::invalid_argument);
    EXPECT_THROW(writer.write("scales", bytes(five)), std::invalid_argument);
    EXPECT_THROW(writer.write("other", bytes(five)), std::invalid_argument);
    writer.write("scales", bytes(scales));
    writer.finish();
  }
  const std::string file = read_text(directory / "m.safetensors");
  const SafetensorsHeader header = parse(file);
  ASSERT_EQ(header.tensors.size(), 4u);
  EXPECT_EQ(header.metadata.at("format"), "mlx");
  for (const TensorInfo& tensor : header.tensors) {
    const std::string data = file.substr(tensor.offset, tensor.bytes);
    EXPECT_EQ(tensor.offset % (info(tensor.dtype).bits / 8), 0u) << tensor.name;
    if (tensor.name == "w") {
      EXPECT_EQ(data, w);
      EXPECT_EQ(tensor.offset % 64, 0u);
    }
    if (tensor.name == "scales") {
      EXPECT_EQ(data, scales);
    }
    if (tensor.name == "bytes") {
      EXPECT_EQ(data, five);
    }
  }
}

TEST(SafetensorsWriter, NamesAreUnique) {
  const TemporaryDirectory directory;
  const std::vector<TensorEntry> entries = {{"a", DataType::kU8, {1}},
                                            {"a", DataType::kU8, {1}}};
  expect_mentions(message_of<std::invalid_argument>([&] {
                    SafetensorsWriter(directory / "m.safetensors", entries, {});
                  }),
                  {"unique", "'a'"});
}

TEST(SafetensorsWriter, AFullDiskIsAResourceError) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP();
  const std::vector<TensorEntry> entries = {{"a", DataType::kU8, {1}}};
  expect_mentions(
      message_of<ResourceError>([&] { SafetensorsWriter("/dev/full", entries, {}); }),
      {"/dev/full", "No space left"});
}

}  // namespace
}  // namespace optiq::checkpoint
