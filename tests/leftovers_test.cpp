#include "support/leftovers.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <string>

#include "support/temp_dir.h"

namespace torchfeed::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(LeftoversTest, FindsNothingWhereNothingIsLeft) {
  const auto before = current_resources();
  close(open("/dev/zero", O_RDONLY));
  EXPECT_THAT(leftovers(before, current_resources()), IsEmpty());
}

TEST(LeftoversTest, FindsADescriptor) {
  const auto before = current_resources();
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe(ends.data()), 0);
  EXPECT_THAT(leftovers(before, current_resources()), ElementsAre("2 descriptor left: pipe"));
  close(ends[0]);
  EXPECT_THAT(leftovers(before, current_resources()), ElementsAre("1 descriptor left: pipe"));
  close(ends[1]);
  EXPECT_THAT(leftovers(before, current_resources()), IsEmpty());
}

TEST(LeftoversTest, FindsAChildUntilItIsWaitedFor) {
  const auto before = current_resources();
  const pid_t child = fork();
  if (child == 0) {
    pause();
    _exit(0);
  }
  const auto running = current_resources();
  EXPECT_THAT(leftovers(before, running),
              ElementsAre(HasSubstr("1 child process left: " + std::to_string(child) + " (")));
  kill(child, SIGKILL);
  siginfo_t info{};
  waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT);
  const auto dead = current_resources();
  EXPECT_THAT(leftovers(before, dead), ElementsAre(HasSubstr("Z (zombie)")));
  EXPECT_THAT(leftovers(running, dead), IsEmpty()) << "the same child in another state is no second one";
  waitpid(child, nullptr, 0);
  EXPECT_THAT(leftovers(before, current_resources()), IsEmpty());
}

TEST(LeftoversTest, FindsAFileInSharedMemory) {
  const TempDir dir;
  const auto before = current_resources(dir.path());
  dir.write("torchfeed.1", "x");
  EXPECT_THAT(leftovers(before, current_resources(dir.path())),
              ElementsAre("1 file in shared memory left: " + dir.file("torchfeed.1")));
}

}  // namespace
}  // namespace torchfeed::testing
