#include "optiq/checkpoint/names.h"

#include "optiq/checkpoint/checkpoint.h"
#include "optiq/checkpoint/testing.h"

namespace optiq::checkpoint {
namespace {

class NamesTest : public ::testing::Test {
 protected:
  NamesTest() { write_text(directory_ / "config.json", "{}"); }

  Checkpoint write(const std::vector<TensorEntry>& entries,
                   const std::string& format = "pt") {
    write_tensors(directory_ / "model.safetensors", entries, {}, format);
    return Checkpoint::open(directory_.path());
  }
  static TensorEntry byte(const std::string& name) {
    return {name, DataType::kU8, {1}};
  }

  TemporaryDirectory directory_;
};

TEST_F(NamesTest, EveryKnownPrefixIsFound) {
  for (const char* prefix :
       {"model.", "language_model.model.", "model.language_model.", ""}) {
    const TextNames names =
        find_text_names(write({byte(prefix + std::string("embed_tokens.weight")),
                               byte("visual.patch_embed.weight")}));
    EXPECT_EQ(names.model, prefix);
    EXPECT_EQ(names.lm_head, "");
    EXPECT_EQ(names("layers.0.mlp.gate_proj"),
              prefix + std::string("layers.0.mlp.gate_proj"));
  }
  EXPECT_EQ(find_text_names(write({byte("language_model.model.embed_tokens.weight"),
                                   byte("language_model.lm_head.weight")}))
                .lm_head,
            "language_model.lm_head");
}

TEST_F(NamesTest, NoneOrTwoTextModelsAreErrors) {
  const Checkpoint none = write({byte("a")});
  expect_mentions(message_of<CheckpointError>([&] { find_text_names(none); }),
                  {directory_.path().c_str(), "model.embed_tokens.weight", "missing"});
  const Checkpoint two = write({byte("model.embed_tokens.weight"),
                                byte("language_model.model.embed_tokens.weight")});
  expect_mentions(message_of<CheckpointError>([&] { find_text_names(two); }),
                  {"one text model"});
}

TEST_F(NamesTest, TensorsOfOtherPartsAreKnown) {
  EXPECT_EQ(role_of("model.visual.blocks.0.attn.qkv.weight"), TensorRole::kVision);
  EXPECT_EQ(role_of("vision_tower.blocks.0.weight"), TensorRole::kVision);
  EXPECT_EQ(role_of("mtp.fc.weight"), TensorRole::kMtp);
  EXPECT_EQ(role_of("language_model.mtp.fc.weight"), TensorRole::kMtp);
  EXPECT_EQ(role_of("model.layers.0.self_attn.rotary_emb.inv_freq"),
            TensorRole::kBuffer);
  EXPECT_EQ(role_of("model.layers.0.visualize.weight"), TensorRole::kText);
  EXPECT_EQ(role_of(""), TensorRole::kText);
}

TEST_F(NamesTest, TheShapeOfTheConvolutionTellsTheMlxForm) {
  const std::string name = "model.layers.0.linear_attn.conv1d.weight";
  const auto conv = [&](std::vector<std::int64_t> shape) {
    return TensorEntry{name, DataType::kBF16, std::move(shape)};
  };
  EXPECT_FALSE(is_mlx_form(write({conv({512, 1, 4})})));
  EXPECT_FALSE(is_mlx_form(write({conv({512, 1, 4})}, "mlx")));
  EXPECT_TRUE(is_mlx_form(write({conv({512, 4, 1})})));
  EXPECT_TRUE(is_mlx_form(write({byte("a")}, "mlx")));
  EXPECT_FALSE(is_mlx_form(write({byte("a")}, "pt")));
  const Checkpoint flat = write({conv({512, 4})});
  expect_mentions(message_of<CheckpointError>([&] { is_mlx_form(flat); }),
                  {"conv1d.weight", "[512, 4]"});
}

}  // namespace
}  // namespace optiq::checkpoint
