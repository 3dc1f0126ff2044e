// How agents and servers end when they are asked to, and what they say meanwhile, whatever their
// peers do.

#include <arpa/inet.h>
#include <atomic>
#include <fcntl.h>
#include <future>
#include <netinet/in.h>
#include <poll.h>
#include <regex>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/text.hpp"
#include "infer/aggregator.hpp"
#include "infer/client.hpp"
#include "net/message.hpp"
#include "tests/tools/command_line.hpp"

namespace cleave::tools {
namespace {

using namespace std::chrono_literals;
using Words = std::vector<std::string>;

class Ends : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new Scratch;
    make_tiny_bundle(*shared_);
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }

  static std::string bundle() { return *shared_ / "bundle"; }

  Process start(const Words& words, const std::string& log) {
    Process::Options options;
    options.words = words;
    options.words.insert(options.words.begin(), CLEAVE_PROGRAM);
    options.log = own_ / log;
    return Process(options);
  }

  std::string log_of(const std::string& name) const { return base::read_text(own_ / name); }

  /// Until the log has `part`, a minute at most.
  std::string wait_for(const std::string& name, const std::string& part) const {
    std::string text;
    for (int i = 0; i < 1200 && !contains(text, part); ++i) {
      std::this_thread::sleep_for(50ms);
      if (std::filesystem::exists(own_ / name)) text = log_of(name);
    }
    EXPECT_TRUE(contains(text, part)) << text;
    return text;
  }

  static infer::Request pictures(std::int64_t batch, std::chrono::milliseconds deadline) {
    infer::Request request;
    request.input.element = base::Element::u8;
    request.input.dims = {batch, 1, 8, 8};
    const std::vector<std::uint8_t> pixels(static_cast<std::size_t>(batch) * 64);
    request.input.data = net::Buffer::copy_of(pixels.data(), pixels.size());
    request.deadline = deadline;
    return request;
  }

  static Scratch* shared_;
  Scratch own_;
};
Scratch* Ends::shared_ = nullptr;

std::string address_of(const std::string& line) { return line.substr(line.rfind(' ') + 1); }

/// Connects to "127.0.0.1:port"; below 0 where that fails.
int connect_to(const std::string& address) {
  sockaddr_in where = {};
  where.sin_family = AF_INET;
  where.sin_port =
      htons(static_cast<std::uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
  where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  if (connect(socket, reinterpret_cast<const sockaddr*>(&where), sizeof where) == 0) return socket;
  close(socket);
  return -1;
}

void write_bytes(int socket, const std::string& bytes) {
  EXPECT_EQ(send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(bytes.size()));
}

/// Until the peer closes.
void read_to_the_end(int socket) {
  char piece[4096];
  while (read(socket, piece, sizeof piece) > 0) {
  }
}

// A connection that this process closes would stay open in a program that it started meanwhile.
TEST(Process, KeepsNothingOpenOfWhoStartsIt) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  Process::Options options;
  options.words = {"/bin/sleep", "600"};
  const Process process(options);
  close(ends[1]);
  pollfd ended{ends[0], POLLIN, 0};
  EXPECT_EQ(poll(&ended, 1, 10'000), 1);
  close(ends[0]);
}

TEST_F(Ends, ALineOfTheLogHasItsTimeAndCannotBeForged) {
  Process agent = start({"agent", bundle(), "--device", "hub"}, "hub.log");
  const std::string address = address_of(agent.read_line(30s));
  net::Hello hello;
  hello.role = net::Role::aggregator;
  hello.bundle = plan::Bundle(bundle()).identity();
  hello.device = "hub";
  hello.name = "me\n[aggregator] lost: \x1b[2J";
  hello.origin = 1;
  const auto frame = net::encode(hello);
  const int socket = connect_to(address);
  ASSERT_GE(socket, 0);
  write_bytes(socket,
              std::string(reinterpret_cast<const char*>(frame.head.data()), frame.head.size()));
  const std::string joined = wait_for("hub.log", "] joined");
  EXPECT_TRUE(contains(joined, "[me\\n[aggregator] lost: \\x1b[2J at 127.0.0.1:")) << joined;
  close(socket);
  const std::string text = wait_for("hub.log", "] lost: ");
  std::istringstream lines(text);
  const std::regex line_of_log(R"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d \[.*)");
  for (std::string line; std::getline(lines, line);) {
    if (base::starts_with(line, "warning: ")) continue;  // of the weights, before it listens
    EXPECT_TRUE(std::regex_match(line, line_of_log)) << line;
  }
  EXPECT_EQ(count_of(text, "\n"), 3) << text;
}

TEST_F(Ends, AgentAndServerSayWhoComesAndGoesWithoutBeingAsked) {
  auto agents = start_agents(bundle(), own_);
  auto [server, address] = start_server(bundle(), own_);
  wait_for("hub.log", "] joined");
  wait_for("serve.log", "[hub] joined at ");
  wait_for("serve.log", "] client joined");
  wait_for("serve.log", "] client lost: ");
  agents.at("door")->stop();
  wait_for("door.log", "[agent door] draining: 0 requests left");
  wait_for("serve.log", "[door] lost: ");
}

// 64 KiB of a pipe are full long before; every connection is a line.
TEST_F(Ends, AFullPipeBehindTheLogStopsNothing) {
  ASSERT_EQ(mkfifo((own_ / "hub.log").c_str(), 0600), 0);
  const int unread = open((own_ / "hub.log").c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(unread, 0);
  Process agent = start({"agent", bundle(), "--device", "hub"}, "hub.log");
  const std::string address = address_of(agent.read_line(30s));
  for (int i = 0; i < 1500; ++i) {
    const int socket = connect_to(address);
    ASSERT_GE(socket, 0) << i;
    write_bytes(socket, std::string(200, 'x'));
    read_to_the_end(socket);
    close(socket);
  }
  plan::write_hosts({{"hub", address}, {"cam", "127.0.0.1:1"}, {"door", "127.0.0.1:1"}},
                    own_ / "hosts.toml");
  write_text(own_ / "a.txt", "");
  const auto ran = run_cleave(own_, {"bench", bundle(), "--hosts", own_ / "hosts.toml",
                                     "--requests", "2", "--warmup", "0", "--join-timeout", "1 s"});
  EXPECT_EQ(ran.code, 0) << ran.error;
  kill(agent.id(), SIGTERM);
  EXPECT_EQ(agent.wait(), 0);
  close(unread);
}

TEST_F(Ends, DrainEndsInItsTimeAndTellsWhoStillWaits) {
  auto agents = start_agents(bundle(), own_, tiny_devices, {"--drain", "3 s"});
  Process server =
      start({"serve", bundle(), "--hosts", own_ / "hosts.toml", "--drain", "3 s"}, "serve.log");
  const std::string address = address_of(server.read_line(30s));
  infer::Client client(address);
  for (const auto& [device, agent] : agents) kill(agent->id(), SIGSTOP);  // silent, not gone
  auto answer = std::make_shared<std::promise<infer::Response>>();
  client.submit(pictures(1, 10min),
                [answer](infer::Response response) { answer->set_value(std::move(response)); });
  // A client that asks for much and reads nothing.
  const int unread = connect_to(address);
  net::Hello hello;
  hello.role = net::Role::client;
  const auto frame = net::encode(hello);
  write_bytes(unread,
              std::string(reinterpret_cast<const char*>(frame.head.data()), frame.head.size()));
  client.status();  // asked after it: the request has arrived
  kill(server.id(), SIGTERM);
  EXPECT_EQ(server.wait(), 0);
  auto told = answer->get_future();
  ASSERT_EQ(told.wait_for(60s), std::future_status::ready);
  const auto response = told.get();
  EXPECT_EQ(response.status, infer::Status::overloaded) << response.message;
  EXPECT_EQ(response.message, "[serve] draining, no time is left");
  wait_for("serve.log", "[serve] drained no longer: 1 requests given up");
  close(unread);
  for (auto& [device, agent] : agents) kill(agent->id(), SIGCONT);
}

// What it computes cannot be interrupted: the process is ended.
TEST_F(Ends, AnAgentEndsInItsTimeWhateverItComputes) {
  auto agents = start_agents(bundle(), own_, tiny_devices, {"--pace", "0.001", "--drain", "1 s"});
  Process server = start({"serve", bundle(), "--hosts", own_ / "hosts.toml"}, "serve.log");
  infer::Client client(address_of(server.read_line(30s)));
  client.submit(pictures(20'000, 10min), [](const infer::Response&) {});
  std::this_thread::sleep_for(500ms);
  kill(agents.at("hub")->id(), SIGTERM);
  const int status = agents.at("hub")->wait();
  EXPECT_TRUE(status == 0 || status == 128 + SIGTERM) << status;
  kill(server.id(), SIGKILL);
}

TEST_F(Ends, ASecondSignalEndsAtOnce) {
  auto agents = start_agents(bundle(), own_);
  Process server = start({"serve", bundle(), "--hosts", own_ / "hosts.toml"}, "serve.log");
  infer::Client client(address_of(server.read_line(30s)));
  for (const auto& [device, agent] : agents) kill(agent->id(), SIGSTOP);  // silent, not gone
  client.submit(pictures(1, 10min), [](const infer::Response&) {});
  client.status();  // asked after it: the request has arrived
  kill(server.id(), SIGTERM);
  wait_for("serve.log", "[serve] draining: 1 requests left");
  EXPECT_TRUE(server.is_running());
  kill(server.id(), SIGTERM);
  EXPECT_EQ(server.wait(), 128 + SIGTERM);
  for (auto& [device, agent] : agents) kill(agent->id(), SIGCONT);
}

TEST_F(Ends, TheServerListensOnceAnAgentIsThereOrItsPatienceIsOver) {
  const auto agents = start_agents(bundle(), own_, {"hub"});
  Process server =
      start({"serve", bundle(), "--hosts", own_ / "hosts.toml", "--wait", "1 h"}, "serve.log");
  const std::string address = address_of(server.read_line(60s));
  infer::Client client(address);
  EXPECT_EQ(client.status().agents.at(0).connected, true);
  plan::write_hosts({{"hub", "127.0.0.1:1"}, {"cam", "127.0.0.1:1"}, {"door", "127.0.0.1:1"}},
                    own_ / "nobody.toml");
  Process alone =
      start({"serve", bundle(), "--hosts", own_ / "nobody.toml", "--wait", "100 ms"}, "alone.log");
  EXPECT_TRUE(contains(alone.read_line(60s), "listens on "));
}

}  // namespace
}  // namespace cleave::tools
