#include <torchfeed/samplers/walk_forward.h>

#include <c10/util/Exception.h>

#include <algorithm>

namespace torchfeed::samplers {

WalkForward::WalkForward(std::size_t size, const WalkForwardOptions& options) {
  const std::size_t most = most_folds(size, options);
  const std::size_t least = std::max<std::size_t>(options.folds, 1);
  TORCH_CHECK(most >= least, "WalkForward: expected at least ",
              options.train + options.purge + options.embargo + least * options.test, " samples for ", least,
              " folds of ", options.train, " to train, ", options.purge, " purged, ", options.embargo,
              " embargoed and ", options.test, " to test, got ", size);
  const std::size_t folds = options.folds == 0 ? most : options.folds;
  for (std::size_t i = 0; i < folds; ++i) {
    const std::size_t test_begin = size - (folds - i) * options.test;
    const std::size_t train_end = test_begin - options.purge - options.embargo;
    folds_.push_back(
        {{options.expanding ? 0 : train_end - options.train, train_end}, {test_begin, test_begin + options.test}});
  }
}

std::size_t WalkForward::most_folds(std::size_t size, const WalkForwardOptions& options) {
  TORCH_CHECK(options.train > 0, "WalkForward: train: expected 1 sample or more, got 0");
  TORCH_CHECK(options.test > 0, "WalkForward: test: expected 1 sample or more, got 0");
  for (const std::size_t before_test : {options.train, options.purge, options.embargo}) {
    if (before_test > size) {
      return 0;
    }
    size -= before_test;
  }
  return size / options.test;
}

}  // namespace torchfeed::samplers
