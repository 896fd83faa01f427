#pragma once

#include <CLI/CLI.hpp>

#include "program.h"

namespace torchfeed::program {

/// Reads the command line as `app` says. False where help was asked for, which has been printed then. Throws InputError
/// for what it does not understand.
inline bool parse(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
    return true;
  } catch (const CLI::CallForHelp& help) {
    app.exit(help);
    return false;
  } catch (const CLI::ParseError& error) {
    throw InputError(error.what());
  }
}

}  // namespace torchfeed::program
