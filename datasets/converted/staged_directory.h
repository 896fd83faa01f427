#pragma once

#include <filesystem>
#include <string>

namespace torchfeed::datasets::converted {

/// A directory that is filled beside another's place and then takes it, all at once: whoever opens that place finds the
/// old directory or the new one, whole. One thread at a time; several processes may want the same place, of which one
/// gets it.
///
/// Throws std::system_error, with the path, where the system refuses.
class StagedDirectory {
 public:
  /// For PARENT/NAME: makes PARENT, and in it an empty directory ".NAME.torchfeed-tmp", which is locked until the end.
  /// What an interrupted run has left of it is removed, or brought to its end. Throws std::runtime_error if another
  /// process works on it.
  StagedDirectory(const std::filesystem::path& parent, const std::string& name);
  /// Removes what was not committed.
  ~StagedDirectory();
  StagedDirectory(const StagedDirectory&) = delete;
  StagedDirectory& operator=(const StagedDirectory&) = delete;

  /// Where to put the files.
  const std::filesystem::path& path() const { return path_; }
  const std::filesystem::path& target() const { return target_; }

  /// Puts it in the target's place, whose directory goes. Files must have been forced to the disk.
  void commit();

  /// Removes what interrupted runs have left in PARENT, but for directories that others work on.
  static void remove_leftovers(const std::filesystem::path& parent);

 private:
  void lock();
  void exchange();

  std::filesystem::path target_;
  std::filesystem::path path_;
  std::filesystem::path old_;  // where the old directory waits if the file system cannot exchange two
  int lock_ = -1;
  bool committed_ = false;
};

/// Copies a file, sharing its blocks where the file system can.
void copy_file(const std::filesystem::path& from, const std::filesystem::path& to);

/// Writes a small file and forces it to the disk.
void write_file(const std::filesystem::path& path, const std::string& text);

}  // namespace torchfeed::datasets::converted
