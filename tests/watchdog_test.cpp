#include "support/watchdog.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <future>
#include <string>
#include <thread>

#include "support/program_run.h"
#include "support/temp_dir.h"

namespace torchfeed::testing {
namespace {

// Run by the test below, in a process of its own.
TEST(DISABLED_Hang, OfThisAndAnotherThread) {
  std::promise<void> never;
  std::thread([&never] {
    ::pthread_setname_np(::pthread_self(), "never-ends");
    never.get_future().wait();
  }).join();
}

TEST(Watchdog, TellsWhereThreadsAreShortlyBeforeTheTimeout) {
  const TempDir dir;
  ProgramRun run({"env", "TORCHFEED_TEST_TIMEOUT=11", std::filesystem::read_symlink("/proc/self/exe").string(),
                  "--gtest_also_run_disabled_tests", "--gtest_filter=DISABLED_Hang.*"},
                 dir.file("hang"));
  ASSERT_TRUE(run.wait_for_err("watchdog: that is all")) << run.err();
  const std::string told = run.err();
  EXPECT_NE(told.find("never-ends"), std::string::npos) << told;
  EXPECT_NE(told.find("__atomic_futex_unsigned_base"), std::string::npos) << told;
}

}  // namespace
}  // namespace torchfeed::testing
