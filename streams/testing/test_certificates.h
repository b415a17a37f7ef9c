// TestAuthority: certificates and keys made on the spot, so that none is kept in a file and none
// can expire.
//
//   TestAuthority authority("Test Root");
//   TestCertificate leaf = authority.Issue({.dns_names = {"localhost"}});
//   auto server = TlsContext::Create({.side = TlsSide::kServer,
//       .certificate_pem = leaf.certificate_pem, .private_key_pem = leaf.key_pem});
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace sockbroker::streams {

struct TestCertificateOptions {
  std::string common_name = "test";
  std::vector<std::string> dns_names;
  std::vector<std::string> ip_addresses;
  std::vector<std::string> uris;
  // From now; before zero: in the past. An expired certificate ends before zero.
  absl::Duration begins = -absl::Hours(1);
  absl::Duration ends = absl::Hours(24);
};

struct TestCertificate {
  std::string certificate_pem;  // behind it the intermediates, if an authority has any
  std::string key_pem;
};

// Vouched for by nobody but itself.
TestCertificate MakeSelfSigned(const TestCertificateOptions& options);

class TestAuthority {
 public:
  explicit TestAuthority(const std::string& name);
  ~TestAuthority();
  TestAuthority(TestAuthority&& other) noexcept;

  // The certificate of this authority.
  const std::string& certificate_pem() const;
  TestCertificate Issue(const TestCertificateOptions& options) const;
  // An intermediate one. What it issues comes with its certificate behind it.
  TestAuthority IssueAuthority(const std::string& name) const;

 private:
  struct State;
  explicit TestAuthority(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace sockbroker::streams
