#include "server/control_tls.h"

#include <grpcpp/security/auth_metadata_processor.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "server/principal.h"
#include "streams/tls_context.h"

namespace sockbroker::server {
namespace {

constexpr unsigned kLookAgainSeconds = 1;  // gRPC's least

// Before every call, of whichever service: what has no identity would own handles that any other
// such certificate could use.
class IdentityDemand final : public grpc::AuthMetadataProcessor {
 public:
  // It only looks.
  bool IsBlocking() const override { return false; }

  grpc::Status Process(const InputMetadata& /*metadata*/, grpc::AuthContext* context,
                       OutputMetadata* /*consumed*/, OutputMetadata* /*response*/) override {
    if (!CertificateIdentity(*context).empty()) return grpc::Status::OK;
    return {grpc::StatusCode::UNAUTHENTICATED,
            "the client certificate names nobody: it needs a URI or a DNS name among its subject "
            "alternative names"};
  }
};

}  // namespace

absl::Status CheckControlTls(const ControlTlsFiles& files) {
  const auto result = streams::TlsContext::Create({.side = streams::TlsSide::kServer,
                                                   .ca_file = files.client_ca,
                                                   .certificate_file = files.certificate,
                                                   .private_key_file = files.key});
  if (result.ok()) return absl::OkStatus();
  return absl::Status(
      result.status().code(),
      absl::StrCat("--tls-cert ", files.certificate, ", --tls-key ", files.key,
                   ", --tls-client-ca ", files.client_ca, ": ", result.status().message()));
}

std::shared_ptr<grpc::ServerCredentials> MakeTlsCredentials(const ControlTlsFiles& files) {
  grpc::experimental::TlsServerCredentialsOptions options(
      std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
          files.key, files.certificate, files.client_ca, kLookAgainSeconds));
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  std::shared_ptr<grpc::ServerCredentials> credentials =
      grpc::experimental::TlsServerCredentials(options);
  credentials->SetAuthMetadataProcessor(std::make_shared<IdentityDemand>());
  return credentials;
}

}  // namespace sockbroker::server
