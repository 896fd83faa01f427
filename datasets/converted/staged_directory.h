#pragma once

#include <filesystem>
#include <memory>
#include <string>

namespace torchfeed::datasets::converted {

/// A directory that is filled beside another's place and then takes it, all at once: whoever opens that place finds the
/// old directory or the new one, whole. One thread at a time; several processes may want the same place, of which one
/// gets it.
///
/// Throws std::system_error, with the path, where the system refuses.
class StagedDirectory {
 public:
  /// For PARENT/NAME: makes PARENT, and in it an empty directory ".NAME.torchfeed-tmp" and a file
  /// ".NAME.torchfeed-lock" that is locked until the end of this object. What an interrupted run has left is removed,
  /// or brought to its end. Throws std::runtime_error if another object, of this process or another, works on the same
  /// place.
  StagedDirectory(const std::filesystem::path& parent, const std::string& name);
  /// Removes what was not committed.
  ~StagedDirectory();
  StagedDirectory(const StagedDirectory&) = delete;
  StagedDirectory& operator=(const StagedDirectory&) = delete;

  /// Where to put the files.
  const std::filesystem::path& path() const { return path_; }
  const std::filesystem::path& target() const { return target_; }

  /// Puts it in the target's place, whose directory goes (if it cannot be removed, then with a later run). Files must
  /// have been forced to the disk.
  void commit();

  /// Removes what interrupted runs have left in PARENT, but for what others work on and what cannot be removed.
  static void remove_leftovers(const std::filesystem::path& parent);

 private:
  class Lock;

  void exchange();

  std::filesystem::path target_;
  std::filesystem::path path_;
  std::filesystem::path old_;  // where the old directory waits if the file system cannot exchange two
  std::unique_ptr<Lock> lock_;
  bool committed_ = false;
};

/// Copies a file, sharing its blocks where the file system can.
void copy_file(const std::filesystem::path& from, const std::filesystem::path& to);

/// Writes a small file and forces it to the disk.
void write_file(const std::filesystem::path& path, const std::string& text);

}  // namespace torchfeed::datasets::converted
