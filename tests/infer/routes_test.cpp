// Agents that exchange values with each other, over sockets and plain C++ engines.

#include <map>
#include <random>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>

#include "infer/play.hpp"
#include "net/mesh.hpp"
#include "tests/infer/fake_parts.hpp"
#include "tests/optimizer/examples.hpp"

namespace cleave::infer {
namespace {

using namespace std::chrono_literals;

plan::Plan star_plan(const model::ModelConfig& teacher, std::size_t devices) {
  auto plan = examples::tensor_plan(teacher, devices);
  plan.all_reduce = plan::AllReduce::star;
  return plan;
}

/// The answer of all programs in this process.
net::Value expected(const plan::Plan& plan, const net::Value& input) {
  FakeEngine engine;
  return run_locally(engine, plan, input);
}

bool same(const net::Value& a, const net::Value& b) {
  return a.dims == b.dims && a.data.size() == b.data.size() &&
         std::memcmp(a.data.data(), b.data.data(), a.data.size()) == 0;
}

/// Three agents of a plan whose programs exchange values.
class Routes : public ::testing::Test {
 protected:
  void use(const plan::Plan& made) {
    plan = made;
    bundle.emplace(write_bundle(folder.path(), plan));
  }
  void start(const std::string& device, AgentOptions options = {},
             std::unique_ptr<Engine> engine = std::make_unique<FakeEngine>()) {
    options.device = device;
    if (hosts.count(device) != 0) options.listen = hosts.at(device);
    options.log = [this](base::LogLevel, const std::string& line) { note(line); };
    agents[device] =
        std::make_unique<RunningAgent>(*bundle, plan, std::move(options), std::move(engine));
    hosts[device] = agents.at(device)->address();
  }
  void start_all(const AgentOptions& options = {}, std::chrono::microseconds time = 0us) {
    for (const auto& part : plan.parts)
      start(part.device, options, std::make_unique<FakeEngine>(time));
  }
  std::unique_ptr<Aggregator> aggregator(AggregatorOptions options = {}) {
    options.hosts = hosts;
    options.log = [this](base::LogLevel, const std::string& line) { note(line); };
    auto made = std::make_unique<Aggregator>(*bundle, plan, std::make_unique<FakeEngine>(), options);
    made->wait_for_agents(0, 10s);
    return made;
  }
  void note(const std::string& line) {
    const std::lock_guard lock(mutex);
    log += line + "\n";
  }
  std::string lines() {
    const std::lock_guard lock(mutex);
    return log;
  }

  ScratchFolder folder{"routes"};
  plan::Plan plan;
  std::optional<plan::Bundle> bundle;
  std::map<std::string, std::string> hosts;
  std::mutex mutex;
  std::string log;
  std::map<std::string, std::unique_ptr<RunningAgent>> agents;  // last: they write into the log
};

TEST_F(Routes, CarryWhatStrategiesExchange) {
  using Make = plan::Plan (*)(const model::ModelConfig&, std::size_t);
  for (const Make make : {Make(examples::tensor_plan), Make(star_plan), Make(examples::pipeline_plan)}) {
    agents.clear();
    hosts.clear();
    use(make(fake_teacher(), 3));
    start_all();
    const auto asked = aggregator();
    for (std::uint8_t seed = 1; seed < 6; ++seed)
      for (const std::int64_t batch : {1, 2}) {
        Request request = request_of(seed);
        request.input = pixels(seed, batch);
        const Response response = ask(*asked, request);
        ASSERT_EQ(response.status, Status::answered) << response.message << "\n" << lines();
        EXPECT_TRUE(same(response.output, expected(plan, request.input))) << plan.strategy;
        EXPECT_EQ(present_devices(response).size(), 3u);
      }
  }
}

TEST_F(Routes, AnswerManyAtOnce) {
  use(examples::tensor_plan(fake_teacher(), 3));
  start_all();
  const auto asked = aggregator();
  std::vector<std::future<Response>> answers;
  for (std::uint8_t seed = 0; seed < 40; ++seed) {
    auto promise = std::make_shared<std::promise<Response>>();
    answers.push_back(promise->get_future());
    asked->submit(request_of(seed, 20s),
                  [promise](Response response) { promise->set_value(std::move(response)); });
  }
  for (std::uint8_t seed = 0; seed < 40; ++seed) {
    const Response response = answers[seed].get();
    ASSERT_EQ(response.status, Status::answered) << response.message;
    EXPECT_TRUE(same(response.output, expected(plan, pixels(seed))));
  }
}

// Each has room for one request: what one aggregator began on one of them and the other on another
// is given back, and begun again.
TEST_F(Routes, TwoAggregatorsThatShareAgentsBothProgress) {
  use(examples::tensor_plan(fake_teacher(), 3));
  AgentOptions narrow;
  narrow.max_requests = 1;
  start_all(narrow);
  const auto one = aggregator(), other = aggregator();
  const auto keep_asking = [&](Aggregator& asked) {
    int answered = 0;
    for (int round = 0; round < 25; ++round) {
      std::vector<std::future<Response>> answers;
      for (std::uint8_t seed = 0; seed < 4; ++seed) {
        auto promise = std::make_shared<std::promise<Response>>();
        answers.push_back(promise->get_future());
        asked.submit(request_of(seed, 20s),
                     [promise](Response response) { promise->set_value(std::move(response)); });
      }
      for (std::uint8_t seed = 0; seed < 4; ++seed) {
        const Response response = answers[seed].get();
        answered += response.status == Status::answered &&
                    same(response.output, expected(plan, pixels(seed)));
      }
    }
    return answered;
  };
  auto second = std::async(std::launch::async, [&] { return keep_asking(*other); });
  EXPECT_EQ(keep_asking(*one), 100);
  EXPECT_EQ(second.get(), 100);
}

TEST_F(Routes, ADeviceLostEndsTheRequestAtEveryOtherOne) {
  use(examples::tensor_plan(fake_teacher(), 3));
  const auto gate = std::make_shared<Gate>();
  start("d0");
  start("d1", {}, std::make_unique<GatedEngine>(gate));
  start("d2");
  const auto asked = aggregator();
  auto promise = std::make_shared<std::promise<Response>>();
  auto answer = promise->get_future();
  asked->submit(request_of(1, 30s),
                [promise](Response response) { promise->set_value(std::move(response)); });
  gate->wait_for_entry();
  agents.at("d2").reset();
  ASSERT_EQ(answer.wait_for(10s), std::future_status::ready) << lines();
  const Response response = answer.get();
  EXPECT_EQ(response.status, Status::no_device);
  EXPECT_NE(response.message.find("'d2'"), std::string::npos) << response.message;
  gate->open();
  start("d2");
  asked->wait_for_agents(3, 10s);
  const Response next = ask(*asked, request_of(2, 20s));
  EXPECT_EQ(next.status, Status::answered) << next.message << "\n" << lines();
}

/// An agent of the plan that says what the test wants.
class Impostor {
 public:
  Impostor(const plan::Bundle& bundle, const plan::Plan& plan, const std::string& address,
           const std::string& name, const std::string& to)
      : socket_(io_) {
    const auto at = net::Address::parse(address);
    socket_.connect({boost::asio::ip::make_address(at.host),
                     static_cast<std::uint16_t>(std::stoi(at.port))});
    net::Hello hello;
    hello.role = net::Role::agent;
    hello.bundle = bundle.identity();
    hello.plan = plan.name;
    hello.device = to;
    hello.name = name;
    send(hello);
  }
  void send(const net::Message& message) {
    const net::Frame frame = net::encode(message);
    boost::asio::write(socket_, boost::asio::buffer(frame.head));
    boost::asio::write(socket_, boost::asio::buffer(frame.payload.data(), frame.payload.size()));
  }
  net::Message receive() {
    std::vector<std::byte> head(net::header_bytes);
    boost::asio::read(socket_, boost::asio::buffer(head));
    const auto header = net::decode_header(head.data(), {});
    std::vector<std::byte> body(header->body_length);
    boost::asio::read(socket_, boost::asio::buffer(body));
    std::byte* room = nullptr;
    const auto payload = net::Buffer::allocate(header->payload_length, &room);
    boost::asio::read(socket_, boost::asio::buffer(room, header->payload_length));
    return *net::decode(*header, body.data(), payload);
  }

 private:
  boost::asio::io_context io_;
  boost::asio::ip::tcp::socket socket_;
};

TEST_F(Routes, TakeOnlyAgentsOfThePlanThatDial) {
  use(examples::tensor_plan(fake_teacher(), 3));
  start("d1");
  const auto refusal = [&](const std::string& name) {
    Impostor impostor(*bundle, plan, hosts.at("d1"), name, "d1");
    const net::Message answer = impostor.receive();
    const auto* refused = std::get_if<net::Refused>(&answer);
    return refused ? refused->text : "welcome";
  };
  EXPECT_EQ(refusal("d0"), "welcome");
  EXPECT_EQ(refusal("d2"),
            "agent 'd1': link: saw agent 'd2', needs one of plan 'default' that dials 'd1'");
  EXPECT_EQ(refusal("phone"),
            "agent 'd1': link: saw agent 'phone', needs one of plan 'default' that dials 'd1'");
}

}  // namespace
}  // namespace cleave::infer
