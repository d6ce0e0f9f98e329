#include "optiq/models/model.h"

#include <numeric>

#include "optiq/base/error.h"

namespace optiq::models {
namespace {

mx::array positions_of(const std::vector<kernels::Segment>& segments) {
  std::vector<int> positions;
  for (const kernels::Segment& segment : segments)
    for (int i = 0; i < segment.tokens; ++i) positions.push_back(segment.cached + i);
  return mx::array(positions.begin(), {static_cast<int>(positions.size())}, mx::int32);
}

}  // namespace

Batch uncached_batch(const std::vector<int>& lengths, kernels::Activation activation) {
  std::vector<kernels::Segment> segments;
  for (int length : lengths) segments.push_back({length, 0});
  return {segments, {}, positions_of(segments), activation};
}

Batch cached_batch(const std::vector<cache::SequenceState*>& states,
                   const std::vector<int>& tokens, kernels::Activation activation) {
  OPTIQ_CHECK(states.size() == tokens.size(), "a token count for each state");
  std::vector<kernels::Segment> segments;
  for (std::size_t i = 0; i < states.size(); ++i) {
    segments.push_back({tokens[i], states[i]->length()});
    states[i]->prepare(tokens[i]);
  }
  return {segments, states, positions_of(segments), activation};
}

void finish_batch(const Batch& batch) {
  for (std::size_t i = 0; i < batch.states.size(); ++i)
    batch.states[i]->advance(batch.segments[i].tokens);
}

mx::array Model::hidden(const mx::array& ids, const Batch& batch) {
  mx::array x = embed(ids);
  for (int i = 0; i < n_layers(); ++i) x = layer(i, x, batch);
  return x;
}

}  // namespace optiq::models
