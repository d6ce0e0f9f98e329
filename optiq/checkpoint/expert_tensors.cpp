#include "optiq/checkpoint/expert_tensors.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>
#include <string_view>

#include "optiq/base/error.h"
#include "optiq/checkpoint/quote.h"

namespace optiq::checkpoint {
namespace {

constexpr std::string_view kExperts = ".experts.";
constexpr std::int64_t kMaxExperts = 65536;

[[noreturn]] void fail(const TensorInfo& tensor, const std::string& what) {
  throw CheckpointError(
      fmt::format("{}: tensor {}: {}", tensor.file.string(), quote(tensor.name), what));
}

bool is_projection(std::string_view name) {
  return name == "gate_proj" || name == "up_proj" || name == "down_proj";
}

// Where MLX keeps the experts of "<parent>.experts": Gemma 4's stand beside the MLP.
std::string gathered_prefix(std::string_view parent) {
  return fmt::format("{}.{}", parent,
                     parent.ends_with(".mlp") ? "switch_mlp" : "experts.switch_glu");
}

struct OneExpert {
  std::string gathered;
  std::int64_t index;
};

// "<parent>.experts.7.gate_proj.weight"; scales and biases of packed ones
std::optional<OneExpert> one_expert(std::string_view name) {
  const std::size_t at = name.find(kExperts);
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view rest = name.substr(at + kExperts.size());
  std::int64_t index = 0;
  const auto [end, error] =
      std::from_chars(rest.data(), rest.data() + rest.size(), index);
  if (error != std::errc() || index < 0 || index >= kMaxExperts) return std::nullopt;
  std::string_view tail = rest.substr(static_cast<std::size_t>(end - rest.data()));
  if (!tail.starts_with('.')) return std::nullopt;
  tail.remove_prefix(1);
  const std::string_view projection = tail.substr(0, tail.find('.'));
  const std::string_view part = tail.substr(projection.size());
  if (!is_projection(projection) ||
      (part != ".weight" && part != ".scales" && part != ".biases"))
    return std::nullopt;
  return OneExpert{fmt::format("{}.{}", gathered_prefix(name.substr(0, at)), tail),
                   index};
}

class Gathering {
 public:
  void add_one(const TensorInfo& tensor, const OneExpert& expert) {
    if (tensor.shape.size() != 2)
      fail(tensor, "expected a matrix, found " + describe(tensor.dtype, tensor.shape));
    experts_[expert.gathered][expert.index] = &tensor;
  }

  // All experts in one tensor: as it is, or cut in halves.
  void add_all(const TensorInfo& tensor, std::string_view parent, bool halves) {
    const auto& shape = tensor.shape;
    if (shape.size() != 3 || shape[0] < 1 || (halves && shape[1] % 2 != 0))
      fail(tensor, fmt::format("expected [experts, {}rows, columns], found {}",
                               halves ? "2 " : "", describe(tensor.dtype, shape)));
    const auto name = [&](const char* projection) {
      return fmt::format("{}.{}.weight", gathered_prefix(parent), projection);
    };
    if (!halves) {
      put(name("down_proj"), tensor, shape).parts = {{tensor.name, 0, tensor.bytes}};
      return;
    }
    const auto E = static_cast<std::uint64_t>(shape[0]);
    const std::uint64_t half = tensor.bytes / E / 2;
    for (std::uint64_t which = 0; which < 2; ++which) {
      GatheredTensor& part = put(name(which == 0 ? "gate_proj" : "up_proj"), tensor,
                                 {shape[0], shape[1] / 2, shape[2]});
      for (std::uint64_t e = 0; e < E; ++e)
        part.parts.push_back({tensor.name, (2 * e + which) * half, half});
    }
  }

  std::map<std::string, GatheredTensor> finish() && {
    for (const auto& [name, experts] : experts_) {
      const TensorInfo& first = *experts.begin()->second;
      const auto E = static_cast<std::int64_t>(experts.size());
      if (experts.rbegin()->first != E - 1)
        fail(first, fmt::format("expected {} experts, found {}",
                                experts.rbegin()->first + 1, E));
      GatheredTensor& tensor = put(name, first, {E, first.shape[0], first.shape[1]});
      for (const auto& [index, expert] : experts) {
        if (expert->shape != first.shape || expert->dtype != first.dtype)
          fail(*expert, fmt::format("expected {} like the other experts, found {}",
                                    describe(first.dtype, first.shape),
                                    describe(expert->dtype, expert->shape)));
        tensor.parts.push_back({expert->name, 0, expert->bytes});
      }
    }
    return std::move(gathered_);
  }

 private:
  GatheredTensor& put(const std::string& name, const TensorInfo& like,
                      const std::vector<std::int64_t>& shape) {
    GatheredTensor& tensor = gathered_[name];
    if (!tensor.parts.empty()) fail(like, "its experts are in the file twice");
    tensor.info = like;
    tensor.info.name = name;
    tensor.info.shape = shape;
    tensor.info.bytes = static_cast<std::uint64_t>(info(like.dtype).bits) / 8;
    for (const std::int64_t n : shape)
      tensor.info.bytes *= static_cast<std::uint64_t>(n);
    return tensor;
  }

  std::map<std::string, std::map<std::int64_t, const TensorInfo*>> experts_;
  std::map<std::string, GatheredTensor> gathered_;
};

}  // namespace

std::map<std::string, GatheredTensor> gather_experts(
    const std::vector<const TensorInfo*>& tensors) {
  Gathering gathering;
  for (const TensorInfo* tensor : tensors) {
    const std::string_view name = tensor->name;
    if (const auto expert = one_expert(name)) {
      gathering.add_one(*tensor, *expert);
      continue;
    }
    for (const auto& [end, halves] : {std::pair(".experts.gate_up_proj", true),
                                      std::pair(".experts.down_proj", false)})
      if (name.ends_with(end))
        gathering.add_all(*tensor,
                          name.substr(0, name.size() - std::string_view(end).size()),
                          halves);
  }
  return std::move(gathering).finish();
}

}  // namespace optiq::checkpoint
