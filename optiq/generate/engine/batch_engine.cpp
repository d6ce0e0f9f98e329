#include "optiq/generate/engine/batch_engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <list>
#include <mutex>
#include <thread>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/base/error.h"
#include "optiq/base/log.h"
#include "optiq/generate/decode_step.h"
#include "optiq/generate/engine/prefill_cut.h"
#include "optiq/generate/engine/prefix_cache.h"
#include "optiq/generate/engine/running.h"
#include "optiq/generate/forward.h"
#include "optiq/kernels/fused_primitive.h"

namespace optiq::generation {
namespace {

namespace mx = mlx::core;
using Clock = std::chrono::steady_clock;
using RunningPtr = std::shared_ptr<Running>;

constexpr std::uint64_t kMostPrefixBytes = std::uint64_t{4} << 30;

// A prompt's calls go to the one with least left, but none is passed over so often.
constexpr int kMostPassedOver = 8;

// Reading twice what another request reads right now is worth waiting for from here on.
constexpr int kWorthWaiting = kCutTokens;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

PromptTooLong::PromptTooLong(int prompt_tokens, int context_length)
    : std::invalid_argument(fmt::format("the prompt has {} tokens, and prompt and "
                                        "answer together at most {}",
                                        prompt_tokens, context_length)),
      prompt_tokens(prompt_tokens),
      context_length(context_length) {}

class BatchEngine::Impl {
 public:
  Impl(std::shared_ptr<LoadedModel> model, BatchOptions options)
      : model_(std::move(model)),
        options_(std::move(options)),
        context_length_(options_.context_length > 0
                            ? options_.context_length
                            : model_->model->config().max_position_embeddings),
        cache_(std::make_shared<cache::KvCache>(model_->model->layer_shapes(),
                                                options_.cache)),
        prefixes_(prefix_budget()),
        decode_step_(*model_->model, options_.activation),
        thread_([this] { run(); }),
        watchdog_([this] { watch(); }) {}

  ~Impl() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
    watchdog_.join();
  }

  std::uint64_t submit(EngineRequest request,
                       std::shared_ptr<EngineListener> listener) {
    check(request.prompt);
    for (const auto& bias : request.sampling.logit_bias)
      if (bias.id < 0 || bias.id >= model_->model->config().vocab_size)
        throw std::invalid_argument(
            fmt::format("logit_bias: expected an id from 0 to {}, found {}",
                        model_->model->config().vocab_size - 1, bias.id));
    if (!request.stop_strings.empty() && !model_->tokenizer)
      throw std::invalid_argument("stop strings need a model that has a tokenizer");
    return queue([&](std::uint64_t id) {
      return std::make_shared<Running>(id, std::move(request), std::move(listener),
                                       *model_, context_length_);
    });
  }

  std::uint64_t embed(std::vector<int> tokens, EmbeddingDone done) {
    check(tokens);
    return queue([&](std::uint64_t id) {
      return std::make_shared<Running>(id, std::move(tokens), std::move(done), *model_,
                                       context_length_);
    });
  }

  void cancel(std::uint64_t id) {
    const std::lock_guard lock(mutex_);
    for (const auto* requests : {&waiting_, &seen_})
      for (const RunningPtr& request : *requests)
        if (request->id() == id) request->cancel();
    changed_.notify_all();
  }

  EngineStatus status() const {
    const std::lock_guard lock(mutex_);
    EngineStatus status = status_;
    status.running = static_cast<int>(seen_.size());
    status.waiting = static_cast<int>(waiting_.size());
    status.since_progress_s =
        seen_.empty() && waiting_.empty() ? 0 : seconds_since(progress_);
    status.pages = cache_->store().use();
    status.budget_bytes = cache_->store().budget_bytes();
    return status;
  }

  int context_length() const { return context_length_; }

  void clear_prefixes() {
    std::unique_lock lock(mutex_);
    clearing_ = true;
    changed_.notify_all();
    changed_.wait(lock, [this] { return !clearing_ || stopping_; });
  }

 private:
  std::uint64_t prefix_budget() const {
    if (options_.prefix_bytes > 0) return options_.prefix_bytes;
    return std::min(cache_->store().budget_bytes() / 2, kMostPrefixBytes);
  }

  void check(const std::vector<int>& tokens) const {
    const int vocab_size = model_->model->config().vocab_size;
    if (tokens.empty())
      throw std::invalid_argument("expected at least one token, found none");
    for (const int id : tokens)
      if (id < 0 || id >= vocab_size)
        throw std::invalid_argument(fmt::format(
            "expected token ids from 0 to {}, found {}", vocab_size - 1, id));
    if (tokens.size() >= static_cast<std::size_t>(context_length_))
      throw PromptTooLong(static_cast<int>(tokens.size()), context_length_);
  }

  template <class Make>
  std::uint64_t queue(Make&& make) {
    const std::lock_guard lock(mutex_);
    if (stopping_) throw EngineBusy("the engine is stopping");
    const int free = options_.max_concurrent - static_cast<int>(seen_.size());
    if (static_cast<int>(waiting_.size()) >= options_.max_queue + std::max(free, 0))
      throw EngineBusy(fmt::format(
          "{} requests are waiting, as many as may (--max-queue)", waiting_.size()));
    const std::uint64_t id = next_id_++;
    if (waiting_.empty() && seen_.empty()) progress_ = Clock::now();
    waiting_.push_back(make(id));
    changed_.notify_all();
    return id;
  }

  // --- the engine's thread
  // ------------------------------------------------------------

  void run() {
    while (wait_for_work()) {
      drop_finished();
      admit();
      try {
        const bool decoded = decode();
        read_prompts(decoded);
      } catch (const std::exception& error) {
        // A call's own failures are told where they happen.
        log_error("the engine failed: {}", error.what());
        for (const RunningPtr& request : running_)
          request->finish(EngineFinish::kFailed, "internal error");
      }
      drop_finished();
    }
    running_.clear();
    prefixes_.clear();
  }

  // False when it is time to stop.
  bool wait_for_work() {
    std::unique_lock lock(mutex_);
    publish(lock);
    changed_.wait(lock, [this] {
      return stopping_ || clearing_ || !waiting_.empty() || !running_.empty();
    });
    if (clearing_) {
      prefixes_.clear();
      clearing_ = false;
      changed_.notify_all();
      publish(lock);
    }
    if (!stopping_) return true;
    std::deque<RunningPtr> rest = std::move(waiting_);
    waiting_.clear();
    seen_.clear();
    lock.unlock();
    rest.insert(rest.end(), running_.begin(), running_.end());
    for (const RunningPtr& request : rest) request->finish(EngineFinish::kCancelled);
    return false;
  }

  // Shows others what this thread has done.
  void publish(const std::unique_lock<std::mutex>&) {
    status_.prefix_bytes = prefixes_.bytes();
    status_.prefix_entries = prefixes_.size();
    seen_.assign(running_.begin(), running_.end());
  }

  void count_step(int prompt_tokens, std::size_t answer_tokens,
                  std::uint64_t drafted = 0, std::uint64_t accepted = 0) {
    const std::lock_guard lock(mutex_);
    ++status_.steps;
    status_.prompt_tokens += static_cast<std::uint64_t>(prompt_tokens);
    status_.completion_tokens += answer_tokens;
    status_.drafted_tokens += drafted;
    status_.accepted_tokens += accepted;
    progress_ = Clock::now();
  }

  void drop_finished() {
    for (const RunningPtr& request : running_)
      if (request->cancelled()) request->finish(EngineFinish::kCancelled);
    // The last hold on a request goes while nothing is locked.
    std::vector<RunningPtr> ended, gone;
    {
      std::unique_lock lock(mutex_);
      for (auto at = waiting_.begin(); at != waiting_.end();) {
        const bool over = (*at)->cancelled() || (*at)->finished();
        if (over) ended.push_back(*at);
        at = over ? waiting_.erase(at) : std::next(at);
      }
      for (const RunningPtr& request : running_)
        if (request->finished() && request->cancelled()) ++status_.cancelled;
      status_.cancelled += ended.size();
    }
    for (const RunningPtr& request : ended) request->finish(EngineFinish::kCancelled);
    std::erase_if(running_, [&](const RunningPtr& request) {
      if (!request->finished()) return false;
      decode_step_.forget();
      keep_answer(*request);
      gone.push_back(request);
      short_of_memory_ = false;
      return true;
    });
    std::unique_lock lock(mutex_);
    publish(lock);
  }

  // An answer's end is where the conversation goes on.
  void keep_answer(Running& request) {
    if (!request.has_state() || request.in_prompt() || request.wants_hidden()) return;
    const auto read = static_cast<std::size_t>(request.state().length());
    prefixes_.keep(request.tokens().first(read), request.salt(), request.state(),
                   request.adapter());
  }

  void admit() {
    for (;;) {
      RunningPtr next;
      {
        const std::lock_guard lock(mutex_);
        if (!running_.empty() && short_of_memory_) return;
        if (static_cast<int>(running_.size()) >= options_.max_concurrent) return;
        const auto at = std::ranges::find_if(
            waiting_,
            [this](const RunningPtr& request) { return !is_read_now(*request); });
        if (at == waiting_.end()) return;
        next = *at;
        waiting_.erase(at);
        running_.push_back(next);
        seen_.push_back(next);
      }
      begin(next);
    }
  }

  // A sequence that reads a long beginning of this prompt right now leaves it to the
  // prefix cache soon.
  bool is_read_now(const Running& request) const {
    const int cached = prefixes_.match(request.tokens(), request.salt());
    for (const RunningPtr& other : running_) {
      if (!other->in_prompt() || other->wants_hidden() || other->unread() <= 1 ||
          other->salt() != request.salt() || !other->has_state())
        continue;
      const auto ours = request.tokens().first(request.tokens().size() - 1);
      const auto theirs = other->tokens();
      const auto n = std::min(ours.size(), theirs.size());
      int common = static_cast<int>(
          std::mismatch(ours.begin(), ours.begin() + static_cast<std::ptrdiff_t>(n),
                        theirs.begin())
              .first -
          ours.begin());
      if (cache_->has_recurrent_layers()) {
        int stop = 0;
        for (const int s : other->stops())
          if (s <= common && s > other->state().length()) stop = s;
        common = stop;
      }
      if (common >= cached + kWorthWaiting) return true;
    }
    return false;
  }

  // Gives it the state that it goes on from.
  void begin(const RunningPtr& request) {
    const auto take = [&] {
      std::optional<cache::SequenceState> kept;
      if (!request->wants_hidden())
        kept = prefixes_.find(request->tokens(), request->salt());
      const int cached = kept ? kept->length() : 0;
      cache::SequenceState state =
          kept ? std::move(*kept) : cache::SequenceState(cache_);
      state.set_turns_long(request->turns_long());
      request->begin(std::move(state), cached);
      if (options_.draft.any() && !request->wants_hidden() && !request->has_draft())
        request->set_draft(make_draft(options_.draft, options_.activation),
                           options_.draft.most());
      const std::lock_guard lock(mutex_);
      status_.cached_tokens += static_cast<std::uint64_t>(cached);
    };
    while (!take_room(take, {request}) && !request->finished() &&
           running_.back() == request) {
    }
  }

  // Does what takes memory, on behalf of these requests. False if it was not done: then
  // something has changed that allows another try (prefixes are forgotten, the youngest
  // request was set aside), or the requests have failed.
  template <class Take>
  bool take_room(Take&& take, const std::vector<RunningPtr>& requests) {
    try {
      take();
      return true;
    } catch (const ResourceError& error) {
      if (prefixes_.evict()) return false;
      if (running_.size() > 1) {
        set_aside();
        return false;
      }
      for (const RunningPtr& request : requests)
        request->finish(EngineFinish::kFailed,
                        fmt::format("{}; fewer KV bits (--kv-bits) or more memory "
                                    "(--kv-memory) would do",
                                    error.what()),
                        true);
    } catch (const std::exception& error) {
      log_error("a forward call failed: {}", error.what());
      for (const RunningPtr& request : requests)
        request->finish(EngineFinish::kFailed, error.what());
    }
    return false;
  }

  // The youngest gives back its memory and reads all its tokens again later.
  void set_aside() {
    const RunningPtr youngest = running_.back();
    decode_step_.forget();
    youngest->drop_state();
    running_.pop_back();
    short_of_memory_ = true;  // until another request ends
    const std::lock_guard lock(mutex_);
    waiting_.push_front(youngest);
    std::erase(seen_, youngest);
  }

  // The sequences whose tokens are read but for the last few; those of one adapter side
  // by side, for its matrices are then read once.
  std::vector<RunningPtr> decoding() const {
    std::vector<RunningPtr> batch;
    for (const RunningPtr& request : running_)
      if (!request->finished() && request->has_state() && !request->in_prompt() &&
          request->unread() <= kStepRows)
        batch.push_back(request);
    std::ranges::stable_sort(batch, std::less{}, [](const RunningPtr& request) {
      return request->adapter().get();
    });
    return batch;
  }

  // What a step reads of each: the tokens that it has not read, one as a rule, and
  // guesses while there are few sequences.
  struct Step {
    std::vector<cache::SequenceState*> states;
    std::vector<models::AdapterPtr> adapters;
    std::vector<int> rows, guesses, ids;
    std::vector<kernels::RowDraw> draws;
  };

  Step step_of(const std::vector<RunningPtr>& batch) const {
    Step step;
    int spare = kStepRows;
    for (const RunningPtr& request : batch) spare -= request->unread();
    const int share = std::max(0, spare) / static_cast<int>(batch.size());
    for (const RunningPtr& request : batch) {
      step.states.push_back(&request->state());
      step.adapters.push_back(request->adapter());
      const std::span<const int> guess = request->guess(share);
      const auto unread = static_cast<std::size_t>(request->unread());
      const std::span<const int> tokens = request->tokens().last(unread);
      step.ids.insert(step.ids.end(), tokens.begin(), tokens.end());
      step.ids.insert(step.ids.end(), guess.begin(), guess.end());
      step.guesses.push_back(static_cast<int>(guess.size()));
      step.rows.push_back(static_cast<int>(unread + guess.size()));
      const auto draws = request->draws(request->unread() - 1, step.rows.back());
      step.draws.insert(step.draws.end(), draws.begin(), draws.end());
    }
    return step;
  }

  StepLogits run(const Step& step) {
    // A recurrent state is kept to come back to, should a guess fail.
    for (std::size_t i = 0; i < step.states.size(); ++i)
      if (step.guesses[i] > 0) step.states[i]->take_snapshot();
    return decode_step_(step.states, step.rows, step.ids, step.adapters, step.draws);
  }

  // The next tokens of each of them. True if there was one.
  bool decode() {
    for (;;) {
      const std::vector<RunningPtr> batch = decoding();
      if (batch.empty()) return false;
      const Step step = step_of(batch);
      std::vector<int> before;
      for (const cache::SequenceState* state : step.states)
        before.push_back(state->length());
      StepLogits logits;
      // Room may be made by setting some of them aside: the batch is then another.
      if (!take_room([&] { logits = run(step); }, batch)) continue;
      int row = 0;

      std::uint64_t drafted = 0, accepted = 0;
      for (std::size_t i = 0; i < batch.size(); ++i) {
        const int first = row + step.rows[i] - step.guesses[i] - 1;
        accepted += static_cast<std::uint64_t>(batch[i]->choose_all(logits, first));
        drafted += static_cast<std::uint64_t>(step.guesses[i]);
        if (step.guesses[i] > 0) step.states[i]->forget_snapshot(before[i]);
        row += step.rows[i];
      }
      count_step(0, batch.size() + accepted, drafted, accepted);
      return true;
    }
  }

  // Of the prompts that are not read: the one with least left, unless one has been
  // passed over too often.
  RunningPtr next_prompt() const {
    RunningPtr best;
    for (const RunningPtr& request : running_) {
      if (request->finished() || !request->has_state()) continue;
      if (!request->in_prompt() && request->unread() <= kStepRows) continue;
      if (request->passed_over >= kMostPassedOver) return request;
      if (!best || request->unread() < best->unread()) best = request;
    }
    return best;
  }

  // One call for a prompt; a short one where others decode.
  void read_prompts(bool others_decode) {
    const RunningPtr request = next_prompt();
    if (!request) return;
    for (const RunningPtr& other : running_)
      if (other != request) ++other->passed_over;
    request->passed_over = 0;
    const int begin = request->state().length();
    const int length = static_cast<int>(request->tokens().size());
    const int rows = others_decode ? rows_in_a_stall() : options_.prefill_rows;
    const int end =
        cut_end(begin, length, rows, cache_->has_recurrent_layers(), request->stops());
    const Clock::time_point started = Clock::now();
    if (!take_room([&] { read(*request, begin, end); }, {request})) return;
    if (end - begin >= kCutTokens)
      rows_per_s_ = 0.5 * rows_per_s_ + 0.5 * (end - begin) / seconds_since(started);
  }

  int rows_in_a_stall() const {
    const double rows =
        rows_per_s_ * 1e-3 * static_cast<double>(options_.stall.count());
    return std::clamp(static_cast<int>(rows) / kCutTokens * kCutTokens, kCutTokens,
                      options_.prefill_rows);
  }

  // Reads tokens [begin, end) of a request.
  void read(Running& request, int begin, int end) {
    models::Model& model = *model_->model;
    const int rows = end - begin;
    const bool last = end == static_cast<int>(request.tokens().size());
    models::Batch batch =
        models::cached_batch({&request.state()}, {rows}, options_.activation);
    if (request.adapter()) batch.adapters = {request.adapter()};
    const mx::array ids(request.tokens().data() + begin, {rows}, mx::int32);
    mx::array result = forward_layers(model, ids, batch);
    if (request.wants_hidden())
      result = model.final_norm(result);
    else if (last)
      result = model.head(mx::slice(result, {rows - 1, 0}, {rows, result.shape(1)}),
                          options_.activation);
    std::vector<mx::array> outputs = request.state().arrays();
    outputs.push_back(result);
    mx::eval(std::move(outputs));
    models::finish_batch(batch);
    count_step(rows, last && !request.wants_hidden() ? 1 : 0);
    if (request.wants_hidden()) {
      request.add_hidden(result.data<float>(), rows, result.shape(1));
      return;
    }
    const bool stop = std::ranges::find(request.stops(), end) != request.stops().end();
    if (cache_->has_recurrent_layers() ? stop : last)
      prefixes_.keep(request.tokens().first(static_cast<std::size_t>(end)),
                     request.salt(), request.state(), request.adapter());
    if (!last) return;
    StepLogits logits(result);
    request.choose(logits, 0);
  }

  // --- the watchdog's thread
  // ----------------------------------------------------------

  void watch() {
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      if (seen_.empty() && waiting_.empty()) {
        changed_.wait(lock);
        continue;
      }
      const auto due = progress_ + options_.stuck_after;
      if (Clock::now() < due) {
        changed_.wait_until(lock, due);
        continue;
      }
      std::vector<RunningPtr> stuck(seen_.begin(), seen_.end());
      stuck.insert(stuck.end(), waiting_.begin(), waiting_.end());
      lock.unlock();
      log_error("no step for {} s: {} requests are ended",
                options_.stuck_after.count() / 1000, stuck.size());
      for (const RunningPtr& request : stuck)
        request->fail("the engine made no progress; the request was ended");
      lock.lock();
      changed_.wait_for(lock, options_.stuck_after);
    }
  }

  const std::shared_ptr<LoadedModel> model_;
  const BatchOptions options_;
  const int context_length_;
  const std::shared_ptr<cache::KvCache> cache_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<RunningPtr> waiting_;
  std::deque<RunningPtr> seen_;  // what runs, for other threads
  EngineStatus status_;
  Clock::time_point progress_ = Clock::now();
  std::uint64_t next_id_ = 1;
  bool stopping_ = false;
  bool clearing_ = false;

  // Of the engine's thread.
  std::vector<RunningPtr> running_;  // the oldest first
  PrefixCache prefixes_;
  DecodeStep decode_step_;
  double rows_per_s_ = 1000;
  bool short_of_memory_ = false;

  std::thread thread_;
  std::thread watchdog_;
};

int usual_concurrency() {
  return kernels::runs_on_cpu() ? BatchOptions().max_concurrent : 32;
}

BatchEngine::BatchEngine(std::shared_ptr<LoadedModel> model, BatchOptions options)
    : impl_(std::make_unique<Impl>(std::move(model), std::move(options))) {}

BatchEngine::~BatchEngine() = default;

std::uint64_t BatchEngine::submit(EngineRequest request,
                                  std::shared_ptr<EngineListener> listener) {
  return impl_->submit(std::move(request), std::move(listener));
}

std::uint64_t BatchEngine::embed(
    std::vector<int> tokens,
    std::function<void(std::vector<float>, std::string)> done) {
  return impl_->embed(std::move(tokens), std::move(done));
}

void BatchEngine::cancel(std::uint64_t id) { impl_->cancel(id); }
EngineStatus BatchEngine::status() const { return impl_->status(); }
int BatchEngine::context_length() const { return impl_->context_length(); }
void BatchEngine::clear_prefixes() { impl_->clear_prefixes(); }

}  // namespace optiq::generation
