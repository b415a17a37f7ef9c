#include "story.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "google/protobuf/util/json_util.h"
#include "google/protobuf/util/message_differencer.h"
#include "session/broker_session.h"
#include "session/client_session.h"

namespace sockbroker::session {
namespace {

using google::protobuf::Struct;
using google::protobuf::Value;

// --- JSON

const Value* Get(const Struct& object, const std::string& key) {
  const auto found = object.fields().find(key);
  return found == object.fields().end() ? nullptr : &found->second;
}
std::string Text(const Struct& object, const std::string& key, const std::string& otherwise = "") {
  const Value* value = Get(object, key);
  return value == nullptr ? otherwise : value->string_value();
}
uint64_t Number(const Struct& object, const std::string& key, uint64_t otherwise = 0) {
  const Value* value = Get(object, key);
  return value == nullptr ? otherwise : static_cast<uint64_t>(value->number_value());
}
std::string Bytes(const Struct& object, const std::string& key) {
  std::string bytes;
  (void)absl::Base64Unescape(Text(object, key), &bytes);
  return bytes;
}
const Struct& Object(const Struct& object, const std::string& key) {
  static const Struct kNone;
  const Value* value = Get(object, key);
  return value == nullptr ? kNone : value->struct_value();
}
// The message that it is the JSON form of.
template <typename Message>
absl::StatusOr<Message> Parse(const Value& value) {
  std::string json;
  Message message;
  auto status = google::protobuf::util::MessageToJsonString(value, &json);
  if (status.ok()) status = google::protobuf::util::JsonStringToMessage(json, &message);
  if (!status.ok()) return absl::InvalidArgumentError(std::string(status.message()));
  return message;
}
template <typename Message>
Message ParseMember(const Struct& object, const std::string& key, absl::Status* fault) {
  const Value* value = Get(object, key);
  if (value == nullptr) return {};
  absl::StatusOr<Message> message = Parse<Message>(*value);
  if (message.ok()) return *std::move(message);
  fault->Update(message.status());
  return {};
}
std::string Json(const google::protobuf::Message& message) {
  std::string json;
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  (void)google::protobuf::util::MessageToJsonString(message, &json, options);
  return json;
}

// An entry of what an application was told or a socket was asked to do, as in the story.
class Entry {
 public:
  explicit Entry(const std::string& what) { Set("what", what); }
  Entry& Set(const std::string& key, const std::string& text) {
    (*object_.mutable_fields())[key].set_string_value(text);
    return *this;
  }
  Entry& Set(const std::string& key, uint64_t number) {
    (*object_.mutable_fields())[key].set_number_value(static_cast<double>(number));
    return *this;
  }
  Entry& SetBytes(const std::string& key, absl::string_view bytes) {
    return Set(key, absl::Base64Escape(bytes));
  }
  const Struct& object() const { return object_; }

 private:
  Struct object_;
};

using Log = std::vector<Struct>;

// Bytes that come in one piece or in several are the same bytes.
void AddBytes(Log* log, const std::string& what, const std::string& name, const absl::Cord& bytes) {
  std::string all(bytes);
  if (!log->empty() && Text(log->back(), "what") == what && Text(log->back(), "name") == name) {
    all = Bytes(log->back(), "data") + all;
    log->pop_back();
  }
  Entry entry(what);
  if (!name.empty()) entry.Set("name", name);
  log->push_back(entry.SetBytes("data", all).object());
}

absl::Status Compare(const Log& actual, const Value& expected) {
  Value as_value;
  for (const Struct& entry : actual) {
    *as_value.mutable_list_value()->add_values()->mutable_struct_value() = entry;
  }
  if (actual.empty()) as_value.mutable_list_value();
  if (google::protobuf::util::MessageDifferencer::Equals(as_value, expected)) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("got ", Json(as_value), " instead of ", Json(expected)));
}

// --- frames

void DropTexts(google::rpc::Status* status) { status->clear_message(); }
// Texts are for people: no story has them.
void DropTexts(v1::ClientFrame* /*frame*/) {}
void DropTexts(v1::BrokerFrame* frame) {
  if (frame->has_failed()) DropTexts(frame->mutable_failed()->mutable_status());
}

template <typename Frame>
absl::StatusOr<std::vector<Frame>> ParseFrames(const Value& frames) {
  std::vector<Frame> parsed;
  for (const Value& value : frames.list_value().values()) {
    absl::StatusOr<Frame> frame = Parse<Frame>(value);
    if (!frame.ok()) return frame.status();
    parsed.push_back(*std::move(frame));
  }
  return parsed;
}

// What an end said, against the story. Pings are an end's own choice: only stories about them have
// them.
template <typename Frames, typename Frame>
absl::Status CompareMessage(const absl::Cord& message, const Value& expected, bool with_pings) {
  Frames said;
  if (!said.ParseFromString(std::string(message))) return absl::InternalError("it can't be read");
  absl::StatusOr<std::vector<Frame>> wanted = ParseFrames<Frame>(expected);
  if (!wanted.ok()) return wanted.status();
  Frames story;
  for (const Frame& frame : *wanted) *story.add_frames() = frame;
  Frames actual;
  for (Frame& frame : *said.mutable_frames()) {
    if (frame.has_ping() && !with_pings) continue;
    DropTexts(&frame);
    *actual.add_frames() = std::move(frame);
  }
  if (google::protobuf::util::MessageDifferencer::Equals(actual, story)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("said ", Json(actual), " instead of ", Json(story)));
}

template <typename Frame>
absl::StatusOr<absl::Cord> Message(const Value& frames) {
  absl::StatusOr<std::vector<Frame>> parsed = ParseFrames<Frame>(frames);
  if (!parsed.ok()) return parsed.status();
  FrameWriter writer;
  for (const Frame& frame : *parsed) writer.Add(frame);
  return writer.Take();
}

// --- what both ends share

// One end of all the sessions of a story.
class End {
 public:
  virtual ~End() = default;
  // A message of its own is due: compares it.
  virtual absl::Status Says(const std::string& session, const Value& frames) = 0;
  // A message arrives.
  virtual absl::Status Hears(const std::string& session, const Value& frames) = 0;
  virtual absl::Status Link(const std::string& session, bool up) = 0;
  virtual absl::Status Time(absl::Duration passed) = 0;
  // This end has found a fault that ends the session.
  virtual absl::StatusOr<int> Refused(const std::string& session) = 0;
  // A step of this end's own.
  virtual absl::Status Step(const Struct& step) = 0;
  // Nothing is left that the story does not have.
  virtual absl::Status Finish() = 0;
};

absl::Status Run(const Struct& story, const std::string& end, End* this_end) {
  const std::string other = end == "client" ? "broker" : "client";
  int number = 0;
  for (const Value& value : Get(story, "steps")->list_value().values()) {
    ++number;
    const Struct& step = value.struct_value();
    const std::string session = Text(step, "session", "A");
    const std::string when = Text(step, "when", "sent and received");
    absl::Status status;
    if (const Value* own = Get(step, end)) {
      if (when != "received") status = this_end->Says(session, *own);
    } else if (const Value* foreign = Get(step, other)) {
      if (when != "sent" && when != "lost") status = this_end->Hears(session, *foreign);
    } else if (Get(step, "link") != nullptr) {
      status = this_end->Link(session, Text(step, "link") == "up");
    } else if (Get(step, "time_ms") != nullptr) {
      status = this_end->Time(absl::Milliseconds(Number(step, "time_ms")));
    } else if (Get(step, "refused_by") != nullptr) {
      if (Text(step, "refused_by") == end) {
        const absl::StatusOr<int> code = this_end->Refused(session);
        status = code.status();
        if (code.ok() && *code != static_cast<int>(Number(step, "code"))) {
          status = absl::FailedPreconditionError(absl::StrCat("refused with code ", *code));
        }
      }
    } else {
      status = this_end->Step(step);
    }
    if (!status.ok()) {
      return absl::Status(status.code(),
                          absl::StrCat(end, ", step ", number, ": ", status.message()));
    }
  }
  if (absl::Status status = this_end->Finish(); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat(end, ", at the end: ", status.message()));
  }
  return absl::OkStatus();
}

// One session at its end, with what it has to say and what it was found guilty of.
template <typename Session>
struct Stream {
  std::unique_ptr<Session> session;
  absl::Status fault;
};

// --- the client's end

class ClientEnd final : public End {
 public:
  explicit ClientEnd(const Struct& story) : story_(story) {}

  absl::Status Says(const std::string& session, const Value& frames) override {
    return CompareMessage<v1::ClientFrames, v1::ClientFrame>(
        Of(session).session->NextBatch(now_), frames, Get(story_, "pings") != nullptr);
  }
  absl::Status Hears(const std::string& session, const Value& frames) override {
    Stream<ClientSession>& stream = Of(session);
    const absl::StatusOr<absl::Cord> message = Message<v1::BrokerFrame>(frames);
    if (!message.ok()) return message.status();
    stream.fault = stream.session->OnMessage(*message, now_);
    return absl::OkStatus();
  }
  absl::Status Link(const std::string& session, bool up) override {
    up ? Of(session).session->OnLinkUp() : Of(session).session->OnLinkDown();
    return absl::OkStatus();
  }
  absl::Status Time(absl::Duration passed) override {
    now_ += passed;
    for (auto& [name, stream] : streams_) {
      if (passed >= kAckDelay && stream.session->HasPendingAcks()) stream.session->AckPending();
    }
    return absl::OkStatus();
  }
  absl::StatusOr<int> Refused(const std::string& session) override {
    return std::exchange(Of(session).fault, absl::OkStatus()).raw_code();
  }
  absl::Status Step(const Struct& step) override {
    if (const Value* told = Get(step, "told")) {
      return Compare(std::exchange(told_, {}), *told);
    }
    if (Get(step, "application") == nullptr) return absl::OkStatus();
    return Do(Text(step, "session", "A"), Object(step, "application"));
  }
  absl::Status Finish() override {
    for (auto& [name, stream] : streams_) {
      if (!stream.fault.ok()) return stream.fault;
      if (absl::Status status = CompareMessage<v1::ClientFrames, v1::ClientFrame>(
              stream.session->NextBatch(now_), {}, false);
          !status.ok()) {
        return status;
      }
    }
    Value none;
    none.mutable_list_value();
    return Compare(told_, none);
  }

 private:
  class Application final : public ClientListener {
   public:
    Application(Log* log, std::string name) : log_(log), name_(std::move(name)) {}
    void OnBound(const v1::Connection& connection, uint64_t epoch) override {
      log_->push_back(
          Named("bound").SetBytes("handle", connection.handle()).Set("epoch", epoch).object());
    }
    void OnData(absl::Cord bytes) override { AddBytes(log_, "data", name_, bytes); }
    void OnEof() override { log_->push_back(Named("eof").object()); }
    void OnTlsStarted(const v1::TlsInfo&) override {
      log_->push_back(Named("tls_started").object());
    }
    void OnProgress() override {}
    void OnWriteClosed(const google::rpc::Status& status) override {
      log_->push_back(Named("write_closed").Set("code", status.code()).object());
    }
    void OnClosed(const v1::Closed& closed) override {
      Last(Named("closed").Set("code", closed.status().code()));
    }
    void OnFailed(const google::rpc::Status& status) override {
      Last(Named("failed").Set("code", status.code()));
    }
    void OnDetached() override { Last(Named("detached")); }
    void OnFenced(uint64_t epoch) override { Last(Named("fenced").Set("epoch", epoch)); }
    void OnLost(const v1::Offsets& last) override {
      Last(Named("lost")
               .Set("read_offset", last.read_offset())
               .Set("read_kept", last.read_kept())
               .Set("write_offset", last.write_offset())
               .Set("flushed", last.flushed()));
    }

    ClientChannel* channel = nullptr;  // null before it is made, and after its last call

   private:
    Entry Named(const std::string& what) const { return Entry(what).Set("name", name_); }
    void Last(const Entry& entry) {
      log_->push_back(entry.object());
      channel = nullptr;
    }
    Log* const log_;
    const std::string name_;
  };

  class Acceptor final : public AcceptListener {
   public:
    Acceptor(ClientEnd* end, std::string name) : end_(end), name_(std::move(name)) {}
    ClientListener* OnAccepted(ClientChannel* channel, const v1::Connection& connection) override {
      const std::string name = absl::StrCat(name_, ++accepted_);
      end_->told_.push_back(
          Entry("accepted").Set("name", name).SetBytes("handle", connection.handle()).object());
      Application* application = end_->Make(name);
      application->channel = channel;
      return application;
    }
    void OnFailed(const google::rpc::Status& status) override {
      end_->told_.push_back(Entry("failed").Set("name", name_).Set("code", status.code()).object());
    }
    uint32_t id = 0;

   private:
    ClientEnd* const end_;
    const std::string name_;
    int accepted_ = 0;
  };

  Stream<ClientSession>& Of(const std::string& name) {
    Stream<ClientSession>& stream = streams_[name];
    if (stream.session == nullptr) {
      stream.session = std::make_unique<ClientSession>(
          Bytes(Object(story_, "holders"), name), Number(Object(story_, "client"), "window", 64));
    }
    return stream;
  }
  Application* Make(const std::string& name) {
    return (applications_[name] = std::make_unique<Application>(&told_, name)).get();
  }

  absl::Status Do(const std::string& session_name, const Struct& action) {
    ClientSession& session = *Of(session_name).session;
    const std::string what = Text(action, "do");
    const std::string name = Text(action, "name");
    absl::Status fault;
    if (what == "open") {
      Application* application = Make(name);
      application->channel =
          session.Open(ParseMember<v1::OpenConnectionRequest>(action, "tcp", &fault), application);
      return fault;
    }
    if (what == "bind") {
      std::optional<Position> read;
      if (const Value* value = Get(action, "read")) {
        read = {Number(value->struct_value(), "offset"),
                static_cast<uint32_t>(Number(value->struct_value(), "marks"))};
      }
      Application* application = Make(name);
      application->channel =
          session.Bind(Bytes(action, "handle"), Get(action, "steal") != nullptr, read, application);
      return absl::OkStatus();
    }
    if (what == "listen") {
      auto& acceptor = acceptors_[name];
      acceptor = std::make_unique<Acceptor>(this, name);
      acceptor->id =
          session.Listen(Bytes(action, "server"), static_cast<uint32_t>(Number(action, "credits")),
                         acceptor.get());
      return absl::OkStatus();
    }
    if (what == "credits" || what == "stop_listening") {
      const uint32_t id = acceptors_[name]->id;
      what == "credits" ? session.AddCredits(id, static_cast<uint32_t>(Number(action, "credits")))
                        : session.StopListening(id);
      return absl::OkStatus();
    }
    const auto found = applications_.find(name);
    if (found == applications_.end() || found->second->channel == nullptr) {
      return absl::FailedPreconditionError(absl::StrCat("there is no connection ", name));
    }
    ClientChannel* channel = found->second->channel;
    if (what == "write") {
      channel->Write(absl::Cord(Bytes(action, "data")));
    } else if (what == "eof") {
      channel->WriteEof();
    } else if (what == "start_tls") {
      channel->StartTls(ParseMember<v1::TlsOptions>(action, "tls", &fault), {});
    } else if (what == "close") {
      channel->Close();
    } else if (what == "abort") {
      channel->Abort();
    } else if (what == "detach") {
      channel->Detach();
    } else if (what == "consume") {
      channel->Consume(Number(action, "bytes"));
    } else {
      return absl::InvalidArgumentError(absl::StrCat("nothing is known of ", what));
    }
    return fault;
  }

  const Struct& story_;
  absl::Time now_ = absl::UnixEpoch();
  Log told_;
  std::map<std::string, std::unique_ptr<Application>> applications_;
  std::map<std::string, std::unique_ptr<Acceptor>> acceptors_;
  std::map<std::string, Stream<ClientSession>> streams_;
};

// --- the broker's end

class BrokerEnd final : public End {
 public:
  explicit BrokerEnd(const Struct& story) : story_(story) {}

  absl::Status Says(const std::string& session, const Value& frames) override {
    return CompareMessage<v1::BrokerFrames, v1::BrokerFrame>(
        Of(session).session->NextBatch(now_), frames, Get(story_, "pings") != nullptr);
  }
  absl::Status Hears(const std::string& session, const Value& frames) override {
    Stream<BrokerSession>& stream = Of(session);
    const absl::StatusOr<absl::Cord> message = Message<v1::ClientFrame>(frames);
    if (!message.ok()) return message.status();
    stream.fault = stream.session->OnMessage(*message, now_);
    return absl::OkStatus();
  }
  absl::Status Link(const std::string& session, bool up) override {
    if (up) {
      auto& stream = streams_[session];
      stream.host = std::make_unique<Host>(this);
      BrokerSession::Options options;
      options.broker_id = Bytes(Object(story_, "broker"), "broker_id");
      options.incarnation = Number(Object(story_, "broker"), "incarnation", 1) + deaths_;
      options.initial_window = Number(Object(story_, "broker"), "initial_window", 16);
      options.max_channels =
          static_cast<uint32_t>(Number(Object(story_, "broker"), "max_channels", 100));
      stream.session = std::make_unique<BrokerSession>(options, stream.host.get());
      stream.fault = absl::OkStatus();
    } else {
      Of(session).session->OnLinkDown();
      streams_.erase(session);
    }
    return absl::OkStatus();
  }
  absl::Status Time(absl::Duration passed) override {
    now_ += passed;
    for (auto& [name, stream] : streams_) {
      if (passed >= kAckDelay && stream.session->HasPendingAcks()) stream.session->AckPending();
    }
    return absl::OkStatus();
  }
  absl::StatusOr<int> Refused(const std::string& session) override {
    return std::exchange(Of(session).fault, absl::OkStatus()).raw_code();
  }
  absl::Status Step(const Struct& step) override {
    if (Get(step, "asked") != nullptr) {
      Socket& socket = SocketOf(Text(step, "socket"));
      return Compare(std::exchange(socket.asked, {}), *Get(step, "asked"));
    }
    if (Get(step, "peer") != nullptr) return Happens(SocketOf(Text(step, "socket")), step);
    if (Get(step, "host") == nullptr) return absl::OkStatus();
    return Decide(Text(step, "session", "A"), step);
  }
  absl::Status Finish() override {
    for (auto& [name, stream] : streams_) {
      if (!stream.fault.ok()) return stream.fault;
      if (absl::Status status = CompareMessage<v1::BrokerFrames, v1::BrokerFrame>(
              stream.session->NextBatch(now_), {}, false);
          !status.ok()) {
        return status;
      }
      stream.session->OnLinkDown();
    }
    return absl::OkStatus();
  }

 private:
  // A connection's socket, and what the broker keeps of it between bindings.
  class Socket final : public BrokerConnection {
   public:
    absl::Cord Read(std::size_t max, std::size_t /*retained*/) override {
      absl::Cord bytes = incoming.Subcord(0, max);
      incoming.RemovePrefix(bytes.size());
      read_offset += bytes.size();
      return bytes;
    }
    bool AtEof() const override { return incoming.empty() && eof; }
    bool Exhausted() const override { return incoming.empty() && (eof || gone.has_value()); }
    ReadMarkLog& read_marks() override { return marks; }
    absl::Status Write(absl::Cord bytes) override {
      AddBytes(&asked, "write", "", bytes);
      return absl::OkStatus();
    }
    uint64_t Flushed() const override { return flushed; }
    void WriteEof() override { asked.push_back(Entry("eof").object()); }
    void StartTls(const v1::SessionStartTls&, absl::Cord taken_back) override {
      // All that is there already is the handshake's.
      taken_back.Append(std::exchange(incoming, absl::Cord()));
      asked.push_back(Entry("start_tls").SetBytes("data", std::string(taken_back)).object());
    }
    void Close() override { asked.push_back(Entry("close").object()); }
    void Abort() override { asked.push_back(Entry("abort").object()); }
    void Unbind(Position at, absl::Cord unread, Position written) override {
      // Keeps what follows behind what was not taken.
      unread.Append(std::exchange(incoming, absl::Cord()));
      incoming = std::move(unread);
      read = at;
      read_offset = at.offset;
      write = written;
      channel = nullptr;
      Entry entry("unbound");
      const auto set = [&](const std::string& key, uint64_t number) {
        if (number > 0) entry.Set(key, number);
      };
      set("read", at.offset);
      set("read_marks", at.marks);
      if (!incoming.empty()) entry.SetBytes("unread", std::string(incoming));
      set("write", written.offset);
      set("write_marks", written.marks);
      asked.push_back(entry.object());
    }

    absl::Cord incoming;
    uint64_t read_offset = 0;
    bool eof = false;
    uint64_t flushed = 0;
    std::optional<v1::Closed> gone;
    ReadMarkLog marks;
    Log asked;
    uint64_t epoch = 0;
    Position read;
    Position write;
    v1::Connection info;
    BrokerChannel* channel = nullptr;
  };

  struct Host final : public BrokerSession::Host {
    explicit Host(BrokerEnd* broker) : end(broker) {}
    void Open(v1::Open) override {}
    void Bind(v1::Bind request, const std::string&) override { binds[request.channel()] = request; }
    void Listen(v1::Listen request) override { credits[request.channel()] += request.credits(); }
    void StopListening(uint32_t channel) override { credits.erase(channel); }
    void Claimed(BrokerConnection* connection) override {
      static_cast<Socket*>(connection)->asked.push_back(Entry("claimed").object());
    }
    uint64_t GrowWindow(BrokerConnection*, uint64_t window) override { return window; }
    void ShrinkWindow(BrokerConnection*, uint64_t) override {}
    void OnRoom() override {}
    BrokerEnd* const end;
    std::map<uint32_t, v1::Bind> binds;
    std::map<uint32_t, uint32_t> credits;
  };
  struct HostedStream : Stream<BrokerSession> {
    std::unique_ptr<Host> host;
  };

  HostedStream& Of(const std::string& name) { return streams_.at(name); }
  Socket& SocketOf(const std::string& name) {
    auto& socket = sockets_[name];
    if (socket == nullptr) socket = std::make_shared<Socket>();
    return *socket;
  }

  BrokerSession::Binding Bind(const std::string& name, const v1::Bind* request) {
    Socket& socket = SocketOf(name);
    socket.epoch++;
    if (socket.channel != nullptr) socket.channel->Fence(socket.epoch);
    BrokerSession::Binding binding;
    binding.read = socket.read;
    if (request != nullptr && request->has_read()) {
      uint64_t offset = request->read().offset();
      if (offset >= socket.marks.void_from && offset < socket.marks.void_to) {
        offset = socket.marks.void_to;
      }
      if (offset > socket.read_offset) {
        (void)socket.Read(offset - socket.read_offset, 0);  // the client has it
      }
      const auto& log = socket.marks.entries;
      binding.read = {offset, static_cast<uint32_t>(std::count_if(
                                  log.begin(), log.end(),
                                  [&](const auto& mark) { return mark.offset < offset; }))};
      if (request->epoch() != 0) {
        binding.read.marks = std::max(binding.read.marks, request->read().marks());
      }
    }
    binding.connection = sockets_[name];
    binding.info = socket.info;
    binding.epoch = socket.epoch;
    binding.write = socket.write;
    binding.window = Number(Object(story_, "broker"), "window", 32);
    return binding;
  }

  absl::Status Decide(const std::string& session_name, const Struct& step) {
    const std::string what = Text(step, "host");
    const auto channel = static_cast<uint32_t>(Number(step, "channel"));
    const std::string name = Text(step, "socket");
    absl::Status fault;
    if (what == "dies") {
      // Another broker, which knows nothing, begins in its place.
      deaths_++;
      sockets_.clear();
      return absl::OkStatus();
    }
    HostedStream& stream = Of(session_name);
    if (what == "opens" || what == "accepts") {
      Socket& socket = SocketOf(name);
      socket.info = ParseMember<v1::Connection>(step, "connection", &fault);
      if (what == "opens") {
        socket.channel = stream.session->Opened(channel, Bind(name, nullptr));
      } else {
        if (stream.host->credits[channel] == 0) {
          return absl::FailedPreconditionError("the client has given no credit for it");
        }
        socket.channel = stream.session->Accepted(channel, Bind(name, nullptr));
        if (socket.channel != nullptr) stream.host->credits[channel]--;
      }
    } else if (what == "binds") {
      const auto request = stream.host->binds.find(channel);
      SocketOf(name).channel = stream.session->Bound(
          channel, Bind(name, request == stream.host->binds.end() ? nullptr : &request->second));
    } else if (what == "fails") {
      stream.session->Failed(channel, ParseMember<google::rpc::Status>(step, "status", &fault));
    } else if (what == "is closed") {
      stream.session->Closed(channel, ParseMember<v1::Closed>(step, "closed", &fault));
    } else if (what == "revokes") {
      SocketOf(name).channel->Revoke(Number(step, "window"));
    } else if (what == "goes away") {
      stream.session->GoAway(absl::Seconds(Number(step, "seconds")));
    } else {
      return absl::InvalidArgumentError(absl::StrCat("nothing is known of ", what));
    }
    return fault;
  }

  static absl::Status Happens(Socket& socket, const Struct& step) {
    const std::string what = Text(step, "peer");
    absl::Status fault;
    if (what == "sends") {
      socket.incoming.Append(Bytes(step, "data"));
      if (socket.channel != nullptr) socket.channel->OnReadable();
    } else if (what == "ends") {
      socket.eof = true;
      if (socket.channel != nullptr) socket.channel->OnReadable();
    } else if (what == "takes") {
      socket.flushed = Number(step, "flushed");
      if (socket.channel != nullptr) socket.channel->OnFlushed();
    } else if (what == "takes no more") {
      auto status = ParseMember<google::rpc::Status>(step, "status", &fault);
      if (socket.channel != nullptr) socket.channel->OnWriteClosed(std::move(status));
    } else if (what == "finishes the handshake") {
      socket.marks.EndUpgrade({});
      if (socket.channel != nullptr) socket.channel->OnTlsStarted();
    } else if (what == "is gone") {
      socket.gone = ParseMember<v1::Closed>(step, "closed", &fault);
      if (socket.channel != nullptr) socket.channel->OnGone(*socket.gone);
    } else {
      return absl::InvalidArgumentError(absl::StrCat("nothing is known of ", what));
    }
    return fault;
  }

  const Struct& story_;
  absl::Time now_ = absl::UnixEpoch();
  uint64_t deaths_ = 0;
  std::map<std::string, std::shared_ptr<Socket>> sockets_;
  std::map<std::string, HostedStream> streams_;
};

}  // namespace

absl::StatusOr<Struct> ReadStory(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  Struct story;
  const auto status = google::protobuf::util::JsonStringToMessage(text.str(), &story);
  if (!status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", std::string(status.message())));
  }
  return story;
}

absl::Status RunClient(const Struct& story) {
  ClientEnd end(story);
  return Run(story, "client", &end);
}

absl::Status RunBroker(const Struct& story) {
  BrokerEnd end(story);
  return Run(story, "broker", &end);
}

bool IsFor(const Struct& story, const std::string& end) { return Text(story, "for", end) == end; }

bool IsExpected(const Struct& step, const std::string& end) {
  if (Get(step, end) != nullptr) return Text(step, "when") != "received";
  if (Text(step, "refused_by") == end) return true;
  return Get(step, end == "client" ? "told" : "asked") != nullptr;
}

}  // namespace sockbroker::session
