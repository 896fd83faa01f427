#include <torchfeed/datasets/convert_csv.h>

#include <filesystem>
#include <fstream>
#include <iostream>

int main() {
  const auto folder = std::filesystem::temp_directory_path() / "torchfeed-bars-consumer";
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "a.csv") << "date,close\n2021-01-04,1\n2021-01-05,2\n";
  const auto result = torchfeed::datasets::convert_csv((folder / "a.csv").string(), folder.string(), {});
  std::filesystem::remove_all(folder);
  std::cout << result.rows << " rows\n";
}
