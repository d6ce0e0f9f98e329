#include "optiq/checkpoint/checkpoint.h"

#include <fmt/format.h>
#include <unistd.h>

#include <thread>

#include "optiq/checkpoint/testing.h"

namespace optiq::checkpoint {
namespace {

namespace fs = std::filesystem;

std::string message_of_opening(const fs::path& directory) {
  return message_of<CheckpointError>([&] { Checkpoint::open(directory); });
}

// A BF16 tensor at an odd place, so that it cannot be used from the map.
void write_misaligned(const fs::path& file) {
  std::string header = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                       R"("b":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})";
  while (header.size() % 8 != 0) header += ' ';
  std::string bytes = safetensors_bytes(header, 1);
  const float values[] = {1.5f, -2.5f};
  bytes.append(reinterpret_cast<const char*>(values), sizeof values);
  write_text(file, bytes);
}

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() { write_text(directory_ / "config.json", R"({"model_type":"x"})"); }
  TemporaryDirectory directory_;
};

TEST_F(CheckpointTest, TensorsHaveTheBytesOfTheFileInBothResidencies) {
  const float values[] = {1, 2, 3, 4, 5, 6};
  write_tensors(directory_ / "model.safetensors",
                {{"w", DataType::kF32, {2, 3}}, {"i", DataType::kI32, {}}},
                {{"w", std::string(reinterpret_cast<const char*>(values), 24)}});
  for (const Residency residency : {Residency::kMapped, Residency::kRead}) {
    const Checkpoint checkpoint = Checkpoint::open(directory_.path(), {residency});
    const mx::array w = checkpoint.tensor("w");
    EXPECT_EQ(w.shape(), (mx::Shape{2, 3}));
    EXPECT_EQ(w.dtype(), mx::float32);
    EXPECT_EQ(std::memcmp(w.data<float>(), values, sizeof values), 0);
    EXPECT_EQ(checkpoint.tensor("i").ndim(), 0u);
    EXPECT_EQ(mx::sum(w).item<float>(), 21);
  }
}

TEST_F(CheckpointTest, AnArrayIsAViewAndOutlivesTheCheckpoint) {
  const float values[] = {1, 2};
  write_tensors(directory_ / "model.safetensors", {{"w", DataType::kF32, {2}}},
                {{"w", std::string(reinterpret_cast<const char*>(values), 8)}});
  for (const Residency residency : {Residency::kMapped, Residency::kRead}) {
    std::optional<mx::array> first;
    {
      const Checkpoint checkpoint = Checkpoint::open(directory_.path(), {residency});
      first = checkpoint.tensor("w");
      const mx::array second = checkpoint.tensor("w");
      EXPECT_EQ(first->data<float>(), second.data<float>()) << "held twice";
      if (residency == Residency::kMapped) {
        EXPECT_EQ(reinterpret_cast<const std::byte*>(first->data<float>()),
                  checkpoint.mapped_bytes("w").data())
            << "copied";
      }
    }
    const mx::array sum = mx::add(*first, mx::array(1.0f));
    EXPECT_EQ(mx::sum(sum).item<float>(), 5);
    EXPECT_EQ(first->data<float>()[0], 1);  // MLX did not compute into the weights
  }
}

TEST_F(CheckpointTest, AMisalignedTensorIsCopiedToAnAlignedPlace) {
  write_misaligned(directory_ / "model.safetensors");
  for (const Residency residency : {Residency::kMapped, Residency::kRead}) {
    const Checkpoint checkpoint = Checkpoint::open(directory_.path(), {residency});
    const mx::array b = checkpoint.tensor("b");
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(b.data<float>()) % 64, 0u);
    EXPECT_EQ(b.data<float>()[1], -2.5f);
  }
}

TEST_F(CheckpointTest, ATensorGivenUpIsReadAgain) {
  write_misaligned(directory_ / "model.safetensors");
  const Checkpoint checkpoint = Checkpoint::open(directory_.path());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(checkpoint.tensor("b").data<float>()[0], 1.5f);
}

TEST_F(CheckpointTest, ThreadsThatAskForOneTensorShareIt) {
  write_tensors(directory_ / "model.safetensors", {{"w", DataType::kF32, {1000}}});
  const Checkpoint checkpoint = Checkpoint::open(directory_.path());
  const mx::array kept = checkpoint.tensor("w");
  std::vector<std::thread> threads;
  std::vector<const float*> seen(4);
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&, i] { seen[i] = checkpoint.tensor("w").data<float>(); });
  for (std::thread& thread : threads) thread.join();
  for (const float* data : seen) EXPECT_EQ(data, kept.data<float>());
}

TEST_F(CheckpointTest, ShardsAreJoinedWithAndWithoutAnIndex) {
  write_tensors(directory_ / "model-00001-of-00002.safetensors",
                {{"a", DataType::kU8, {1}}});
  write_tensors(directory_ / "model-00002-of-00002.safetensors",
                {{"b", DataType::kU8, {2}}});
  write_tensors(directory_ / "other.safetensors", {{"c", DataType::kU8, {2}}});
  EXPECT_EQ(Checkpoint::open(directory_.path()).names(),
            (std::vector<std::string>{"a", "b"}));
  write_text(directory_ / "model.safetensors.index.json",
             R"({"weight_map":{"a":"model-00001-of-00002.safetensors",
                               "b":"model-00002-of-00002.safetensors"}})");
  const Checkpoint checkpoint = Checkpoint::open(directory_.path());
  EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(checkpoint.tensor_bytes(), 3u);
  EXPECT_EQ(checkpoint.files().size(), 2u);
  EXPECT_EQ(checkpoint.format(), "pt");
}

TEST_F(CheckpointTest, AnIndexThatPromisesTooMuchNamesTheFileAndTheTensor) {
  write_tensors(directory_ / "model-1.safetensors", {{"a", DataType::kU8, {1}}});
  const auto index = [&](const std::string& map) {
    write_text(directory_ / "model.safetensors.index.json",
               "{\"weight_map\":" + map + "}");
    return message_of_opening(directory_.path());
  };
  expect_mentions(index(R"({"a":"model-1.safetensors","b":"model-2.safetensors"})"),
                  {"model-2.safetensors", "missing", "index.json"});
  expect_mentions(index(R"({"a":"model-1.safetensors","b":"model-1.safetensors"})"),
                  {"model-1.safetensors", "expected tensor 'b'"});
  expect_mentions(index(R"({"a":"../model-1.safetensors"})"), {"'a'", "'../model-1"});
  expect_mentions(index(R"({"a":"/etc/passwd"})"), {"'a'", "'/etc/passwd'"});
  expect_mentions(index(R"({"a":7})"), {"'a'", "file name"});
  expect_mentions(index("[]"), {"weight_map"});
}

TEST_F(CheckpointTest, ATensorInTwoShardsNamesBoth) {
  write_tensors(directory_ / "model-1.safetensors", {{"a", DataType::kU8, {1}}});
  write_tensors(directory_ / "model-2.safetensors", {{"a", DataType::kU8, {1}}});
  expect_mentions(message_of_opening(directory_.path()),
                  {"model-1.safetensors", "model-2.safetensors", "'a'"});
}

TEST_F(CheckpointTest, WhatIsMissingIsNamed) {
  expect_mentions(message_of_opening(directory_.path()),
                  {directory_.path().c_str(), "model*.safetensors"});
  expect_mentions(message_of_opening("/nonexistent/model"), {"/nonexistent/model"});
  write_tensors(directory_ / "model.safetensors", {{"a", DataType::kU8, {2, 3}}});
  const Checkpoint checkpoint = Checkpoint::open(directory_.path());
  expect_mentions(message_of<CheckpointError>([&] { checkpoint.tensor("b"); }),
                  {directory_.path().c_str(), "'b'", "missing"});
  expect_mentions(message_of<CheckpointError>([&] {
                    checkpoint.require("a", {3, 2});
                  }),
                  {"model.safetensors", "'a'", "[3, 2]", "[2, 3]"});
  EXPECT_NO_THROW(checkpoint.require("a", {2, 3}));
  fs::remove(directory_ / "config.json");
  expect_mentions(message_of_opening(directory_.path()),
                  {"config.json", "No such file"});
}

TEST_F(CheckpointTest, ATypeThatMlxLacksIsAnErrorOnlyWhenUsed) {
  write_tensors(directory_ / "model.safetensors",
                {{"f8", DataType::kF8E4M3, {4}}, {"b", DataType::kBool, {1}}});
  const Checkpoint checkpoint = Checkpoint::open(directory_.path());
  EXPECT_EQ(checkpoint.tensor("b").dtype(), mx::bool_);
  expect_mentions(message_of<CheckpointError>([&] { checkpoint.tensor("f8"); }),
                  {"model.safetensors", "'f8'", "F8_E4M3"});
}

// Codes 1, 2, ... of e4m3 have the values 2^-9, 2 x 2^-9, ...; 0x38 is 1, 0xB8 is -1.
TEST_F(CheckpointTest, EightBitFloatsAreSeenInBfloat16) {
  constexpr std::int64_t N = 130, K = 200;
  std::string codes(N * K, '\x38');
  codes[0] = 1;
  codes[1] = '\xB8';
  const auto floats = [](const std::vector<float>& values) {
    return std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4);
  };
  struct Case {
    std::string end;
    std::vector<std::int64_t> shape;
    std::vector<float> scales;
    float corner, last_row, last_column;
  };
  std::vector<float> rows(N, 2);
  rows[N - 1] = 3;
  for (const Case& c :
       {Case{"_scale_inv", {2, 2}, {2, 3, 4, 5}, 2, 4, 3},
        Case{"_scale", {N, 1}, rows, 2, 3, 2}, Case{"_scale", {}, {7}, 7, 7, 7}}) {
    SCOPED_TRACE(c.end);
    write_tensors(directory_ / "model.safetensors",
                  {{"x.weight", DataType::kF8E4M3, {N, K}},
                   {"x.weight" + c.end, DataType::kF32, c.shape}},
                  {{"x.weight", codes}, {"x.weight" + c.end, floats(c.scales)}});
    const Checkpoint checkpoint = Checkpoint::open(directory_.path());
    EXPECT_EQ(checkpoint.names(), std::vector<std::string>{"x.weight"});
    EXPECT_EQ(checkpoint.info("x.weight").dtype, DataType::kBF16);
    EXPECT_EQ(checkpoint.info("x.weight").bytes, 2u * N * K);
    const mx::array seen =
        mx::astype(checkpoint.require("x.weight", {N, K}), mx::float32);
    mx::eval(seen);
    const float* values = seen.data<float>();
    EXPECT_EQ(values[0], c.corner / 512);
    EXPECT_EQ(values[1], -c.corner);
    EXPECT_EQ(values[2], c.corner);
    EXPECT_EQ(values[(N - 1) * K], c.last_row);
    EXPECT_EQ(values[K - 1], c.last_column);
  }
}

TEST_F(CheckpointTest, ScalesOfEightBitFloatsMustFit) {
  const auto write = [&](std::vector<std::int64_t> shape, const std::string& codes) {
    std::size_t bytes = 4;
    for (const std::int64_t n : shape) bytes *= static_cast<std::size_t>(n);
    write_tensors(directory_ / "model.safetensors",
                  {{"x.weight", DataType::kF8E4M3, {4, 200}},
                   {"x.weight_scale_inv", DataType::kF32, shape}},
                  {{"x.weight", codes}, {"x.weight_scale_inv", std::string(bytes, 0)}});
  };
  write({1, 3}, std::string(800, '\x38'));
  expect_mentions(message_of_opening(directory_.path()),
                  {"model.safetensors", "x.weight_scale_inv", "128 x 128", "[1, 3]"});
  std::string codes(800, '\x38');
  codes[77] = '\x7F';
  write({1, 2}, codes);
  const Checkpoint checkpoint = Checkpoint::open(directory_.path());
  expect_mentions(message_of<CheckpointError>([&] { checkpoint.tensor("x.weight"); }),
                  {"x.weight", "NaN", "77"});
}

TEST_F(CheckpointTest, ATruncatedShardIsAnErrorWhenItIsOpened) {
  write_tensors(directory_ / "model.safetensors", {{"a", DataType::kF32, {1000}}});
  fs::resize_file(directory_ / "model.safetensors", 2000);
  expect_mentions(message_of_opening(directory_.path()), {"model.safetensors", "'a'"});
}

TEST_F(CheckpointTest, NanAndInfinityAreFoundInEveryFloatType) {
  struct Case {
    DataType dtype;
    std::vector<unsigned char> bad;   // little-endian
    std::vector<unsigned char> good;  // the largest finite number
  };
  const Case cases[] = {
      {DataType::kBF16, {0x80, 0x7F}, {0x7F, 0x7F}},
      {DataType::kBF16, {0xC0, 0xFF}, {0x7F, 0xFF}},
      {DataType::kF16, {0x00, 0x7C}, {0xFF, 0x7B}},
      {DataType::kF32, {0, 0, 0x80, 0xFF}, {0xFF, 0xFF, 0x7F, 0x7F}},
      {DataType::kF64, {1, 0, 0, 0, 0, 0, 0xF0, 0x7F}, {0, 0, 0, 0, 0, 0, 0xEF, 0x7F}},
  };
  constexpr int kCount = 5000;
  for (const Case& c : cases)
    for (const int at : {0, 1023, 1024, 4999})
      for (const bool is_bad : {true, false}) {
        const std::size_t size = c.bad.size();
        std::string data(kCount * size, '\0');
        std::memcpy(data.data() + at * size, (is_bad ? c.bad : c.good).data(), size);
        write_tensors(directory_ / "model.safetensors", {{"w", c.dtype, {kCount}}},
                      {{"w", data}});
        const Checkpoint checkpoint = Checkpoint::open(directory_.path());
        if (is_bad) {
          const std::string expected = fmt::format("at {}", at);
          expect_mentions(message_of<CheckpointError>([&] { checkpoint.tensor("w"); }),
                          {"'w'", "NaN or infinity", expected.c_str()});
        } else {
          EXPECT_NO_THROW(checkpoint.tensor("w"));
        }
      }
}

TEST_F(CheckpointTest, NanScalesOfTheByteFormatsAreFound) {
  write_tensors(directory_ / "model.safetensors", {{"s", DataType::kU8, {3}}},
                {{"s", std::string("\x01\x7F\x02")}});
  const Checkpoint checkpoint = Checkpoint::open(directory_.path());
  EXPECT_NO_THROW(checkpoint.check_scales("s", QuantMode::kMxfp4));
  expect_mentions(message_of<CheckpointError>(
                      [&] { checkpoint.check_scales("s", QuantMode::kNvfp4); }),
                  {"'s'", "at 1"});
}

std::string floats(std::initializer_list<float> values) {
  return {reinterpret_cast<const char*>(std::data(values)), 4 * values.size()};
}

std::vector<float> values_of(const Checkpoint& checkpoint, const std::string& name) {
  const mx::array tensor = checkpoint.tensor(name);
  return {tensor.data<float>(), tensor.data<float>() + tensor.size()};
}

TEST_F(CheckpointTest, ExpertsOfTheirOwnTensorsAreSeenTogether) {
  // Ten and more: names sort 0, 1, 10, 11, 2.
  std::vector<TensorEntry> entries;
  std::map<std::string, std::string> values;
  for (int e = 0; e < 12; ++e) {
    const std::string name =
        fmt::format("model.layers.0.mlp.experts.{}.up_proj.weight", e);
    entries.push_back({name, DataType::kF32, {1, 2}});
    const auto value = static_cast<float>(e);
    values[name] = floats({value, value + 0.5f});
  }
  entries.push_back({"model.layers.0.mlp.gate.weight", DataType::kF32, {12, 2}});
  write_tensors(directory_ / "model.safetensors", entries, values);
  for (const Residency residency : {Residency::kMapped, Residency::kRead}) {
    const auto checkpoint = Checkpoint::open(directory_.path(), {residency});
    const std::string name = "model.layers.0.mlp.switch_mlp.up_proj.weight";
    EXPECT_EQ(checkpoint.names(),
              (std::vector<std::string>{"model.layers.0.mlp.gate.weight", name}));
    EXPECT_EQ(checkpoint.info(name).shape, (std::vector<std::int64_t>{12, 1, 2}));
    EXPECT_EQ(checkpoint.info(name).bytes, 96u);
    const auto all = values_of(checkpoint, name);
    for (std::size_t i = 0; i < all.size(); ++i)
      EXPECT_EQ(all[i], 0.5f * static_cast<float>(i));
    checkpoint.release(name);
    EXPECT_EQ(values_of(checkpoint, name), all);
  }
}

TEST_F(CheckpointTest, ExpertsInOneTensorAreCutInGateAndUp) {
  const std::string prefix = "model.layers.3.mlp.";
  write_tensors(directory_ / "model.safetensors",
                {{prefix + "experts.gate_up_proj", DataType::kF32, {2, 4, 1}},
                 {prefix + "experts.down_proj", DataType::kF32, {2, 1, 2}}},
                {{prefix + "experts.gate_up_proj", floats({0, 1, 2, 3, 4, 5, 6, 7})},
                 {prefix + "experts.down_proj", floats({8, 9, 10, 11})}});
  const auto checkpoint = Checkpoint::open(directory_.path());
  const auto values = [&](const char* which) {
    return values_of(checkpoint, prefix + "switch_mlp." + which + "_proj.weight");
  };
  EXPECT_EQ(values("gate"), (std::vector<float>{0, 1, 4, 5}));
  EXPECT_EQ(values("up"), (std::vector<float>{2, 3, 6, 7}));
  EXPECT_EQ(values("down"), (std::vector<float>{8, 9, 10, 11}));
  EXPECT_EQ(checkpoint.info(prefix + "switch_mlp.up_proj.weight").shape,
            (std::vector<std::int64_t>{2, 2, 1}));
}

TEST_F(CheckpointTest, ExpertsThatDoNotBelongTogetherAreNamed) {
  const auto message_with = [&](const std::vector<TensorEntry>& entries) {
    write_tensors(directory_ / "model.safetensors", entries);
    return message_of_opening(directory_.path());
  };
  const std::string experts = "model.layers.0.mlp.experts.";
  const TensorEntry first{experts + "0.up_proj.weight", DataType::kF32, {2, 4}};
  expect_mentions(
      message_with({first, {experts + "2.up_proj.weight", DataType::kF32, {2, 4}}}),
      {"experts.0.up_proj.weight", "expected 3 experts, found 2"});
  expect_mentions(
      message_with({first, {experts + "1.up_proj.weight", DataType::kF32, {2, 5}}}),
      {"experts.1.up_proj.weight", "like the other experts", "[2, 5]"});
  expect_mentions(message_with({{experts + "gate_up_proj", DataType::kF32, {2, 3, 4}}}),
                  {"gate_up_proj", "2 rows", "[2, 3, 4]"});
  expect_mentions(message_with({first,
                                {"model.layers.0.mlp.switch_mlp.up_proj.weight",
                                 DataType::kF32,
                                 {1, 2, 4}}}),
                  {"switch_mlp.up_proj.weight", "two forms"});
}

TEST_F(CheckpointTest, AConfigThatIsNotAnObjectIsAnError) {
  write_tensors(directory_ / "model.safetensors", {{"a", DataType::kU8, {1}}});
  for (const char* text : {"", "[]", "{", "{\"a\":1,\"a\":2}", "{\"a\":1e999}"}) {
    write_text(directory_ / "config.json", text);
    expect_mentions(message_of_opening(directory_.path()), {"config.json"});
  }
  write_text(directory_ / "config.json", "{\"a\":" + std::string(100000, '['));
  expect_mentions(message_of_opening(directory_.path()), {"config.json", "nested"});
}

}  // namespace
}  // namespace optiq::checkpoint
