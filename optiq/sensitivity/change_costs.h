// What changes of a matrix cost, by gradients that came back through the model.
#pragma once
#include <span>
#include <vector>

#include "optiq/sensitivity/backward_walk.h"
#include "optiq/sensitivity/row_sample.h"

namespace optiq::sensitivity {

/// Costs in nats, summed over the tokens, one for each change: the matrix in some
/// format less the matrix, of the sample's rows, [n, K]. Rows are taken to err by
/// themselves, so a sum over some of them stands for all.
using Costs = std::vector<double>;

/// Of a matrix inside a layer: half the square of what the gradients say of dy.
Costs costs_in_layer(const Seen& seen, const RowSample& sample,
                     const std::vector<mlx::core::array>& changes);

/// Of the output projection: the variance of the changes of logits under what the model
/// says, which needs no drawn tokens. Of sampled rows, over the share of it that they
/// have.
Costs costs_in_head(models::Model& model, std::span<const Trip> trips,
                    const RowSample& sample,
                    const std::vector<mlx::core::array>& changes);

/// Of N rows that are looked up, with the gradient by what goes into the first layer.
Costs costs_of_lookup(std::span<const Trip> trips, const RowSample& sample, int N,
                      const std::vector<mlx::core::array>& changes);

}  // namespace optiq::sensitivity
