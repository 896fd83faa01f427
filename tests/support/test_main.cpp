#include <gtest/gtest.h>

#include "support/leftovers.h"

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  // Listeners hear a test's end in reverse order, so the printer tells of what this one finds.
  ::testing::UnitTest::GetInstance()->listeners().Append(new torchfeed::testing::LeftoversListener);
  return RUN_ALL_TESTS();
}
