#include <gtest/gtest.h>

#include "support/leftovers.h"
#include "support/watchdog.h"

int main(int argc, char** argv) {
  torchfeed::testing::watch_for_hangs();
  ::testing::InitGoogleTest(&argc, argv);
  // Listeners hear a test's end in reverse order, so the printer tells of what this one finds.
  ::testing::UnitTest::GetInstance()->listeners().Append(new torchfeed::testing::LeftoversListener);
  return RUN_ALL_TESTS();
}
