#pragma once

#include <cstddef>
#include <cstdint>

/// What libFuzzer calls with ever new bytes, and ctest with those in seeds/: reads them as a CSV file in several ways
/// and ends the process if these differ, or if anything but the reader's own errors comes out. The first two bytes
/// choose the options, the rest is the file.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
