#pragma once

namespace torchfeed::onednn {

/// Makes the calling thread's OpenMP regions those of one thread while it lives. A primitive is made for a number of
/// threads, and would wait for ever in a forked child for those that did not come along.
class OneOpenMpThread {
 public:
  OneOpenMpThread();
  ~OneOpenMpThread();
  OneOpenMpThread(const OneOpenMpThread&) = delete;
  OneOpenMpThread& operator=(const OneOpenMpThread&) = delete;

  /// Looks up OpenMP's functions, once, of the loader of libraries, whose lock another thread may hold while a worker
  /// is forked.
  static void prepare();

 private:
  const int threads_;
};

}  // namespace torchfeed::onednn
