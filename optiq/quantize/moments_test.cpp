#include "optiq/quantize/moments.h"

#include <gtest/gtest.h>

#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"

namespace optiq::quantize {
namespace {

namespace mx = mlx::core;

mx::array inputs(int T, int K, std::uint64_t seed) {
  mx::array x = mx::random::normal({T, K}, mx::float32, 0, 1, mx::random::key(seed));
  mx::eval(x);
  return x;
}

void expect_products(const Moments& moments, const mx::array& x, float times) {
  mx::array H = mx::matmul(mx::transpose(x), x) * times;
  mx::eval(H);
  ASSERT_EQ(moments.sum().size(), H.size());
  for (std::size_t i = 0; i < H.size(); ++i)
    EXPECT_NEAR(moments.sum()[i], H.data<float>()[i], 1e-3) << i;
}

// 70: squares of 32 and what is left of them.
TEST(Moments, AreProductsOfInputsWhicheverCallBringsThem) {
  const mx::array a = inputs(50, 70, 1), b = inputs(9, 70, 2);
  Moments moments(70);
  moments.add(a);
  expect_products(moments, a, 1);
  moments.add(b);
  EXPECT_EQ(moments.rows(), 59);
  const mx::array both = mx::concatenate({a, b}, 0);
  expect_products(moments, both, 1);

  Moments some(70);
  some.add(moments, 0.25);
  EXPECT_DOUBLE_EQ(some.rows(), 59 * 0.25);
  expect_products(some, both, 0.25f);
}

TEST(Moments, TakeRowsThatAreNotInOrderInMemory) {
  const mx::array x = inputs(40, 64, 3);
  Moments moments(40);
  moments.add(mx::transpose(x));
  expect_products(moments, mx::contiguous(mx::transpose(x)), 1);
}

}  // namespace
}  // namespace optiq::quantize
