// TemporaryDirectory: a fresh directory for a test's sockets and files, gone with everything in it
// at the end.
//
//   TemporaryDirectory directory;
//   Listen("unix:" + directory.path("a.sock"));
#pragma once

#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>

namespace sockbroker::server {

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    // Not below TMPDIR, which may be long: a Unix socket's path has 107 bytes.
    std::string name = "/tmp/sockbroker-test-XXXXXX";
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    root_ = name;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(root_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  std::string path(const std::string& name) const { return root_ + "/" + name; }

 private:
  std::string root_;
};

}  // namespace sockbroker::server
