#include "optiq/text/pattern.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

namespace optiq::text {
namespace {

TEST(Pattern, MatchesAPartOrTheWhole) {
  EXPECT_TRUE(Pattern("q_proj").matches("layers.0.self_attn.q_proj"));
  const Pattern whole("^(?:.*\\.)?(?:layers\\.[13]\\.mlp)$");
  EXPECT_TRUE(whole.matches("model.layers.1.mlp"));
  EXPECT_FALSE(whole.matches("model.layers.2.mlp"));
  EXPECT_FALSE(whole.matches("model.layers.1.mlp.down_proj"));
}

TEST(Pattern, RefusesWhatIsNoneInOneLine) {
  for (const char* wrong : {"(", "[a", "a{99999999}", "(?=a)b", "(a)\\1"}) {
    try {
      Pattern{wrong};
      ADD_FAILURE() << wrong;
    } catch (const std::invalid_argument& error) {
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    }
  }
}

TEST(Pattern, TakesNoLongerForEvilOnes) {
  const Pattern evil("^(a*)*(a*)*(a*)*b$");
  EXPECT_FALSE(evil.matches(std::string(20000, 'a')));
}

}  // namespace
}  // namespace optiq::text
