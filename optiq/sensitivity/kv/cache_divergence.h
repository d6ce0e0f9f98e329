// The divergence that a quantized key-value cache causes, on sequences that are read as
// a prompt is read.
#pragma once
#include <map>
#include <memory>
#include <vector>

#include "optiq/cache/kv_cache.h"
#include "optiq/models/model.h"
#include "optiq/sensitivity/divergence.h"

namespace optiq::sensitivity {

struct CacheDivergenceOptions {
  int chunk = 512;                           // tokens of a sequence in one forward call
  int batch_tokens = 2048;                   // rows of one forward call
  std::int64_t reference_bytes = 4LL << 30;  // logits of the reference held at most
};

/// Of each channel, after RoPE, over all tokens: the mean, and root mean squares. Those
/// of queries are over all heads that meet the key.
///
/// Shapes    [n_kv_heads * head_dim]
struct ChannelStatistics {
  std::vector<float> k_mean, k, k_centred, v, q;
};

/// Measures caches of a model against its float32 cache.
///
/// Sequences are read in chunks through the cache, so that keys and values are coded
/// during prefill as when serving, and what the cache does to a token is done to those
/// behind it. Divergences are of each sequence's later half, where there is a past to
/// get wrong. Activations are float32 throughout: the effect is the cache's alone.
///
/// Walks the layers once: at stage i the inputs of layer i are at hand, computed with a
/// float32 cache. A cache that is float below layer i costs the layers from i on.
///
/// Threads   one.
class CacheMeter {
 public:
  /// Runs the reference over sequences of at least one token.
  CacheMeter(models::Model& model, std::vector<std::vector<int>> sequences,
             const CacheDivergenceOptions& options = {});

  int n_sequences() const { return static_cast<int>(sequences_.size()); }

  /// Back to the beginning.
  void restart();

  /// Takes the sequences up to, not including, `layer`. Only forward.
  void advance_to(int layer);

  /// KL(float32 cache || this cache).
  ///
  /// Requires  a cache that is float32 in the layers before the stage
  /// Throws    Interrupted; as cache::KvCache does
  Divergence measure(const cache::CacheOptions& cache, bool with_p99 = false) const;

  /// By layer that has keys and values of its own.
  const std::map<int, ChannelStatistics>& channels() const { return channels_; }

 private:
  struct Group {  // sequences of one length that share forward calls
    int first_sequence, n_sequences, length;
  };
  using Chunks = std::vector<mx::array>;  // rows of each chunk, sequence by sequence
  using States = std::vector<cache::SequenceState>;

  Chunks embed(const Group& group) const;
  void run(const Group& group, Chunks& x, int from, int to, States& states) const;
  States states(const Group& group, const std::shared_ptr<cache::KvCache>& cache) const;
  mx::array late_rows(const Group& group, int chunk, const mx::array& x) const;
  std::vector<int> sequences_of_late_rows(const Group& group, int chunk) const;
  int head_rows() const;
  void run_reference();
  void add_keys_and_values(const Group& group, const States& states);
  void add_queries(int layer, const mx::array& q);

  models::Model& model_;
  std::vector<std::vector<int>> sequences_;
  CacheDivergenceOptions options_;
  std::shared_ptr<cache::KvCache> float_cache_;
  std::vector<Group> groups_;
  int stage_ = 0;
  std::vector<Chunks> inputs_;          // of layer stage_, by group
  std::vector<Chunks> reference_rows_;  // after the last layer, late rows only
  std::vector<std::vector<std::vector<float>>> reference_logits_;  // empty: not held
  std::map<int, ChannelStatistics> channels_;
};

}  // namespace optiq::sensitivity
