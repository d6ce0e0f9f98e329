// Packed by the definitions of the three forms, one code at a time, and read back.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "mlx/mlx.h"
#include "optiq/checkpoint/checkpoint.h"
#include "optiq/checkpoint/quantization_config.h"
#include "optiq/checkpoint/testing.h"

namespace optiq::checkpoint {
namespace {

// A matrix in groups: value = scale (code - zero).
struct Matrix {
  int N, K, group, bits;
  std::vector<int> codes;     // [N, K]
  std::vector<int> zeros;     // [N, G]
  std::vector<float> scales;  // [N, G]; times a code they are exact in f16
  std::vector<int> order;     // group of each column

  int G() const { return K / group; }
  float value(int n, int k) const {
    const int at = n * G() + order[k];
    return scales[at] * static_cast<float>(codes[n * K + k] - zeros[at]);
  }
};

Matrix random_matrix(int N, int K, int group, int bits, bool ordered = true) {
  std::mt19937 random(static_cast<unsigned>(N * K + bits));
  Matrix m{N, K, group, bits, {}, {}, {}, {}};
  for (int i = 0; i < N * K; ++i) m.codes.push_back(random() % (1 << bits));
  for (int i = 0; i < N * m.G(); ++i) m.zeros.push_back(random() % (1 << bits));
  for (int i = 0; i < N * m.G(); ++i)
    m.scales.push_back(static_cast<float>(1 + random() % 7) / 1024);
  for (int k = 0; k < K; ++k) m.order.push_back(k / group);
  if (!ordered) std::shuffle(m.order.begin(), m.order.end(), random);
  return m;
}

class Words {
 public:
  Words(int rows, int columns) : columns_(columns), words_(rows * columns) {}
  void put(int row, int bit, unsigned value, int bits) {  // along a row
    for (int i = 0; i < bits; ++i)
      if (value >> i & 1)
        words_[row * columns_ + (bit + i) / 32] |= 1u << ((bit + i) % 32);
  }
  void put_down(int column, int bit, unsigned value, int bits) {  // along a column
    for (int i = 0; i < bits; ++i)
      if (value >> i & 1)
        words_[(bit + i) / 32 * columns_ + column] |= 1u << ((bit + i) % 32);
  }
  std::string bytes() const {
    return {reinterpret_cast<const char*>(words_.data()), 4 * words_.size()};
  }

 private:
  int columns_;
  std::vector<std::uint32_t> words_;
};

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), sizeof(T) * values.size()};
}

std::string f16_bytes(const Matrix& m, bool transposed) {
  std::vector<std::uint16_t> values(m.scales.size());
  for (int n = 0; n < m.N; ++n)
    for (int g = 0; g < m.G(); ++g)
      values[transposed ? g * m.N + n : n * m.G() + g] =
          float_to_f16(m.scales[n * m.G() + g]);
  return bytes_of(values);
}

void write_gptq(const std::filesystem::path& to, const Matrix& m, int zero_offset) {
  const int words = (m.N * m.bits + 31) / 32;
  Words codes(m.K * m.bits / 32, m.N), zeros(m.G(), words);
  for (int n = 0; n < m.N; ++n) {
    for (int k = 0; k < m.K; ++k)
      codes.put_down(n, k * m.bits, m.codes[n * m.K + k], m.bits);
    for (int g = 0; g < m.G(); ++g)
      zeros.put(g, n * m.bits, m.zeros[n * m.G() + g] - zero_offset, m.bits);
  }
  write_tensors(to / "model.safetensors",
                {{"x.qweight", DataType::kI32, {m.K * m.bits / 32, m.N}},
                 {"x.qzeros", DataType::kI32, {m.G(), words}},
                 {"x.scales", DataType::kF16, {m.G(), m.N}},
                 {"x.g_idx", DataType::kI32, {m.K}}},
                {{"x.qweight", codes.bytes()},
                 {"x.qzeros", zeros.bytes()},
                 {"x.scales", f16_bytes(m, true)},
                 {"x.g_idx", bytes_of(m.order)}});
}

void write_awq(const std::filesystem::path& to, const Matrix& m) {
  constexpr int order[8] = {0, 2, 4, 6, 1, 3, 5, 7};  // column in each nibble
  Words codes(m.K, m.N / 8), zeros(m.G(), m.N / 8);
  for (int block = 0; block < m.N / 8; ++block)
    for (int i = 0; i < 8; ++i) {
      const int n = 8 * block + order[i], bit = 32 * block + 4 * i;
      for (int k = 0; k < m.K; ++k) codes.put(k, bit, m.codes[n * m.K + k], 4);
      for (int g = 0; g < m.G(); ++g) zeros.put(g, bit, m.zeros[n * m.G() + g], 4);
    }
  write_tensors(to / "model.safetensors",
                {{"x.qweight", DataType::kI32, {m.K, m.N / 8}},
                 {"x.qzeros", DataType::kI32, {m.G(), m.N / 8}},
                 {"x.scales", DataType::kF16, {m.G(), m.N}}},
                {{"x.qweight", codes.bytes()},
                 {"x.qzeros", zeros.bytes()},
                 {"x.scales", f16_bytes(m, true)}});
}

void write_compressed(const std::filesystem::path& to, const Matrix& m) {
  const int words = m.K * m.bits / 32, zero_words = (m.N * m.bits + 31) / 32;
  Words codes(m.N, words), zeros(zero_words, m.G());
  for (int n = 0; n < m.N; ++n) {
    for (int k = 0; k < m.K; ++k)
      codes.put(n, k * m.bits, m.codes[n * m.K + k], m.bits);
    for (int g = 0; g < m.G(); ++g)
      zeros.put_down(g, n * m.bits, m.zeros[n * m.G() + g], m.bits);
  }
  write_tensors(to / "model.safetensors",
                {{"x.weight_packed", DataType::kI32, {m.N, words}},
                 {"x.weight_zero_point", DataType::kI32, {zero_words, m.G()}},
                 {"x.weight_scale", DataType::kF16, {m.N, m.G()}},
                 {"x.weight_shape", DataType::kI64, {2}}},
                {{"x.weight_packed", codes.bytes()},
                 {"x.weight_zero_point", zeros.bytes()},
                 {"x.weight_scale", f16_bytes(m, false)}});
}

std::string compressed_config(int bits, int group) {
  return R"({"quantization_config": {"quant_method": "compressed-tensors",
    "format": "pack-quantized", "config_groups": {"group_0": {"weights": {
    "num_bits": )" +
         std::to_string(bits) + R"(, "group_size": )" + std::to_string(group) +
         R"(, "type": "int", "symmetric": false}}}}})";
}

std::string gptq_config(const std::string& rest) {
  return R"({"quantization_config": {"quant_method": "gptq", )" + rest + "}}";
}

// Reads x both ways and compares with the definition.
void expect_reads(const std::filesystem::path& directory, const Matrix& m) {
  SCOPED_TRACE(std::to_string(m.bits) + " bits");
  const auto shown = Checkpoint::open(directory);
  EXPECT_EQ(shown.names(),
            (std::vector<std::string>{"x.biases", "x.scales", "x.weight"}));
  const auto quantization = parse_quantization(shown.config(), directory);
  ASSERT_TRUE(quantization);
  const auto module = module_quantization(shown, &*quantization, "x", m.K);
  ASSERT_TRUE(module);
  EXPECT_EQ(module->spec, (QuantSpec{QuantMode::kAffine, m.bits, m.group}));
  const mx::array values = mx::astype(
      mx::dequantize(
          shown.tensor("x.weight"), mx::astype(shown.tensor("x.scales"), mx::float32),
          mx::astype(shown.tensor("x.biases"), mx::float32), m.group, m.bits),
      mx::float32);
  const auto floats = Checkpoint::open(directory, {Residency::kMapped, true, true});
  EXPECT_EQ(floats.names(), std::vector<std::string>{"x.weight"});
  EXPECT_FALSE(floats.contains("x.scales"));
  const mx::array wide =
      mx::astype(floats.require("x.weight", {m.N, m.K}), mx::float32);
  mx::eval(values, wide);
  for (int n = 0; n < m.N; ++n)
    for (int k = 0; k < m.K; ++k) {
      const float expected = m.value(n, k);
      ASSERT_FLOAT_EQ(values.data<float>()[n * m.K + k], expected) << n << ' ' << k;
      ASSERT_EQ(wide.data<float>()[n * m.K + k], f16_to_float(float_to_f16(expected)));
    }
}

TEST(PackedTensors, ReadsGptq) {
  for (const int bits : {2, 3, 4, 8})
    for (const bool second : {false, true}) {
      const TemporaryDirectory directory;
      const Matrix m = random_matrix(40, 192, 64, bits);
      write_gptq(directory.path(), m, second ? 0 : 1);
      write_text(directory / "config.json",
                 gptq_config("\"bits\": " + std::to_string(bits) +
                             R"(, "group_size": 64, "desc_act": false)" +
                             (second ? R"(, "checkpoint_format": "gptq_v2")" : "")));
      expect_reads(directory.path(), m);
    }
}

TEST(PackedTensors, ReadsAwq) {
  const TemporaryDirectory directory;
  const Matrix m = random_matrix(48, 256, 128, 4);
  write_awq(directory.path(), m);
  write_text(directory / "config.json",
             R"({"quantization_config": {"quant_method": "awq", "bits": 4,
                 "group_size": 128, "version": "gemm", "zero_point": true}})");
  expect_reads(directory.path(), m);
}

TEST(PackedTensors, ReadsCompressedTensors) {
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    const TemporaryDirectory directory;
    const Matrix m = random_matrix(40, 128, 32, bits);
    write_compressed(directory.path(), m);
    write_text(directory / "config.json", compressed_config(bits, 32));
    expect_reads(directory.path(), m);
  }
}

TEST(PackedTensors, ExpertsAreGatheredWithTheirScales) {
  const TemporaryDirectory directory;
  constexpr int N = 16, K = 64, G = 2;
  std::vector<TensorEntry> entries;
  for (int expert = 0; expert < 3; ++expert) {
    const std::string path = "l.mlp.experts." + std::to_string(expert) + ".up_proj";
    entries.push_back({path + ".qweight", DataType::kI32, {K / 8, N}});
    entries.push_back({path + ".qzeros", DataType::kI32, {G, N / 8}});
    entries.push_back({path + ".scales", DataType::kF16, {G, N}});
  }
  write_tensors(directory / "model.safetensors", entries);
  write_text(directory / "config.json", gptq_config(R"("bits": 4, "group_size": 32)"));
  const auto shown = Checkpoint::open(directory.path());
  const std::string path = "l.mlp.switch_mlp.up_proj";
  EXPECT_EQ(shown.names(), (std::vector<std::string>{path + ".biases", path + ".scales",
                                                     path + ".weight"}));
  shown.require(path + ".weight", {3, N, K / 8});
  shown.require(path + ".scales", {3, N, G});
  const auto quantization = parse_quantization(shown.config(), directory.path());
  EXPECT_EQ(module_quantization(shown, &*quantization, path, K)->rows, 3 * N);
}

TEST(PackedTensors, ColumnsInTheirOwnOrderAreSeenInFloat) {
  const TemporaryDirectory directory;
  const Matrix m = random_matrix(16, 128, 32, 4, false);
  write_gptq(directory.path(), m, 1);
  const std::string form = R"("bits": 4, "group_size": 32, "desc_act": )";
  write_text(directory / "config.json", gptq_config(form + "true"));
  const auto shown = Checkpoint::open(directory.path());
  EXPECT_FALSE(parse_quantization(shown.config(), directory.path()));
  const mx::array values = mx::astype(shown.tensor("x.weight"), mx::float32);
  mx::eval(values);
  for (int i = 0; i < m.N * m.K; ++i)
    ASSERT_EQ(values.data<float>()[i],
              f16_to_float(float_to_f16(m.value(i / m.K, i % m.K))));
  // A config that says otherwise is found out.
  write_text(directory / "config.json", gptq_config(form + "false"));
  const auto wrong = Checkpoint::open(directory.path());
  expect_mentions(message_of<CheckpointError>([&] { wrong.tensor("x.weight"); }),
                  {"x.qweight", "desc_act"});
}

TEST(PackedTensors, AGroupThatIsARowIsSeenInFloat) {
  const TemporaryDirectory directory;
  const Matrix m = random_matrix(16, 160, 160, 4);
  write_compressed(directory.path(), m);
  write_text(directory / "config.json", compressed_config(4, -1));
  const auto shown = Checkpoint::open(directory.path());
  EXPECT_EQ(shown.info("x.weight").dtype, DataType::kF16);
  EXPECT_FALSE(parse_quantization(shown.config(), directory.path()));
}

TEST(PackedTensors, ReadsMxfp4) {
  const TemporaryDirectory directory;
  constexpr int N = 4, K = 64;
  std::string codes(N * K / 2, 0), scales(N * K / 32, 0);
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<char>(i * 37);
  for (std::size_t i = 0; i < scales.size(); ++i)
    scales[i] = static_cast<char>(124 + i);
  write_tensors(directory / "model.safetensors",
                {{"x.weight_packed", DataType::kU8, {N, K / 2}},
                 {"x.weight_scale", DataType::kU8, {N, K / 32}}},
                {{"x.weight_packed", codes}, {"x.weight_scale", scales}});
  write_text(directory / "config.json",
             R"({"quantization_config": {"quant_method": "compressed-tensors",
                 "format": "mxfp4-pack-quantized"}})");
  const auto shown = Checkpoint::open(directory.path());
  const auto quantization = parse_quantization(shown.config(), directory.path());
  ASSERT_TRUE(quantization);
  EXPECT_EQ(module_quantization(shown, &*quantization, "x", K)->spec,
            (QuantSpec{QuantMode::kMxfp4, 4, 32}));
  const auto floats =
      Checkpoint::open(directory.path(), {Residency::kMapped, true, true});
  const mx::array wide = mx::astype(floats.tensor("x.weight"), mx::float32);
  const mx::array values =
      mx::astype(mx::dequantize(shown.tensor("x.weight"), shown.tensor("x.scales"),
                                std::nullopt, 32, 4, "mxfp4"),
                 mx::float32);
  mx::eval(wide, values);
  EXPECT_TRUE(mx::array_equal(wide, values).item<bool>());
}

TEST(PackedTensors, SaysWhatDoesNotFit) {
  const TemporaryDirectory directory;
  const Matrix m = random_matrix(16, 128, 32, 4);
  write_gptq(directory.path(), m, 1);
  const auto open = [&] { Checkpoint::open(directory.path()); };
  const auto message = [&](const std::string& config) {
    write_text(directory / "config.json", config);
    return message_of<CheckpointError>(open);
  };
  expect_mentions(message(gptq_config(R"("bits": 4, "group_size": 64)")),
                  {"x.scales", "[2, 16]", "[4, 16]"});
  expect_mentions(message(gptq_config(R"("bits": 5, "group_size": 64)")),
                  {"config.json", "bits", "2, 3, 4, 8"});
  expect_mentions(message(gptq_config(
                      R"("bits": 4, "group_size": 32, "checkpoint_format": "marlin")")),
                  {"checkpoint_format", "marlin"});
  write_tensors(directory / "model.safetensors",
                {{"x.qweight", DataType::kI32, {16, 16}}});
  expect_mentions(message(gptq_config(R"("bits": 4, "group_size": 32)")),
                  {"x.qweight", "x.scales"});
}

}  // namespace
}  // namespace optiq::checkpoint
