#pragma once

#include <string>

namespace torchfeed::threading {

/// What decides which of OpenBLAS's kernels suit.
struct CpuFeatures {
  bool avx2 = false;  // and FMA
  /// All that Intel's server processors have had since Skylake.
  bool avx512 = false;
};

/// This processor's, as far as the operating system lets programs use them.
CpuFeatures cpu_features();

/// The processor whose kernels OpenBLAS runs, by its own names ("SkylakeX"); empty without OpenBLAS, and where it was
/// built for one processor.
///
/// Debian builds OpenBLAS with kernels for each, which it chooses while it is loaded. It chooses by model number: one
/// that is younger than the library gets the kernels of a processor of 2004, without AVX (0.3.21 in Debian 12 on
/// Intel's Emerald Rapids: products of matrices at a quarter of their speed). Users set OPENBLAS_CORETYPE against that.
std::string blas_kernels();

/// The kernels to run instead of `current`: "SkylakeX" or "Haswell" where the processor has their instructions and
/// `current` has no AVX. Empty: `current` will do. A pure function.
std::string better_blas_kernels(const std::string& current, const CpuFeatures& features);

/// Lets OpenBLAS choose anew, as if OPENBLAS_CORETYPE had been `name` when it was loaded, reads it back, and computes a
/// product to see that it holds. False, and all is as before, where any of that fails. The results of products change
/// in their last bits, as other kernels add in another order. For one thread, while no other computes or reads the
/// environment: at the start of a program.
bool set_blas_kernels(const std::string& name);

}  // namespace torchfeed::threading
