#include "streams/testing/test_certificates.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include <stdexcept>
#include <utility>

#include "absl/strings/str_cat.h"
#include "streams/internal/openssl.h"

namespace sockbroker::streams {
namespace {

using internal::BioPtr;
using internal::EvpKeyPtr;
using internal::X509Ptr;

void Require(bool condition) {
  if (!condition) throw std::runtime_error("OpenSSL: " + internal::TakeOpensslError());
}

std::string TextOf(const BioPtr& bio) {
  char* text = nullptr;
  const auto size = BIO_get_mem_data(bio.get(), &text);
  return {text, static_cast<std::size_t>(size)};
}

std::string PemOf(X509* certificate) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  Require(PEM_write_bio_X509(bio.get(), certificate) == 1);
  return TextOf(bio);
}

std::string PemOf(EVP_PKEY* key) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  Require(PEM_write_bio_PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) == 1);
  return TextOf(bio);
}

EvpKeyPtr MakeKey() {
  EvpKeyPtr key(EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", "P-256"));
  Require(key != nullptr);
  return key;
}

void AddExtension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str());
  Require(extension != nullptr);
  Require(X509_add_ext(certificate, extension, -1) == 1);
  X509_EXTENSION_free(extension);
}

// `issuer` null: it signs itself.
X509Ptr MakeCertificate(EVP_PKEY* key, const TestCertificateOptions& options, bool authority,
                        X509* issuer, EVP_PKEY* issuer_key) {
  X509Ptr certificate(X509_new());
  X509* raw = certificate.get();
  Require(X509_set_version(raw, X509_VERSION_3) == 1);
  uint64_t serial = 0;
  Require(RAND_bytes(reinterpret_cast<unsigned char*>(&serial), sizeof(serial)) == 1);
  Require(ASN1_INTEGER_set_uint64(X509_get_serialNumber(raw), serial >> 1) == 1);
  Require(X509_gmtime_adj(X509_getm_notBefore(raw), absl::ToInt64Seconds(options.begins)) !=
          nullptr);
  Require(X509_gmtime_adj(X509_getm_notAfter(raw), absl::ToInt64Seconds(options.ends)) != nullptr);
  X509_NAME* name = X509_get_subject_name(raw);
  Require(
      X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8,
                                 reinterpret_cast<const unsigned char*>(options.common_name.data()),
                                 static_cast<int>(options.common_name.size()), -1, 0) == 1);
  X509* signer = issuer == nullptr ? raw : issuer;
  Require(X509_set_issuer_name(raw, X509_get_subject_name(signer)) == 1);
  Require(X509_set_pubkey(raw, key) == 1);

  AddExtension(raw, signer, NID_subject_key_identifier, "hash");
  AddExtension(raw, signer, NID_authority_key_identifier, "keyid:always");
  AddExtension(raw, signer, NID_basic_constraints, authority ? "critical,CA:TRUE" : "CA:FALSE");
  if (authority) AddExtension(raw, signer, NID_key_usage, "critical,keyCertSign,cRLSign");
  std::string names;
  for (const auto& dns : options.dns_names) absl::StrAppend(&names, ",DNS:", dns);
  for (const auto& address : options.ip_addresses) absl::StrAppend(&names, ",IP:", address);
  for (const auto& uri : options.uris) absl::StrAppend(&names, ",URI:", uri);
  if (!names.empty()) AddExtension(raw, signer, NID_subject_alt_name, names.substr(1));
  Require(X509_sign(raw, issuer == nullptr ? key : issuer_key, EVP_sha256()) > 0);
  return certificate;
}

}  // namespace

TestCertificate MakeSelfSigned(const TestCertificateOptions& options) {
  const EvpKeyPtr key = MakeKey();
  const X509Ptr certificate =
      MakeCertificate(key.get(), options, /*authority=*/false, nullptr, nullptr);
  return {PemOf(certificate.get()), PemOf(key.get())};
}

struct TestAuthority::State {
  EvpKeyPtr key;
  X509Ptr certificate;
  std::string certificate_pem;
  std::string intermediates_pem;  // from this one up to below the root
};

TestAuthority::TestAuthority(const std::string& name) : state_(std::make_unique<State>()) {
  state_->key = MakeKey();
  state_->certificate = MakeCertificate(state_->key.get(), {.common_name = name},
                                        /*authority=*/true, nullptr, nullptr);
  state_->certificate_pem = PemOf(state_->certificate.get());
}

TestAuthority::TestAuthority(std::unique_ptr<State> state) : state_(std::move(state)) {}
TestAuthority::~TestAuthority() = default;
TestAuthority::TestAuthority(TestAuthority&& other) noexcept = default;

const std::string& TestAuthority::certificate_pem() const { return state_->certificate_pem; }

TestCertificate TestAuthority::Issue(const TestCertificateOptions& options) const {
  const EvpKeyPtr key = MakeKey();
  const X509Ptr certificate = MakeCertificate(key.get(), options, /*authority=*/false,
                                              state_->certificate.get(), state_->key.get());
  return {PemOf(certificate.get()) + state_->intermediates_pem, PemOf(key.get())};
}

TestAuthority TestAuthority::IssueAuthority(const std::string& name) const {
  auto state = std::make_unique<State>();
  state->key = MakeKey();
  state->certificate = MakeCertificate(state->key.get(), {.common_name = name}, /*authority=*/true,
                                       state_->certificate.get(), state_->key.get());
  state->certificate_pem = PemOf(state->certificate.get());
  state->intermediates_pem = state->certificate_pem + state_->intermediates_pem;
  return TestAuthority(std::move(state));
}

}  // namespace sockbroker::streams
