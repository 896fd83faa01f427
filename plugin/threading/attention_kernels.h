#pragma once

namespace torchfeed::threading {

/// Has LibTorch 2's attention on CPUs take one BLAS thread for each product while share_openmp_team() is in force: it
/// shares heads and queries among OpenMP's threads, each of which multiplies small matrices, and OpenBLAS would take
/// all its threads for each of those, one after the other. Registers kernels that call LibTorch's own, for the life of
/// the process; calling it again does nothing. Without effect before LibTorch 2. Errors: c10::Error where LibTorch has
/// no such operators. Any thread.
void give_attention_one_blas_thread();

}  // namespace torchfeed::threading
