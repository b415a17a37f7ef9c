#include "server/key_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "streams/error.h"

namespace sockbroker::server {

absl::StatusOr<std::shared_ptr<KeyLog>> KeyLog::Open(const std::string& path) {
  streams::Descriptor file(open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600));
  if (!file.valid()) {
    return streams::ErrnoToStatus(errno, absl::StrCat("cannot open the key log ", path));
  }
  return std::make_shared<KeyLog>(std::move(file));
}

void KeyLog::Write(absl::string_view line) const {
  const std::string text = absl::StrCat(line, "\n");
  (void)!write(file_.get(), text.data(), text.size());
}

}  // namespace sockbroker::server
