// The server as a hostile client meets it: bytes over a socket.
#include "optiq/server/http/http_server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <random>
#include <thread>

#include "optiq/base/error.h"

namespace optiq::server::http {
namespace {

using std::chrono::milliseconds;

class Client {
 public:
  explicit Client(int port) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    ::inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    connected_ =
        ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~Client() { leave(); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  bool connected() const { return connected_; }

  bool send(const std::string& bytes) {
    return ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(bytes.size());
  }

  // What comes until `until` is in it, the server closes, or the time is over.
  std::string receive(const std::string& until = "", int timeout_ms = 3000) {
    std::string text;
    const auto end = std::chrono::steady_clock::now() + milliseconds(timeout_ms);
    while (until.empty() || text.find(until) == std::string::npos) {
      const auto left = std::chrono::duration_cast<milliseconds>(
          end - std::chrono::steady_clock::now());
      pollfd readable{fd_, POLLIN, 0};
      if (left.count() <= 0 ||
          ::poll(&readable, 1, static_cast<int>(left.count())) <= 0)
        break;
      char bytes[4096];
      const ssize_t n = ::recv(fd_, bytes, sizeof bytes, 0);
      if (n <= 0) {
        closed_ = true;
        break;
      }
      text.append(bytes, static_cast<std::size_t>(n));
    }
    return text;
  }

  void half_close() { ::shutdown(fd_, SHUT_WR); }

  void reset() {
    const linger hard{1, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    leave();
  }

  void leave() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

  bool closed() const { return closed_; }

 private:
  int fd_;
  bool connected_ = false;
  bool closed_ = false;
};

std::string get(const std::string& path, const std::string& more = "") {
  return "GET " + path + " HTTP/1.1\r\nHost: localhost\r\n" + more + "\r\n";
}

std::string post(const std::string& path, const std::string& body) {
  return "POST " + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n\r\n" + body;
}

int status_of(const std::string& reply) {
  return reply.size() > 12 ? std::atoi(reply.c_str() + 9) : 0;
}

// Answers /echo, /throw, /drop; keeps what /hold and /stream ask for.
class HttpServers : public ::testing::Test {
 protected:
  HttpOptions options() {
    HttpOptions options;
    options.port = 0;
    options.header_timeout = milliseconds(300);
    options.body_timeout = milliseconds(300);
    options.idle_timeout = milliseconds(1000);
    options.slow_reader_timeout = milliseconds(300);
    options.max_body_bytes = 100'000;
    options.write_buffer_bytes = 256 << 10;
    return options;
  }

  void serve(HttpOptions o) {
    server_ = std::make_unique<HttpServer>(
        o, [this](std::shared_ptr<Exchange> exchange) { answer(std::move(exchange)); });
    server_->start();
  }

  void SetUp() override { serve(options()); }

  void answer(std::shared_ptr<Exchange> exchange) {
    const Request& request = exchange->request();
    if (request.path == "/echo")
      exchange->respond({.content_type = "text/plain", .body = request.body});
    else if (request.path == "/throw")
      throw std::runtime_error("secret");
    else if (request.path != "/drop")
      hold(std::move(exchange));
  }

  void hold(std::shared_ptr<Exchange> exchange) {
    exchange->on_close([this] {
      const std::lock_guard lock(mutex_);
      ++closed_;
      changed_.notify_all();
    });
    const std::lock_guard lock(mutex_);
    held_.push_back(std::move(exchange));
    changed_.notify_all();
  }

  std::shared_ptr<Exchange> held(std::size_t n = 1) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(5), [&] { return held_.size() >= n; });
    return held_.size() >= n ? held_[n - 1] : nullptr;
  }

  bool someone_left(int n = 1, int within_ms = 1000) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, milliseconds(within_ms),
                             [&] { return closed_ >= n; });
  }

  std::string ask(const std::string& bytes) {
    Client client(server_->port());
    client.send(bytes);
    return client.receive("\r\n\r\n");
  }

  void TearDown() override {
    {
      const std::lock_guard lock(mutex_);
      held_.clear();
    }
    server_.reset();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::shared_ptr<Exchange>> held_;
  int closed_ = 0;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServers, AWholeAnswerHasItsLengthAndItsRequestsId) {
  Client client(server_->port());
  client.send(post("/echo", "hello"));
  const std::string reply = client.receive("hello");
  EXPECT_EQ(reply.rfind("HTTP/1.1 200 OK\r\n", 0), 0u) << reply;
  EXPECT_NE(reply.find("Content-Length: 5\r\n"), std::string::npos);
  EXPECT_NE(reply.find("request-id: req_"), std::string::npos);
  EXPECT_NE(reply.find("Connection: keep-alive"), std::string::npos);
}

TEST_F(HttpServers, AConnectionIsKeptAndPipelinedRequestsAreAnsweredInOrder) {
  Client client(server_->port());
  client.send(post("/echo", "one") + post("/echo", "two") + post("/echo", "three"));
  const std::string reply = client.receive("three");
  EXPECT_LT(reply.find("one"), reply.find("two"));
  EXPECT_LT(reply.find("two"), reply.find("three"));
  client.send(post("/echo", "four"));
  EXPECT_NE(client.receive("four").find("four"), std::string::npos);
  EXPECT_EQ(server_->status().accepted, 1u);
}

TEST_F(HttpServers, EachLimitHasItsStatus) {
  EXPECT_EQ(status_of(ask(get("/" + std::string(9000, 'a')))), 414);
  EXPECT_EQ(status_of(ask(get("/" + std::string(50'000, 'a')))), 414);
  EXPECT_EQ(status_of(ask(get("/", "X: " + std::string(40'000, 'a') + "\r\n"))), 431);
  EXPECT_EQ(
      status_of(ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100001\r\n\r\n")),
      413);
  EXPECT_EQ(
      status_of(ask("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                    "1ffff\r\n" +
                    std::string(0x1ffff, 'a'))),
      413);
  EXPECT_EQ(status_of(ask("GET / HTTP/1.1\r\nHo")), 408);
  EXPECT_EQ(
      status_of(ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")),
      408);
  EXPECT_EQ(status_of(ask(post("/echo", "still well"))), 200);
}

TEST_F(HttpServers, WhatIsNoRequestIsRefused) {
  for (const std::string bytes :
       {"\r\n\r\nnonsense\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nBad Name: a\r\n\r\n"}) {
    const int status = status_of(ask(bytes));
    EXPECT_TRUE(status == 400 || status == 408) << status << " " << bytes;
  }
  EXPECT_EQ(status_of(ask("GET / HTTP/3.7\r\nHost: a\r\n\r\n")), 505);
}

TEST_F(HttpServers, ABodyWhoseLengthIsToldTwiceIsRefused) {
  for (const char* lengths :
       {"Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: -3\r\n", "Content-Length: 3, 4\r\n",
        "Content-Length: 0x3\r\n"}) {
    Client client(server_->port());
    client.send(std::string("POST /echo HTTP/1.1\r\nHost: a\r\n") + lengths +
                "\r\nabc\r\n0\r\n\r\n");
    const std::string reply = client.receive();
    EXPECT_EQ(status_of(reply), 400) << lengths << reply;
    EXPECT_TRUE(client.closed()) << lengths;
  }
}

TEST_F(HttpServers, AChunkedBodyIsPutTogether) {
  EXPECT_NE(ask("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
                "Connection: close\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
                .find("Content-Length: 3"),
            std::string::npos);
}

TEST_F(HttpServers, OneWhoAsksWhetherToGoOnIsToldTo) {
  Client client(server_->port());
  client.send(
      "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
      "Content-Length: 5\r\n\r\n");
  EXPECT_EQ(status_of(client.receive("\r\n\r\n")), 100);
  client.send("hello");
  EXPECT_NE(client.receive("hello").find("200 OK"), std::string::npos);
  EXPECT_EQ(status_of(ask("POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
                          "Content-Length: 500000\r\n\r\n")),
            413);
}

TEST_F(HttpServers, HeadHasNoBodyAndOldClientsGetAnEnd) {
  Client head(server_->port());
  head.send(
      "HEAD /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: "
      "close\r\n\r\nhello");
  const std::string reply = head.receive();
  EXPECT_NE(reply.find("Content-Length: 5"), std::string::npos);
  EXPECT_TRUE(reply.ends_with("\r\n\r\n"));
  Client old(server_->port());
  old.send("GET /stream HTTP/1.0\r\n\r\n");
  const auto exchange = held();
  ASSERT_TRUE(exchange);
  exchange->begin_stream(200, "text/event-stream");
  exchange->write("data: a\n\n");
  exchange->end();
  EXPECT_TRUE(old.receive().ends_with("\r\n\r\ndata: a\n\n"));
  EXPECT_TRUE(old.closed());
}

TEST_F(HttpServers, AHandlerThatFailsOrForgetsIsA500ThatTellsNothing) {
  for (const char* path : {"/throw", "/drop"}) {
    Client client(server_->port());
    client.send(get(path, "Connection: close\r\n"));
    const std::string reply = client.receive();
    EXPECT_EQ(status_of(reply), 500);
    EXPECT_EQ(reply.find("secret"), std::string::npos);
  }
}

TEST_F(HttpServers, AStreamComesInPiecesAsTheyAreWritten) {
  Client client(server_->port());
  client.send(get("/stream"));
  const auto exchange = held();
  ASSERT_TRUE(exchange);
  exchange->begin_stream(200, "text/event-stream");
  EXPECT_NE(client.receive("\r\n\r\n").find("chunked"), std::string::npos);
  for (const char* piece : {"one", "two", "three"}) {
    EXPECT_TRUE(exchange->write(piece));
    EXPECT_NE(client.receive(piece).find(piece), std::string::npos);
  }
  exchange->end();
  EXPECT_EQ(client.receive("0\r\n\r\n"), "0\r\n\r\n");
  client.send(post("/echo", "again"));
  EXPECT_NE(client.receive("again").find("again"), std::string::npos);
  EXPECT_EQ(closed_, 0);
}

TEST_F(HttpServers, OneWhoLeavesIsNoticedWhateverHappens) {
  for (const bool hard : {false, true})
    for (const bool streaming : {false, true}) {
      auto client = std::make_unique<Client>(server_->port());
      const std::size_t n = held_.size() + 1;  // before the handler may add to it
      client->send(get("/hold"));
      const auto exchange = held(n);
      ASSERT_TRUE(exchange);
      if (streaming) {
        exchange->begin_stream(200, "text/event-stream");
        client->receive("\r\n\r\n");
      }
      hard ? client->reset() : client->leave();
      if (streaming && !hard) {
        // A FIN alone could be a half-close: the next bytes tell.
        std::this_thread::sleep_for(milliseconds(20));
        exchange->write("data: ping\n\n");
      }
      EXPECT_TRUE(someone_left(static_cast<int>(n), 200))
          << "hard " << hard << ", streaming " << streaming;
      EXPECT_FALSE(exchange->write("x"));
      EXPECT_TRUE(exchange->closed());
    }
}

TEST_F(HttpServers, OneWhoOnlyStopsSendingIsAnswered) {
  Client client(server_->port());
  client.send(get("/hold"));
  client.half_close();
  const auto exchange = held();
  ASSERT_TRUE(exchange);
  EXPECT_FALSE(someone_left(1, 100));
  exchange->respond({.body = "late"});
  const std::string reply = client.receive();
  EXPECT_NE(reply.find("HTTP/1.1 102"), std::string::npos);
  EXPECT_TRUE(reply.ends_with("late")) << reply;
}

TEST_F(HttpServers, OneWhoReadsTooSlowlyIsCut) {
  Client client(server_->port());
  client.send(get("/stream"));
  const auto exchange = held();
  ASSERT_TRUE(exchange);
  exchange->begin_stream(200, "text/event-stream");
  int pieces = 0;
  const std::string piece(16 << 10, 'x');
  const auto start = std::chrono::steady_clock::now();
  while (exchange->write(piece) &&
         std::chrono::steady_clock::now() - start < std::chrono::seconds(5))
    ++pieces;
  EXPECT_TRUE(exchange->closed());
  EXPECT_TRUE(someone_left(1, 1000));
  EXPECT_LT(pieces, 2000);
}

TEST_F(HttpServers, HeadersThatDripDoNotHoldAConnection) {
  Client client(server_->port());
  const auto start = std::chrono::steady_clock::now();
  client.send("GET / HTTP/1.1\r\n");
  while (std::chrono::steady_clock::now() - start < std::chrono::seconds(3)) {
    if (!client.send("X")) break;
    if (!client.receive("", 30).empty() || client.closed()) break;
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, milliseconds(1500));
}

TEST_F(HttpServers, ManyStreamsRunAtOnce) {
  constexpr int kStreams = 200;
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < kStreams; ++i) {
    clients.push_back(std::make_unique<Client>(server_->port()));
    clients.back()->send(get("/stream"));
  }
  ASSERT_TRUE(held(kStreams));
  for (const auto& exchange : held_) exchange->begin_stream(200, "text/plain");
  for (int round = 0; round < 5; ++round)
    for (const auto& exchange : held_) EXPECT_TRUE(exchange->write("tick\n"));
  for (const auto& exchange : held_) exchange->end();
  for (const auto& client : clients) {
    const std::string reply = client->receive("0\r\n\r\n");
    EXPECT_TRUE(reply.ends_with("0\r\n\r\n"));
  }
}

TEST_F(HttpServers, DrainingLetsOpenAnswersFinishAndTakesNoNewOnes) {
  Client open(server_->port()), idle(server_->port());
  idle.send(post("/echo", "x"));
  idle.receive("x");
  open.send(get("/hold"));
  const auto exchange = held();
  ASSERT_TRUE(exchange);
  std::thread finisher([&] {
    std::this_thread::sleep_for(milliseconds(100));
    exchange->respond({.body = "finished"});
  });
  EXPECT_TRUE(server_->drain(std::chrono::seconds(5)));
  finisher.join();
  EXPECT_NE(open.receive().find("finished"), std::string::npos);
  idle.receive();
  EXPECT_TRUE(idle.closed());
  EXPECT_FALSE(Client(server_->port()).connected());
}

TEST_F(HttpServers, APortThatIsTakenIsOneClearErrorAndOneThatWasFreedIsHadAtOnce) {
  HttpOptions same = options();
  same.port = server_->port();
  try {
    HttpServer other(same, [](auto) {});
    ADD_FAILURE() << "bound twice";
  } catch (const ResourceError& error) {
    EXPECT_NE(std::string(error.what()).find(std::to_string(same.port)),
              std::string::npos);
  }
  Client client(server_->port());
  client.send(get("/hold"));
  held();
  held_.clear();
  server_.reset();
  serve(same);
  EXPECT_EQ(server_->port(), same.port);
  EXPECT_EQ(status_of(ask(post("/echo", "x"))), 200);
}

TEST_F(HttpServers, TooManyConnectionsAreTurnedAway) {
  HttpOptions few = options();
  few.max_connections = 2;
  server_.reset();
  serve(few);
  Client a(server_->port()), b(server_->port());
  for (Client* client : {&a, &b}) {
    client->send(post("/echo", "x"));
    client->receive("x");
  }
  EXPECT_EQ(status_of(ask("")), 503);
  a.leave();
  std::this_thread::sleep_for(milliseconds(100));
  EXPECT_EQ(status_of(ask(post("/echo", "x"))), 200);
}

int open_files() {
  return static_cast<int>(
      std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
}

TEST_F(HttpServers, MutatedRequestsNeitherCrashNorLeakNorAre5xx) {
  const char* rounds = std::getenv("OPTIQ_FUZZ_ROUNDS");
  const int n = rounds ? std::atoi(rounds) : 300;
  const std::string valid = post("/echo", "{\"a\": [1, 2, 3]}");
  const int before = open_files();
  std::mt19937 random(1);
  for (int round = 0; round < n; ++round) {
    std::string bytes = valid;
    for (unsigned k = 1 + random() % 6; k > 0; --k) {
      const std::size_t at = random() % bytes.size();
      switch (random() % 4) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes.erase(at, 1 + random() % 8);
          break;
        case 2:
          bytes.insert(at, bytes.substr(random() % bytes.size(), 8));
          break;
        default:
          bytes.insert(at, 1, "\r\n :,\0%"[random() % 7]);
      }
      if (bytes.empty()) bytes = " ";
    }
    Client client(server_->port());
    client.send(bytes);
    client.half_close();
    const std::string reply = client.receive("\r\n\r\n", 1000);
    const int status = status_of(reply);
    EXPECT_TRUE(status < 500 || status == 505) << status << ": " << bytes;
    {
      const std::lock_guard lock(mutex_);
      held_.clear();
    }
  }
  EXPECT_EQ(status_of(ask(post("/echo", "x"))), 200);
  std::this_thread::sleep_for(milliseconds(200));
  EXPECT_LE(open_files(), before + 8);
}

}  // namespace
}  // namespace optiq::server::http
