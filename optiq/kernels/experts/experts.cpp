#include "optiq/kernels/experts/experts.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <vector>

#include "optiq/base/parallel.h"
#include "optiq/kernels/linear/pieces.h"
#include "optiq/kernels/linear/scratch.h"

namespace optiq::kernels {
namespace {

// A token's turn at one expert is a visit. Visits are numbered expert after expert, so
// that those of an expert are rows that lie together.
struct Group {
  int expert;
  int begin, end;  // visits

  int rows() const { return end - begin; }
};

struct Visits {
  std::vector<Group> groups;    // of experts that are visited
  std::vector<int> token;       // by visit
  std::vector<int> of_token_i;  // [T, n_active]: the visit
};

Visits visits_of(const ExpertsArgs& args) {
  const auto n =
      static_cast<std::size_t>(args.T) * static_cast<std::size_t>(args.n_active);
  std::vector<int> next(static_cast<std::size_t>(args.n_experts) + 1, 0);
  for (std::size_t i = 0; i < n; ++i) ++next[static_cast<std::size_t>(args.ids[i]) + 1];
  Visits visits;
  for (int e = 0; e < args.n_experts; ++e) {
    const auto at = static_cast<std::size_t>(e);
    next[at + 1] += next[at];
    if (next[at + 1] > next[at]) visits.groups.push_back({e, next[at], next[at + 1]});
  }
  visits.token.resize(n);
  visits.of_token_i.resize(n);
  for (std::size_t i = 0; i < n; ++i) {
    const int visit = next[static_cast<std::size_t>(args.ids[i])]++;
    visits.of_token_i[i] = visit;
    visits.token[static_cast<std::size_t>(visit)] = static_cast<int>(i) / args.n_active;
  }
  return visits;
}

float* floats(Scratch& scratch, std::int64_t n) {
  return static_cast<float*>(scratch.get(static_cast<std::size_t>(n) * sizeof(float)));
}

// The forms of each group's rows of x [visits, K].
class GroupForms {
 public:
  GroupForms(const LinearKernels& kernels, const std::vector<Group>& groups,
             const float* x, int K, Activation activation,
             std::initializer_list<const MatrixView*> matrices, Scratch& memory) {
    std::vector<std::size_t> at{0};
    for (const Group& group : groups) {
      forms_.emplace_back(kernels, x + std::int64_t{group.begin} * K, group.rows(), K,
                          activation);
      for (const MatrixView* w : matrices) forms_.back().want(*w);
      at.push_back(at.back() + forms_.back().bytes());
    }
    char* base = static_cast<char*>(memory.get(std::max<std::size_t>(at.back(), 64)));
    for (std::size_t i = 0; i < forms_.size(); ++i) forms_[i].place(base + at[i]);
    parallel_for(forms_.size(), [&](std::size_t i) { forms_[i].fill_here(); });
  }

  const InputRows& rows(std::size_t group, const MatrixView& w) const {
    return forms_[group].form_for(w);
  }

 private:
  std::deque<InputForms> forms_;
};

// Rows [begin, end) of the matrices of one group's expert.
struct Chunk {
  std::size_t group;
  int begin, end;
};

std::vector<Chunk> chunks_of(const std::vector<Group>& groups, int rows, int step) {
  std::vector<Chunk> chunks;
  for (std::size_t i = 0; i < groups.size(); ++i)
    for (int n = 0; n < rows; n += step)
      chunks.push_back({i, n, std::min(rows, n + step)});
  return chunks;
}

}  // namespace

void experts(const ExpertsArgs& args) {
  if (args.T == 0) return;
  const LinearKernels kernels = linear_kernels_in_use();
  if (!kernels.panel_rows) return ref::experts(args);
  const int K = args.gate.K, N = args.down.K;
  const Visits visits = visits_of(args);
  const std::vector<Group>& groups = visits.groups;
  const auto n_visits = static_cast<std::int64_t>(visits.token.size());
  const auto n_groups = static_cast<std::int64_t>(groups.size());

  thread_local Scratch gathered, inner, outer, input_memory, inner_memory;
  float* x = floats(gathered, n_visits * K);
  parallel_ranges(visits.token.size(), static_cast<std::size_t>(16384 / K + 1),
                  [&](std::size_t begin, std::size_t end) {
                    for (std::size_t v = begin; v < end; ++v)
                      std::memcpy(x + static_cast<std::int64_t>(v) * K,
                                  args.x + std::int64_t{visits.token[v]} * K,
                                  static_cast<std::size_t>(K) * sizeof(float));
                  });

  // Both halves of a chunk stay in the cache until they are joined.
  float* h = floats(inner, n_visits * N);
  {
    const GroupForms forms(kernels, groups, x, K, args.activation,
                           {&args.gate, &args.up}, input_memory);
    const int step = rows_of_a_piece(kernels, 2 * N * n_groups);
    const std::vector<Chunk> chunks = chunks_of(groups, N, step);
    parallel_for(chunks.size(), [&](std::size_t i) {
      const Chunk& chunk = chunks[i];
      const Group& group = groups[chunk.group];
      const std::int64_t n = chunk.end - chunk.begin,
                         first = std::int64_t{group.expert} * N;
      thread_local Scratch halves;
      float* g = floats(halves, 2 * group.rows() * n);
      float* u = g + group.rows() * n;
      Product gate, up;
      gate.w = args.gate.rows(first, N);
      up.w = args.up.rows(first, N);
      Piece{gate, forms.rows(chunk.group, args.gate), chunk.begin, chunk.end}.multiply(
          kernels, g, n, nullptr);
      Piece{up, forms.rows(chunk.group, args.up), chunk.begin, chunk.end}.multiply(
          kernels, u, n, nullptr);
      for (int row = 0; row < group.rows(); ++row)
        glu_product_here(args.f, g + row * n, u + row * n,
                         h + std::int64_t{group.begin + row} * N + chunk.begin, n);
    });
  }

  float* z = floats(outer, n_visits * K);
  {
    const GroupForms forms(kernels, groups, h, N, args.activation, {&args.down},
                           inner_memory);
    const int step = rows_of_a_piece(kernels, K * n_groups);
    const std::vector<Chunk> chunks = chunks_of(groups, K, step);
    parallel_for(chunks.size(), [&](std::size_t i) {
      const Chunk& chunk = chunks[i];
      const Group& group = groups[chunk.group];
      Product down;
      down.w = args.down.rows(std::int64_t{group.expert} * K, K);
      Piece{down, forms.rows(chunk.group, args.down), chunk.begin, chunk.end}.multiply(
          kernels, z + std::int64_t{group.begin} * K + chunk.begin, K, nullptr);
    });
  }

  parallel_ranges(
      static_cast<std::size_t>(args.T), static_cast<std::size_t>(16384 / K + 1),
      [&](std::size_t begin, std::size_t end) {
        for (auto t = static_cast<std::int64_t>(begin);
             t < static_cast<std::int64_t>(end); ++t) {
          float* y = args.y + t * K;
          if (!args.residual)
            std::fill_n(y, K, 0.0f);
          else if (args.residual != args.y)
            std::memcpy(y, args.residual + t * K,
                        static_cast<std::size_t>(K) * sizeof(float));
          for (int i = 0; i < args.n_active; ++i) {
            const std::int64_t at = t * args.n_active + i;
            const float weight = args.weights[at];
            const float* from =
                z + std::int64_t{visits.of_token_i[static_cast<std::size_t>(at)]} * K;
            for (int k = 0; k < K; ++k) y[k] += weight * from[k];
          }
        }
      });
}

}  // namespace optiq::kernels
