// A PEM file that a person named on the command line.
//
//   absl::StatusOr<std::string> pem = ReadPemFile("--cacert", "ca.crt");
//   pem.status().message()  ->  "--cacert: ca.crt: No such file or directory"
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sockbroker::client {

// What the file holds. kInvalidArgument says what is wrong with it, beginning with `option`.
absl::StatusOr<std::string> ReadPemFile(absl::string_view option, const std::string& name);

// What whoever uses the files would say of them later, in their own names for them:
// kInvalidArgument with the option, the file, and what is wrong. Roots: certificates that vouch for
// others.
absl::Status CheckRoots(absl::string_view option, const std::string& name, const std::string& pem);
// A certificate with its intermediates, and its key.
struct PemFile {
  absl::string_view option;
  const std::string& name;
  const std::string& pem;
};
absl::Status CheckIdentity(const PemFile& certificate, const PemFile& key);

// Whether `pem` has a private key; one that only a passphrase opens counts too.
bool HasPrivateKey(absl::string_view pem);
bool HasEncryptedPrivateKey(absl::string_view pem);

}  // namespace sockbroker::client
