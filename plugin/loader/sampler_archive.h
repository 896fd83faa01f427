#pragma once

#include <torch/serialize/archive.h>

#include <sstream>
#include <string>

namespace torchfeed::loader {

/// A sampler's own archive as bytes, by the save() and load() that every torch::data sampler has.
template <typename Sampler>
std::string save_sampler(const Sampler& sampler) {
  torch::serialize::OutputArchive archive;
  sampler.save(archive);
  std::ostringstream out;
  archive.save_to(out);
  return std::move(out).str();
}

/// Throws c10::Error if `bytes` is no archive of such a sampler.
template <typename Sampler>
void load_sampler(Sampler& sampler, const std::string& bytes) {
  torch::serialize::InputArchive archive;
  std::istringstream in(bytes);
  archive.load_from(in);
  sampler.load(archive);
}

}  // namespace torchfeed::loader
