// TlsEngine: two of them, and a network between them that the input plays: it cuts the bytes up,
// holds them back, changes, drops, repeats and invents them.
//
// Whatever the network does, nothing is ever decrypted but what the other side wrote, in order; and
// as long as it does no harm in a direction, nothing fails there.
#define OPENSSL_SUPPRESS_DEPRECATED  // for RAND_set_rand_method: a finding must be repeatable
#include <fuzzer/FuzzedDataProvider.h>
#include <openssl/rand.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "streams/error.h"
#include "streams/tls_engine.h"
#include "tests/streams/tls_sides.h"

namespace sockbroker::streams {
namespace {

void Require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "tls_engine_fuzz: %s\n", what);
  std::abort();
}

uint64_t random_state = 1;

int RepeatableBytes(unsigned char* bytes, int count) {
  for (int i = 0; i < count; ++i) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    bytes[i] = static_cast<unsigned char>(random_state >> 56);
  }
  return 1;
}

struct Contexts {
  std::shared_ptr<const TlsContext> client;
  std::shared_ptr<const TlsContext> server;
};

const Contexts& ContextsOf(int which) {
  static const auto* const all = [] {
    auto* made = new Contexts[3];
    // Certificates are made before the random numbers become those of the input.
    made[0] = {ClientContext(), ServerContext()};
    made[1] = {MakeContext(At(TlsVersion::kTls12, ClientTlsOptions())), ServerContext()};
    TlsContextOptions client = ClientTlsOptions();
    client.certificate_pem = ClientIdentity().certificate_pem;
    client.private_key_pem = ClientIdentity().key_pem;
    TlsContextOptions server = ServerTlsOptions();
    server.ca_pem = Authority().certificate_pem();
    made[2] = {MakeContext(client), MakeContext(server)};
    return made;
  }();
  return all[which];
}

// One side, and what is under way to it.
struct Side {
  std::unique_ptr<TlsEngine> engine;
  bool done = false;
  bool closed = false;       // it sent close_notify
  bool harmed = false;       // what comes to it is no longer what was sent
  std::string sent;          // plaintext
  std::size_t received = 0;  // of the other's plaintext
  std::string network;       // to it
};

class Fuzz {
 public:
  explicit Fuzz(FuzzedDataProvider* input) : input_(input) {
    const Contexts& contexts = ContextsOf(input->ConsumeIntegralInRange(0, 2));
    sides_[0].engine = TlsEngine::Create(contexts.client, "localhost").value();
    sides_[1].engine = TlsEngine::Create(contexts.server, std::nullopt).value();
    // Most inputs should come to an established connection.
    if (input->ConsumeIntegralInRange(0, 3) != 0) {
      for (int i = 0; i < 10; ++i) {
        Shake(i % 2);
        Deliver(1 - i % 2, sides_[1 - i % 2].network.size());
      }
    }
  }

  void Run() {
    while (input_->remaining_bytes() > 0) {
      Side& side = sides_[input_->ConsumeIntegralInRange(0, 1)];
      const int index = static_cast<int>(&side - sides_);
      switch (input_->ConsumeIntegralInRange(0, 11)) {
        case 0:
        case 1:
        case 2:
          Deliver(index, input_->ConsumeIntegralInRange<std::size_t>(0, 3000));
          break;
        case 3:
          Shake(index);
          break;
        case 4:
        case 5:
          Read(index, input_->ConsumeIntegralInRange<std::size_t>(1, 50000));
          break;
        case 6:
          Write(index, input_->ConsumeIntegralInRange<std::size_t>(1, 40000));
          break;
        case 7:
          Close(index);
          break;
        case 8:
          Change(&side);
          break;
        case 9:
          Invent(&side);
          break;
        case 10:
          DropOrRepeat(&side);
          break;
        default:
          Count(index);
          break;
      }
    }
    // Then the network is good: what was not harmed arrives in full.
    for (int i = 0; i < 6; ++i) {
      for (const int index : {0, 1}) {
        Deliver(index, sides_[index].network.size());
        Shake(index);
        Read(index, 1 << 20);
      }
    }
    for (const int index : {0, 1}) {
      const Side& side = sides_[index];
      if (!side.harmed && !sides_[1 - index].harmed && side.done) {
        Require(side.received == sides_[1 - index].sent.size(), "data is missing");
      }
    }
  }

 private:
  void Carry(int from) {
    sides_[1 - from].network += std::string(sides_[from].engine->TakeCiphertext());
  }

  void Deliver(int to, std::size_t size) {
    Side& side = sides_[to];
    size = std::min(size, side.network.size());
    side.engine->FeedCiphertext(absl::Cord(side.network.substr(0, size)));
    side.network.erase(0, size);
  }

  void Examine(int index, TlsEngine::Result result) {
    const Side& side = sides_[index];
    Require((result == TlsEngine::Result::kError) == !side.engine->error().ok(),
            "an error without a reason, or a reason without an error");
    if (result != TlsEngine::Result::kError) return;
    Require(IsTlsError(side.engine->error()), "an error that is none of TLS");
    // A side that hears an alert, or nothing any more, fails too.
    Require(side.harmed || sides_[1 - index].harmed, "failed on a good network");
  }

  void Shake(int index) {
    Side& side = sides_[index];
    if (side.done) return;
    const TlsEngine::Result result = side.engine->Handshake();
    Carry(index);
    if (!side.closed) Examine(index, result);
    side.done = result == TlsEngine::Result::kDone;
  }

  void Read(int index, std::size_t max) {
    Side& side = sides_[index];
    if (!side.done) return;
    absl::Cord plain;
    const TlsEngine::Result result = side.engine->Read(&plain, max);
    Carry(index);
    const std::string& sent = sides_[1 - index].sent;
    const std::string text(plain);
    Require(text.size() <= sent.size() - side.received, "more than was sent");
    Require(sent.compare(side.received, text.size(), text) == 0, "other bytes than were sent");
    side.received += text.size();
    if (result == TlsEngine::Result::kClosed) {
      Require(sides_[1 - index].closed, "closed by nobody");
      Require(side.received == sent.size(), "closed before the data");
    }
    Examine(index, result);
  }

  void Write(int index, std::size_t size) {
    Side& side = sides_[index];
    if (!side.done || side.closed) return;
    std::string text(size, '\0');
    RepeatableBytes(reinterpret_cast<unsigned char*>(text.data()), static_cast<int>(size));
    absl::Cord plain;
    // In pieces, as data comes from a network.
    for (std::size_t at = 0; at < size; at += 5000) plain.Append(text.substr(at, 5000));
    const TlsEngine::Result result = side.engine->Write(&plain);
    Carry(index);
    Require(result != TlsEngine::Result::kDone || plain.empty(), "a part was not written");
    side.sent += text.substr(0, size - plain.size());
    Examine(index, result);
  }

  void Close(int index) {
    Side& side = sides_[index];
    if (!side.done) return;
    const TlsEngine::Result result = side.engine->SendCloseNotify();
    Carry(index);
    side.closed |= result == TlsEngine::Result::kDone;
    Examine(index, result);
  }

  void Count(int index) {
    const uint64_t within = sides_[index].engine->PlaintextWithin(~uint64_t{0});
    Require(within == sides_[index].sent.size(), "sent and counted differ");
  }

  void Change(Side* side) {
    if (side->network.empty()) return;
    const auto at = input_->ConsumeIntegralInRange<std::size_t>(0, side->network.size() - 1);
    side->network[at] =
        static_cast<char>(side->network[at] ^ input_->ConsumeIntegralInRange<int>(1, 255));
    side->harmed = true;
  }

  void Invent(Side* side) {
    const std::string bytes = input_->ConsumeRandomLengthString(200);
    if (bytes.empty()) return;
    const auto at = input_->ConsumeIntegralInRange<std::size_t>(0, side->network.size());
    side->network.insert(at, bytes);
    side->harmed = true;
  }

  void DropOrRepeat(Side* side) {
    if (side->network.empty()) return;
    const auto at = input_->ConsumeIntegralInRange<std::size_t>(0, side->network.size() - 1);
    const auto size = input_->ConsumeIntegralInRange<std::size_t>(1, 500);
    if (input_->ConsumeBool()) {
      side->network.erase(at, size);
    } else {
      side->network.insert(at, side->network.substr(at, size));
    }
    side->harmed = true;
  }

  FuzzedDataProvider* const input_;
  Side sides_[2];
};

}  // namespace
}  // namespace sockbroker::streams

extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
  using namespace sockbroker::streams;  // NOLINT(google-build-using-namespace)
  (void)ContextsOf(0);
  static const RAND_METHOD method = {nullptr, RepeatableBytes, nullptr,
                                     nullptr, RepeatableBytes, [] { return 1; }};
  RAND_set_rand_method(&method);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sockbroker::streams;  // NOLINT(google-build-using-namespace)
  random_state = 1;
  FuzzedDataProvider input(data, size);
  Fuzz(&input).Run();
  return 0;
}
