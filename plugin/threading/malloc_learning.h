#pragma once

namespace torchfeed::threading {

/// Has malloc keep freed blocks of up to 32 MiB for the next ones, rather than give each to the system and have every
/// page of it again, zeroed: images took four times as long. glibc learns so from the first large block that is freed
/// (mallopt(3): M_MMAP_THRESHOLD), which may never be: in a worker, whose batches are in their slots, and where
/// tensors' memory is kept. Any thread.
void teach_malloc_to_keep() noexcept;

}  // namespace torchfeed::threading
