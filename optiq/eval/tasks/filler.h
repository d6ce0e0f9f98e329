// Prose to hide things in.
#pragma once
#include <string>
#include <vector>

#include "optiq/eval/tasks/random.h"

namespace optiq::eval {

/// A running text that is cut after any word; it begins at a paragraph of
/// heldout_text() and goes around where that ends.
class Filler {
 public:
  /// Begins at any paragraph.
  explicit Filler(Random& random);

  /// The first `n` words. Paragraphs are an empty line apart.
  std::string words(int n) const;

 private:
  std::size_t begin_;
};

/// A line to put into a text, about `permille` thousandths from its begin.
struct Insertion {
  int permille;
  std::string line;
};

/// The text with each line as a paragraph of its own, between sentences, in the order
/// of their depths; lines of one place keep theirs. Without sentences they all follow
/// the text's begin or end, whichever is nearer.
std::string insert(const std::string& text, std::vector<Insertion> lines);

}  // namespace optiq::eval
