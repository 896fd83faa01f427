#pragma once

#include <torchfeed/plugin/threading/plan_setter.h>
#include <torchfeed/plugin/threading/thread_plan.h>

namespace torchfeed::rnn {

/// Puts the plan's onednn_rnn into force, as threading::PlanSetter does with the rest of a plan.
void set_onednn_rnn(ThreadPlan& plan, threading::PlanSetter::Undo& undo);

}  // namespace torchfeed::rnn
