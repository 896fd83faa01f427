#pragma once

namespace torchfeed::testing {

/// Tells on stderr, once, where each thread of this process is and what its children do, shortly before
/// TORCHFEED_TEST_TIMEOUT seconds (of the environment, set by ctest) have gone by: a test that hangs is killed then,
/// and what it hung at would not be known. Does nothing without that variable, and nothing in children. A stack is told
/// for threads that have SIGTRAP unblocked, what the kernel knows for all. Call it first thing in main.
void watch_for_hangs();

}  // namespace torchfeed::testing
