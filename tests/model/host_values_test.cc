#include "model/host_values.h"

#include <ATen/ATen.h>

#include <catch2/catch.hpp>

namespace overproof {

TEST_CASE("host_values gives the memory of a contiguous CPU tensor") {
  const at::Tensor t = at::arange(6, at::kLong).view({2, 3});
  const std::span<const int64_t> values = host_values<int64_t>(t);
  CHECK(std::vector<int64_t>(values.begin(), values.end()) == std::vector<int64_t>{0, 1, 2, 3, 4, 5});
  mutable_host_values<int64_t>(t)[4] = 40;
  CHECK(t[1][1].item<int64_t>() == 40);
  CHECK(host_bytes(t).size() == 48);
  mutable_host_bytes(t)[0] = 7;
  CHECK(t[0][0].item<int64_t>() == 7);
  CHECK(host_values<float>(at::empty({0}, at::kFloat)).empty());
}

TEST_CASE("host_values refuses tensors of another type, layout or device") {
  const at::Tensor t = at::zeros({4, 4}, at::kFloat);
  CHECK_NOTHROW(host_values<float>(t));
  CHECK_THROWS_AS(host_values<double>(t), std::logic_error);
  CHECK_THROWS_AS(mutable_host_values<int32_t>(t), std::logic_error);
  CHECK_THROWS_AS(host_values<float>(t.narrow(1, 0, 2)), std::logic_error);
  CHECK_THROWS_AS(host_values<float>(at::Tensor()), std::logic_error);
  CHECK_THROWS_AS(host_bytes(t.t().narrow(0, 0, 2)), std::logic_error);
  CHECK_THROWS_AS(host_values<float>(at::empty({4}, at::TensorOptions().device(at::kMeta).dtype(at::kFloat))), std::logic_error);
}

}  // namespace overproof
