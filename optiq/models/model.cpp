#include "optiq/models/model.h"

#include <algorithm>

#include "optiq/base/error.h"
#include "optiq/kernels/fused_primitive.h"
#include "optiq/kernels/host_primitive.h"

namespace optiq::models {
namespace {

mx::array positions_of(const std::vector<kernels::Segment>& segments) {
  std::vector<int> positions;
  for (const kernels::Segment& segment : segments)
    for (int i = 0; i < segment.tokens; ++i) positions.push_back(segment.cached + i);
  return mx::array(positions.begin(), {static_cast<int>(positions.size())}, mx::int32);
}

// Pages that a table has room for: contexts grow into it without another.
int room_for(int pages) {
  int room = 16;
  while (room < pages) room *= 2;
  return room;
}

// One table of all pages, for the layers to share.
void set_table(Batch& batch) {
  const auto first = std::ranges::find_if(
      batch.paged, [](const auto& call) { return call != nullptr; });
  if (kernels::runs_on_cpu() || first == batch.paged.end()) return;
  const kernels::PagedCall& call = **first;
  std::shared_ptr<kernels::PageTable> table = call.table;
  if (table && kernels::fits(*table, call.segments)) {
    kernels::rewrite_page_table(*table, call.segments, call.pages);
    return;
  }
  int pages = 0;
  for (const kernels::PagedKv& kv : call.pages)
    pages = std::max(pages, kv.pages.n_pages);
  table = std::make_shared<kernels::PageTable>(
      kernels::make_page_table(call.segments, call.pages, room_for(pages)));
  for (const auto& layer : batch.paged)
    if (layer) layer->table = table;
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
  int rows = 0;
  std::vector<kernels::Segment> segments;
  for (int n : tokens) {
    segments.push_back({n, 0});
    rows += n;
  }
  const std::vector<int> positions(static_cast<std::size_t>(rows));
  Batch batch{segments, states, mx::array(positions.data(), {rows}, mx::int32),
              activation};
  if (!states.empty())
    for (const cache::LayerShape& shape : states[0]->cache().shapes())
      batch.paged.push_back(
          shape.n_kv_heads > 0 ? std::make_shared<kernels::PagedCall>() : nullptr);
  if (std::ranges::any_of(states, &cache::SequenceState::turns_long)) {
    std::vector<int> rows_of_long;
    for (std::size_t i = 0; i < states.size(); ++i)
      rows_of_long.insert(rows_of_long.end(), static_cast<std::size_t>(tokens[i]),
                          states[i]->turns_long() ? 1 : 0);
    batch.long_rows = mx::array(rows_of_long.data(), {rows}, mx::int32);
  }
  continue_batch(batch);
  return batch;
}

void continue_batch(Batch& batch) {
  // Tables that somebody holds are copied before they change.
  for (const auto& call : batch.paged)
    if (call) call->pages.clear();
  std::vector<int> positions;
  for (std::size_t i = 0; i < batch.states.size(); ++i) {
    kernels::Segment& segment = batch.segments[i];
    segment.cached = batch.states[i]->length();
    batch.states[i]->prepare(segment.tokens);
    for (int t = 0; t < segment.tokens; ++t) positions.push_back(segment.cached + t);
  }
  if (!positions.empty()) kernels::overwrite(batch.positions, positions.data());
  for (std::size_t layer = 0; layer < batch.paged.size(); ++layer)
    if (const auto& call = batch.paged[layer]) {
      call->segments = batch.segments;
      for (const cache::SequenceState* state : batch.states)
        call->pages.push_back(state->pages(static_cast<int>(layer)));
    }
  set_table(batch);
}

bool can_continue(const Batch& batch) {
  std::vector<kernels::Segment> next = batch.segments;
  for (std::size_t i = 0; i < next.size(); ++i)
    next[i].cached = batch.states[i]->length();
  return std::ranges::all_of(batch.paged, [&](const auto& call) {
    return !call || !call->table || kernels::fits(*call->table, next);
  });
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
