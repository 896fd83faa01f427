#pragma once

#include <torchfeed/datasets/financial/instrument.h>
#include <torchfeed/datasets/financial_options.h>
#include <torchfeed/datasets/npy/mapped_file.h>

#include <string>
#include <vector>

namespace torchfeed::datasets::financial {

/// The columns that features have in rows, a name a number: macd_12_26_9 is macd_12_26_9, macd_12_26_9_signal and
/// macd_12_26_9_hist. A name that is no feature stays, as that of a column of the data. In lower case.
std::vector<std::string> feature_columns(const std::vector<std::string>& features);

/// What FinancialDataset reads when it is told no features: those that all of the instruments have. Throws `DataError`
/// if there is none.
std::vector<std::string> default_features(const std::vector<Instrument>& instruments);

/// Instruments in the order of the paths: CSV files, directories that `convert` wrote, and directories of such, in the
/// order of their names. Throws `DataError` for what is none of these or has a fault.
std::vector<Instrument> load_instruments(const std::vector<std::string>& paths, const FinancialOptions& options);

/// The rows of a CSV file, in memory.
Instrument load_csv(const std::string& path, const FinancialOptions& options);

/// The rows in a directory that `convert` wrote, mapped.
/// Of one version, even if it is replaced meanwhile. Throws `DataError` for what `convert` does not write.
Instrument open_converted(const std::string& path, FileAccess access);

}  // namespace torchfeed::datasets::financial
