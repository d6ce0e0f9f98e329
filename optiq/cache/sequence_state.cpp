#include "optiq/cache/sequence_state.h"

#include <fmt/format.h>

#include <algorithm>

#include <stdexcept>
#include <utility>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/base/error.h"
#include "optiq/kernels/host_primitive.h"

namespace optiq::cache {
namespace {

// Room for the recurrent states of a sequence in the books.
std::shared_ptr<const Reservation> room_in(const KvCache& cache) {
  return std::make_shared<const Reservation>(
      cache.store().reserve(static_cast<std::uint64_t>(cache.recurrent_bytes())));
}

// The store, which keeps the whole cache alive.
std::shared_ptr<PageStore> store_of(const std::shared_ptr<KvCache>& cache) {
  return {cache, &cache->store()};
}

mx::array copy_of(const mx::array& x) {
  OPTIQ_CHECK(x.flags().row_contiguous, "a recurrent state lies in rows");
  return kernels::copy_of(x);
}

// In place where nobody else has `to`, for taped steps to find it.
void restore(mx::array& to, const mx::array& from) {
  const bool own = to.is_available() && to.is_donatable();
  if (own)
    kernels::overwrite(to, from);
  else
    to = copy_of(from);
}

}  // namespace

SequenceState::SequenceState(std::shared_ptr<KvCache> cache)
    : cache_(std::move(cache)),
      room_(room_in(*cache_)),
      recurrent_(empty_states()),
      pages_(store_of(cache_), cache_->float_pages()) {}

SequenceState::RecurrentStates SequenceState::empty_states() const {
  RecurrentStates states;
  for (const LayerShape& s : cache_->shapes()) {
    states.emplace_back();
    if (s.conv_kernel > 0)
      states.back().emplace(
          RecurrentState{mx::zeros({s.conv_kernel - 1, s.conv_channels}),
                         mx::zeros({s.n_value_heads, s.key_dim, s.value_dim})});
  }
  return states;
}

void SequenceState::prepare(int tokens) {
  if (cache_->has_attention_layers()) pages_.prepare(length_, length_ + tokens);
}

SequenceState SequenceState::fork() const {
  SequenceState other(cache_);
  other.recurrent_ = recurrent_;
  other.snapshots_ = snapshots_;
  other.pages_ = pages_;
  other.length_ = length_;
  other.turns_long_ = turns_long_;
  return other;
}

const SequenceState::Snapshot* SequenceState::snapshot_at(int length) const {
  const auto found = std::ranges::find(snapshots_, length, &Snapshot::length);
  return found == snapshots_.end() ? nullptr : &*found;
}

void SequenceState::take_snapshot() {
  if (!cache_->has_recurrent_layers() || snapshot_at(length_) != nullptr) return;
  auto room = room_in(*cache_);
  mx::eval(arrays());
  // A copy: what goes on stays where it lies, so that taped steps find it.
  RecurrentStates copies;
  for (const auto& state : recurrent_) {
    copies.emplace_back();
    if (state)
      copies.back().emplace(
          RecurrentState{copy_of(state->conv_tail), copy_of(state->delta_state)});
  }
  snapshots_.push_back({length_, std::move(copies), std::move(room)});
}

void SequenceState::restore(const RecurrentStates& states) {
  for (std::size_t i = 0; i < states.size(); ++i) {
    if (!states[i]) continue;
    cache::restore(recurrent_[i]->conv_tail, states[i]->conv_tail);
    cache::restore(recurrent_[i]->delta_state, states[i]->delta_state);
  }
}

void SequenceState::forget_snapshot(int length) {
  std::erase_if(snapshots_, [&](const Snapshot& s) { return s.length == length; });
}

bool SequenceState::can_truncate(int length) const {
  if (length < 0 || length > length_) return false;
  return !cache_->has_recurrent_layers() || length == 0 || length == length_ ||
         snapshot_at(length) != nullptr;
}

void SequenceState::truncate(int length) {
  if (length < 0 || length > length_)
    throw std::invalid_argument(fmt::format(
        "expected a length from 0 to {} to go back to, found {}", length_, length));
  if (!can_truncate(length))
    throw std::invalid_argument(fmt::format(
        "this model has recurrent layers: it goes back to where a snapshot was taken, "
        "found none at {} tokens",
        length));
  if (length == length_) return;
  if (const Snapshot* snapshot = snapshot_at(length))
    restore(snapshot->states);
  else
    recurrent_ = empty_states();
  std::erase_if(snapshots_, [&](const Snapshot& s) { return s.length > length; });
  pages_.truncate(length);
  length_ = length;
}

kernels::PagedKv SequenceState::pages(int i) const {
  const LayerPages* layer = cache_->layer(i);
  OPTIQ_CHECK(layer != nullptr, "an attention layer");
  KvPages pages;
  pages.float_layout = &layer->float_layout;
  pages.coded_layout = &layer->coded_layout;
  pages.float_offset = layer->float_offset;
  pages.coded_offset = layer->coded_offset;
  pages.float_pages = pages_.first_pages();
  pages.pages = pages_.data();
  pages.n_pages = pages_.size();
  pages.transform = &layer->transform;
  pages.on_device = cache_->store().memory().is_devices();
  return {pages, pages_.owner()};
}

void SequenceState::for_each_page(
    const std::function<void(const void* page, std::size_t bytes)>& use) const {
  for (int i = 0; i < pages_.size(); ++i)
    use(pages_.data()[i], cache_->store().page_bytes(i < pages_.first_pages() ? 0 : 1));
}

std::vector<mx::array> SequenceState::arrays() const {
  std::vector<mx::array> all;
  for (const auto& state : recurrent_)
    if (state) all.insert(all.end(), {state->conv_tail, state->delta_state});
  return all;
}

std::vector<const void*> SequenceState::addresses() const {
  std::vector<const void*> all;
  for (const auto& state : recurrent_) {
    if (!state) continue;
    for (const mx::array* x : {&state->conv_tail, &state->delta_state})
      all.push_back(x->is_available() && x->is_donatable() ? kernels::address_of(*x)
                                                           : nullptr);
  }
  return all;
}

}  // namespace optiq::cache
