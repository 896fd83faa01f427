#pragma once

#include <torchfeed/datasets/financial_dataset.h>

#include "model.h"
#include "options.h"

namespace torchfeed::finetune {

/// Measures with which --num-workers a copy of the model trains fastest on the training part, and prints that to
/// stdout: a table, and what to choose. Throws program::InputError if it trains with none.
void print_loader_choice(const Options& options, const datasets::FinancialDataset& dataset, Model model);

}  // namespace torchfeed::finetune
