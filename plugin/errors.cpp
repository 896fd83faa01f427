#include <torchfeed/plugin/errors.h>

#include <utility>

namespace torchfeed {

WorkerError::WorkerError(const std::string& message, int worker, std::uint64_t batch, std::vector<std::size_t> indices,
                         int signal)
    : std::runtime_error(message), worker_(worker), batch_(batch), indices_(std::move(indices)), signal_(signal) {}

}  // namespace torchfeed
