#pragma once

namespace torchfeed::threading {

/// Has LibTorch's attention on CPUs take one BLAS thread for each product while share_openmp_team() is in force: it
/// shares heads and queries among OpenMP's threads, each of which multiplies small matrices, and OpenBLAS would take
/// all its threads for each of those, one after the other. Registers kernels that call LibTorch's own, for the life of
/// the process; calling it again does nothing. Without effect where LibTorch has no such operator (1.13). Errors:
/// c10::Error where its arguments differ. Any thread, while no attention is computed.
void give_attention_one_blas_thread();

}  // namespace torchfeed::threading
