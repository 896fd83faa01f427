#include <torchfeed/plugin/rnn/operators.h>
#include <torchfeed/plugin/rnn/rnn_setting.h>
#include <torchfeed/plugin/threading/onednn_settings.h>

namespace torchfeed::rnn {

void set_onednn_rnn(ThreadPlan& plan, threading::PlanSetter::Undo& undo) {
  // A LibTorch with a oneDNN of its own comes with an OpenMP of its own as well, and this one's threads would not be
  // held to one.
  if (plan.onednn_rnn && !threading::onednn_primitive_cache()) {
    plan.onednn_rnn = false;
    plan.reasons.emplace_back("onednn_rnn stays 0, not 1: LibTorch's oneDNN cannot be reached from outside");
  }
  const bool before = onednn_is_used();
  if (plan.onednn_rnn == before) return;
  use_onednn(plan.onednn_rnn);
  undo.emplace_back([before] { use_onednn(before); });
}

}  // namespace torchfeed::rnn
