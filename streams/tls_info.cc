#include "streams/tls_info.h"

#include <arpa/inet.h>

#include <ctime>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "streams/internal/openssl.h"

namespace sockbroker::streams {
namespace {

std::string NameText(const X509_NAME* name) {
  internal::BioPtr bio(BIO_new(BIO_s_mem()));
  X509_NAME_print_ex(bio.get(), name, 0, XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB);
  char* text = nullptr;
  const auto size = BIO_get_mem_data(bio.get(), &text);
  return std::string(text, static_cast<std::size_t>(size));
}

absl::Time TimeOf(const ASN1_TIME* time) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return absl::UnixEpoch();
  return absl::FromTM(parts, absl::UTCTimeZone());
}

std::string Text(const ASN1_STRING* string) {
  return std::string(reinterpret_cast<const char*>(ASN1_STRING_get0_data(string)),
                     static_cast<std::size_t>(ASN1_STRING_length(string)));
}

std::string AddressText(const ASN1_OCTET_STRING* bytes) {
  char text[INET6_ADDRSTRLEN] = "";
  const int family = ASN1_STRING_length(bytes) == 4 ? AF_INET : AF_INET6;
  if (family == AF_INET6 && ASN1_STRING_length(bytes) != 16) return "?";
  inet_ntop(family, ASN1_STRING_get0_data(bytes), text, sizeof(text));
  return text;
}

std::vector<std::string> AltNames(const X509* certificate) {
  std::vector<std::string> texts;
  const internal::GeneralNamesPtr names(static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  for (int i = 0; names != nullptr && i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
    switch (name->type) {
      case GEN_DNS:
        texts.push_back("DNS:" + Text(name->d.dNSName));
        break;
      case GEN_URI:
        texts.push_back("URI:" + Text(name->d.uniformResourceIdentifier));
        break;
      case GEN_EMAIL:
        texts.push_back("email:" + Text(name->d.rfc822Name));
        break;
      case GEN_IPADD:
        texts.push_back("IP:" + AddressText(name->d.iPAddress));
        break;
      default:
        break;
    }
  }
  return texts;
}

std::string Fingerprint(const X509* certificate) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  X509_digest(certificate, EVP_sha256(), digest, &size);
  std::string text;
  for (unsigned int i = 0; i < size; ++i) {
    absl::StrAppend(&text, i == 0 ? "" : ":", absl::StrFormat("%02X", digest[i]));
  }
  return text;
}

std::string Serial(const X509* certificate) {
  BIGNUM* number = ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate), nullptr);
  char* hex = BN_bn2hex(number);
  std::string text = hex;
  OPENSSL_free(hex);
  BN_free(number);
  return text;
}

}  // namespace

std::optional<CertificateText> ReadCertificate(absl::string_view der) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(der.data());
  const internal::X509Ptr certificate(d2i_X509(nullptr, &bytes, static_cast<int64_t>(der.size())));
  if (certificate == nullptr) {
    ERR_clear_error();
    return std::nullopt;
  }
  return CertificateText{
      .subject = NameText(X509_get_subject_name(certificate.get())),
      .issuer = NameText(X509_get_issuer_name(certificate.get())),
      .subject_alt_names = AltNames(certificate.get()),
      .not_before = TimeOf(X509_get0_notBefore(certificate.get())),
      .not_after = TimeOf(X509_get0_notAfter(certificate.get())),
      .serial = Serial(certificate.get()),
      .sha256_fingerprint = Fingerprint(certificate.get()),
  };
}

}  // namespace sockbroker::streams
