#include "infer/service.hpp"

#include <algorithm>
#include <atomic>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "infer/aggregator.hpp"
#include "infer/client.hpp"
#include "infer/paced.hpp"
#include "infer/server.hpp"
#include "model/config/hugging_face.hpp"
#include "model/config/image_config.hpp"
#include "net/mesh.hpp"
#include "tests/infer/fake_parts.hpp"
#include "tests/infer/scripted_agent.hpp"

namespace cleave::infer {
namespace {

using namespace std::chrono_literals;

template <class Action>
std::string text_of_error(Action action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "nothing was thrown";
}

class ServiceTest : public ::testing::Test {
 protected:
  /// Three agents, an aggregator and a server.
  void start(std::unique_ptr<Engine> cam = std::make_unique<FakeEngine>(),
             AggregatorOptions wanted = {},
             std::unique_ptr<Engine> fusion = std::make_unique<FakeEngine>()) {
    for (const auto* device : {"hub", "desk"})
      agents.push_back(std::make_unique<RunningAgent>(bundle, plan, device));
    agents.push_back(std::make_unique<RunningAgent>(bundle, plan, RunningAgent::options_for("cam"),
                                                    std::move(cam)));
    for (std::size_t p = 0; p < agents.size(); ++p)
      wanted.hosts[plan.parts[p].device] = agents[p]->address();
    serve(std::move(wanted), std::move(fusion));
  }
  /// An aggregator and a server over the agents of `wanted`.
  void serve(AggregatorOptions wanted,
             std::unique_ptr<Engine> fusion = std::make_unique<FakeEngine>()) {
    wanted.min_wait = wanted.min_wait_in_text = 5s;
    aggregator = std::make_unique<Aggregator>(bundle, std::vector{plan}, std::move(fusion),
                                              std::move(wanted));
    EXPECT_EQ(aggregator->wait_for_agents(0, 10s), 3);
    server = std::make_unique<RunningServer>(*aggregator, bundle);
  }

  ScratchFolder folder{"service"};
  plan::Plan plan = fake_plan();
  plan::Bundle bundle = write_bundle(folder.path(), plan);
  std::shared_ptr<Gate> gate = std::make_shared<Gate>();
  std::vector<std::unique_ptr<RunningAgent>> agents;
  std::unique_ptr<Aggregator> aggregator;
  std::unique_ptr<RunningServer> server;
};

TEST_F(ServiceTest, AnswersAClientAsTheAggregatorWould) {
  start();
  Client client(server->address());
  const auto response = ask(client, request_of(9));
  ASSERT_EQ(response.status, Status::answered) << response.message;
  EXPECT_EQ(response.output.dims, (std::vector<std::int64_t>{1, 5}));
  EXPECT_EQ(first_number(response.output), expected_answer(pixels(9), {0, 1, 2}));
  EXPECT_EQ(present_devices(response), (std::vector<std::string>{"hub", "desk", "cam"}));
  EXPECT_GT(response.total_s, 0);
  EXPECT_GT(response.devices[2].received_bytes, 0u);
  EXPECT_GT(response.devices[2].round_trip_s, 0);
}

TEST_F(ServiceTest, RefusesToChooseATokenWhereThereIsNone) {
  start();
  Client client(server->address());
  Request request = request_of(9);
  request.sampling.emplace();
  Response response = ask(client, request);
  EXPECT_EQ(response.status, Status::failed);
  EXPECT_EQ(response.message,
            "[submit] [compile] shape.best: saw a model that does not generate, needs a causal "
            "language model with its head");
  request.sampling->options.top_k = -7;
  response = ask(client, request);
  EXPECT_EQ(response.message, "[submit] [sampling] top_k: saw -7, needs 0 or more");
}

TEST_F(ServiceTest, TellsTheClientHowLongItsRequestWaited) {
  AggregatorOptions wanted;
  wanted.max_in_flight = 1;
  start(std::make_unique<GatedEngine>(gate), std::move(wanted));
  Client client(server->address());
  std::promise<Response> first, second;
  client.submit(request_of(1), [&](Response response) { first.set_value(std::move(response)); });
  gate->wait_for_entry();
  client.submit(request_of(2), [&](Response response) { second.set_value(std::move(response)); });
  client.status();  // what was sent before has arrived
  std::this_thread::sleep_for(100ms);
  gate->open();
  EXPECT_GE(first.get_future().get().devices.at(2).round_trip_s, 0.1);
  const auto response = second.get_future().get();
  EXPECT_GE(response.queue_s, 0.1);
  EXPECT_GE(response.total_s, response.queue_s + response.fuse_s);
  EXPECT_LE(response.overhead_s, response.total_s - response.queue_s);
}

TEST_F(ServiceTest, TellsTheClientHowLongFusingTook) {
  start(std::make_unique<FakeEngine>(), {}, with_delay(std::make_unique<FakeEngine>(), 100ms));
  Client client(server->address());
  const auto response = ask(client, request_of(1));
  EXPECT_GE(response.fuse_s, 0.1);
  EXPECT_GE(response.total_s, response.queue_s + response.fuse_s);
}

TEST_F(ServiceTest, TellsTheClientWhatADeviceSays) {
  const ScriptedAgent cam([](const net::Admit& admit) {
    auto value = value_for(admit, 1);
    value.queued_s = 1.5;
    value.compute_s = 2.5;
    return std::vector<net::Message>{value};
  });
  AggregatorOptions wanted;
  wanted.hosts["cam"] = cam.address();
  for (const auto* device : {"hub", "desk"}) {
    agents.push_back(std::make_unique<RunningAgent>(bundle, plan, device));
    wanted.hosts[device] = agents.back()->address();
  }
  serve(std::move(wanted));
  Client client(server->address());
  const auto report = ask(client, request_of(1)).devices.at(2);
  const auto own = ask(*aggregator, request_of(1)).devices.at(2);
  EXPECT_TRUE(report.present);
  EXPECT_EQ(report.queued_s, 1.5);
  EXPECT_EQ(report.compute_s, 2.5);
  EXPECT_EQ(report.predicted_s, 0.01);
  EXPECT_EQ(report.sent_bytes, own.sent_bytes);
  EXPECT_EQ(report.received_bytes, own.received_bytes);
  EXPECT_NE(report.sent_bytes, report.received_bytes);
  EXPECT_EQ(report.why, "");
}

TEST_F(ServiceTest, TimesThatNobodyCanTakeStayNumbers) {
  const ScriptedAgent cam([](const net::Admit& admit) {
    const auto rows = admit.batch;
    auto value = value_for(admit, 1, rows * 8);
    value.tensor.dims = {rows, 1, 8};
    value.queued_s = -1;
    value.compute_s = 1e308;
    return std::vector<net::Message>{value};
  });
  AggregatorOptions wanted;
  wanted.hosts["cam"] = cam.address();
  for (const auto* device : {"hub", "desk"}) {
    agents.push_back(std::make_unique<RunningAgent>(bundle, plan, device));
    wanted.hosts[device] = agents.back()->address();
  }
  serve(std::move(wanted));
  Client client(server->address());
  auto request = request_of(1);
  request.input = pixels(1, 200);  // in several pieces, whose times are added up
  const auto response = ask(client, std::move(request));
  ASSERT_EQ(response.status, Status::answered) << response.message;
  EXPECT_TRUE(response.devices.at(2).present);
  EXPECT_EQ(response.devices.at(2).queued_s, 0);
  EXPECT_LT(response.devices.at(2).compute_s, 1e6);
}

/// A listener that refuses whoever greets it, at length.
class RefusingAgent {
 public:
  explicit RefusingAgent(std::string text) : text_(std::move(text)) {
    net::spawn(io_, listener_.run([this](boost::asio::ip::tcp::socket socket) {
      net::spawn(io_,
                 refuse(std::make_shared<net::Connection>(io_, net::tcp_stream(std::move(socket)),
                                                          net::ConnectionOptions{})),
                 {});
    }),
               {});
    thread_ = std::thread([this] { io_.run(); });
  }
  ~RefusingAgent() {
    io_.stop();
    thread_.join();
  }
  std::string address() const { return listener_.address(); }

 private:
  boost::asio::awaitable<void> refuse(std::shared_ptr<net::Connection> connection) {
    net::Refused refused;
    refused.text = text_;
    connection->send(refused);
    while (connection->is_open()) {
      auto receiving = connection->receive();
      co_await std::move(receiving);
    }
  }
  std::string text_;
  boost::asio::io_context io_;
  net::Listener listener_{io_, "127.0.0.1:0", false};
  std::thread thread_;
};

TEST_F(ServiceTest, TheStatusOfAnAgentThatRefusesAtLengthIsShort) {
  const RefusingAgent cam(std::string((1u << 20) - 4, 'x'));
  AggregatorOptions wanted;
  wanted.hosts["cam"] = cam.address();
  for (const auto* device : {"hub", "desk"}) {
    agents.push_back(std::make_unique<RunningAgent>(bundle, plan, device));
    wanted.hosts[device] = agents.back()->address();
  }
  aggregator = std::make_unique<Aggregator>(bundle, std::vector{plan},
                                            std::make_unique<FakeEngine>(), std::move(wanted));
  ASSERT_TRUE(eventually([&] { return !aggregator->status()[2].last_error.empty(); }));
  server = std::make_unique<RunningServer>(*aggregator, bundle);
  Client client(server->address());
  EXPECT_EQ(client.status().agents.at(2).last_error, "refused: " + std::string(391, 'x'));
}

TEST_F(ServiceTest, TellsTheClientWhyADeviceIsMissing) {
  start();
  agents[2]->stop();
  ASSERT_TRUE(eventually([&] { return !aggregator->status()[2].connected; }));
  Client client(server->address());
  const auto report = ask(client, request_of(1)).devices.at(2);
  EXPECT_FALSE(report.present);
  EXPECT_EQ(report.why, "not joined");
}

class TextServiceTest : public ServiceTest {
 protected:
  TextServiceTest() {
    plan = fake_text_plan();
    bundle = write_bundle(folder.path(), plan);
  }
  Request token(std::uint64_t sequence, std::int64_t past) {
    auto request = token_request(5s);
    request.sequence = {sequence, past, 8};
    return request;
  }
  std::shared_ptr<Forgotten> forgotten = std::make_shared<Forgotten>();
};

TEST_F(TextServiceTest, AClientThatGoesTakesItsTextsAlong) {
  start(std::make_unique<ForgettingEngine>(forgotten));
  Client stays(server->address());
  const auto kept = stays.new_sequence();
  ASSERT_EQ(ask(stays, token(kept, 0)).status, Status::answered);
  {
    Client goes(server->address());
    for (int i = 0; i < 3; ++i)
      ASSERT_EQ(ask(goes, token(goes.new_sequence(), 0)).status, Status::answered);
    EXPECT_EQ(forgotten->count(), 0);
  }
  EXPECT_TRUE(eventually([&] { return forgotten->count() == 3; }));
  const auto next = ask(stays, token(kept, 1));
  EXPECT_EQ(present_devices(next), (std::vector<std::string>{"hub", "desk", "cam"}));
  EXPECT_EQ(forgotten->count(), 3);
}

TEST_F(TextServiceTest, TheEndOfATextTravels) {
  start(std::make_unique<ForgettingEngine>(forgotten));
  Client client(server->address());
  const auto ends = client.new_sequence(), goes_on = client.new_sequence();
  for (const auto text : {ends, goes_on})
    ASSERT_EQ(ask(client, token(text, 0)).status, Status::answered);
  client.end_sequence(ends);
  EXPECT_TRUE(eventually([&] { return forgotten->count() == 1; }));
  EXPECT_EQ(ask(client, token(goes_on, 1)).status, Status::answered);
  const auto gone = ask(client, token(ends, 1));
  EXPECT_EQ(gone.status, Status::failed);
  EXPECT_NE(gone.message.find("is not known"), std::string::npos) << gone.message;
}

TEST_F(TextServiceTest, ATextThatEndsBeforeItsTurnIsKeptNowhere) {
  AggregatorOptions wanted;
  wanted.max_in_flight = 1;
  start(std::make_unique<ForgettingEngine>(forgotten), std::move(wanted),
        std::make_unique<GatedEngine>(gate));
  Client client(server->address());
  std::promise<Response> first, second;
  client.submit(token_request(5s), [&](Response response) { first.set_value(response); });
  gate->wait_for_entry();
  const auto text = client.new_sequence();
  client.submit(token(text, 0), [&](Response response) { second.set_value(response); });
  client.end_sequence(text);
  client.status();  // what was sent before has arrived
  gate->open();
  EXPECT_EQ(first.get_future().get().status, Status::answered);
  EXPECT_EQ(second.get_future().get().status, Status::answered);
  EXPECT_TRUE(eventually([&] { return forgotten->count() == 1; }));
}

TEST_F(TextServiceTest, ARefusedTextIsNotWaitedFor) {
  start();
  Client client(server->address());
  const auto refused = ask(client, token(client.new_sequence(), 3));
  EXPECT_EQ(refused.status, Status::failed);
  EXPECT_NE(refused.message.find("is not known"), std::string::npos) << refused.message;
  const auto start = Clock::now();
  server->drain();
  server->join();
  EXPECT_LT(Clock::now() - start, 20s);  // a text gets 28
}

TEST_F(TextServiceTest, TextsOfTwoClientsWithOneNumberAreTwo) {
  start(std::make_unique<ForgettingEngine>(forgotten));
  Client one(server->address()), other(server->address());
  const auto text = one.new_sequence();
  ASSERT_EQ(other.new_sequence(), text);
  ASSERT_EQ(ask(one, token(text, 0)).status, Status::answered);
  ASSERT_EQ(ask(other, token(text, 0)).status, Status::answered);
  one.end_sequence(text);
  EXPECT_TRUE(eventually([&] { return forgotten->count() == 1; }));
  EXPECT_EQ(present_devices(ask(other, token(text, 1))),
            (std::vector<std::string>{"hub", "desk", "cam"}));
}

TEST_F(ServiceTest, TellsTheClientWhatTheModelIs) {
  start();
  const Client client(server->address());
  const auto json = nlohmann::json::parse(client.model_json());
  EXPECT_EQ(json, [this] {
    auto config = model::config_to_json(plan.teacher);
    config["processing"] = model::processing_to_json(plan.teacher.processing);
    config[plans_key]["default"] = "exact";
    config[default_plan_key] = "default";
    return config;
  }());
}

TEST_F(ServiceTest, EightClientsLoseNoRequest) {
  start();
  constexpr int num_clients = 8, num_requests = 50;
  std::atomic<int> answered{0}, wrong{0};
  std::vector<std::thread> threads;
  for (int c = 0; c < num_clients; ++c)
    threads.emplace_back([&, c] {
      Client client(server->address());
      std::atomic<int> open{num_requests};
      for (int i = 0; i < num_requests; ++i) {
        // Many in flight over one connection, but no more than the queue takes from eight.
        const auto seed = static_cast<std::uint8_t>(c * 31 + i);
        const auto expected = expected_answer(pixels(seed), {0, 1, 2});
        client.submit(request_of(seed, 20s), [&, expected](Response response) {
          answered += response.status == Status::answered;
          wrong += response.status != Status::answered || first_number(response.output) != expected;
          --open;
        });
        EXPECT_TRUE(eventually([&] { return open - (num_requests - i - 1) < 6; }));
      }
      EXPECT_TRUE(eventually([&] { return open == 0; }, 30s));
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(answered, num_clients * num_requests);
  EXPECT_EQ(wrong, 0);
}

TEST_F(ServiceTest, OneClientNeverTakesEveryPlace) {
  AggregatorOptions wanted;
  wanted.max_in_flight = 2;
  wanted.max_queue = 6;
  start(std::make_unique<GatedEngine>(gate), wanted);
  Client greedy(server->address()), modest(server->address());
  std::atomic<int> refused{0}, answered{0};
  std::string why;  // written before `refused` is raised
  for (int i = 0; i < 8; ++i)
    greedy.submit(request_of(1, 60s), [&](const Response& response) {
      if (response.status == Status::overloaded) why = response.message;
      (response.status == Status::overloaded ? refused : answered) += 1;
    });
  EXPECT_TRUE(eventually([&] { return refused == 2; })) << refused;
  std::promise<Response> other;
  modest.submit(request_of(2, 60s),
                [&](Response response) { other.set_value(std::move(response)); });
  modest.status();
  gate->open();
  EXPECT_EQ(other.get_future().get().status, Status::answered);
  EXPECT_TRUE(eventually([&] { return answered == 6; })) << answered;
  EXPECT_EQ(why,
            "[serve] saw 6 requests of this client waiting, takes at most 6 of one beside others");
}

TEST_F(ServiceTest, ARequestThatFindsNoMemoryIsRefusedAndItsClientGoesOn) {
  start();
  ServerOptions options;
  options.request_bytes = 100'000;
  RunningServer small(*aggregator, bundle, options);
  Client client(small.address());
  auto large = request_of(1);
  large.input = pixels(1, 5000);
  const auto refused = ask(client, large);
  EXPECT_EQ(refused.status, Status::overloaded);
  EXPECT_EQ(refused.message, "[serve] memory: saw a request of 320 kB, takes at most 100 kB");
  EXPECT_EQ(ask(client, request_of(2)).status, Status::answered);
}

// Whatever throws must not leave a client that is never heard again.
TEST_F(ServiceTest, AClientWhoseMessageCannotBeAnsweredIsLost) {
  AggregatorOptions wanted;
  for (const auto& part : plan.parts) wanted.hosts[part.device] = "127.0.0.1:1";
  wanted.hosts["cam"] = std::string(1u << 20, 'a') + ":1";  // longer than a message
  aggregator = std::make_unique<Aggregator>(bundle, std::vector{plan},
                                            std::make_unique<FakeEngine>(), std::move(wanted));
  std::atomic<int> lost{0};
  ServerOptions options;
  options.log = [&](base::LogLevel, const std::string& line) {
    lost += line.find("client lost: [encode]") != std::string::npos;
  };
  server = std::make_unique<RunningServer>(*aggregator, bundle, options);
  Client client(server->address());
  EXPECT_EQ(text_of_error([&] { client.status(); }),
            "[" + server->address() + "] connection lost: the peer closed the connection");
  EXPECT_TRUE(eventually([&] { return lost == 1; }));
  server.reset();
}

TEST_F(ServiceTest, AClientBeyondThoseThatItTakesIsRefused) {
  start();
  ServerOptions options;
  options.max_clients = 2;
  RunningServer small(*aggregator, bundle, options);
  auto first = std::make_unique<Client>(small.address());
  Client second(small.address());
  EXPECT_THROW(Client third(small.address()), std::runtime_error);
  EXPECT_EQ(ask(second, request_of(1, 20s)).status, Status::answered);
  first.reset();
  EXPECT_TRUE(eventually([&] {
    try {
      Client fourth(small.address());
      return true;
    } catch (const std::runtime_error&) {
      return false;
    }
  }));
}

TEST_F(ServiceTest, PassesOnRefusalsAndErrors) {
  start();
  Client client(server->address());
  auto request = request_of(1);
  request.input.dims = {1, 1, 4, 16};
  auto response = ask(client, request);
  EXPECT_EQ(response.status, Status::failed);
  EXPECT_EQ(response.message, "[submit] input: saw u8 [1, 1, 4, 16], needs u8 [1, 1, 8, 8]");
  request.input.dims = {1, 1, 8, 9};  // more than its bytes
  response = ask(client, request);
  EXPECT_EQ(response.status, Status::failed);
  EXPECT_NE(response.message.find("[encode] tensor: saw 64 bytes"), std::string::npos)
      << response.message;
  EXPECT_EQ(ask(client, request_of(1)).status, Status::answered);
}

TEST_F(ServiceTest, RequireAllTravels) {
  start();
  agents[2]->stop();
  ASSERT_TRUE(eventually([&] { return !aggregator->status()[2].connected; }));
  Client client(server->address());
  auto request = request_of(1);
  EXPECT_EQ(present_devices(ask(client, request)), (std::vector<std::string>{"hub", "desk"}));
  request.require_all = true;
  EXPECT_EQ(ask(client, request).status, Status::no_device);
}

TEST_F(ServiceTest, CancelTravels) {
  start(std::make_unique<GatedEngine>(gate));
  std::promise<Status> status;
  Client client(server->address());
  const auto id =
      client.submit(request_of(1), [&](Response response) { status.set_value(response.status); });
  gate->wait_for_entry();
  client.cancel(id);
  EXPECT_EQ(status.get_future().get(), Status::canceled);
  gate->open();
  EXPECT_EQ(ask(client, request_of(2)).status, Status::answered);
}

TEST_F(ServiceTest, AClientThatGoesTakesItsRequestsAlong) {
  AggregatorOptions wanted;
  wanted.max_in_flight = 1;
  start(std::make_unique<GatedEngine>(gate), std::move(wanted));
  std::atomic<int> failed{0};
  {
    Client client(server->address());
    for (int i = 0; i < 5; ++i)
      client.submit(request_of(1),
                    [&](Response response) { failed += response.status == Status::failed; });
    gate->wait_for_entry();
  }
  EXPECT_EQ(failed, 5);
  Client next(server->address());
  auto answer = std::async(std::launch::async, [&] { return ask(next, request_of(2)); });
  // The first request still sits in the engine; the four behind it are gone.
  gate->open();
  EXPECT_EQ(answer.get().status, Status::answered);
  ASSERT_TRUE(eventually([&] { return aggregator->status()[2].queued == 0; }));
  EXPECT_LE(aggregator->status()[2].answered, 1);
}

TEST_F(ServiceTest, StatusTravels) {
  start();
  agents[1]->stop();
  ASSERT_TRUE(eventually([&] { return !aggregator->status()[1].connected; }));
  Client client(server->address());
  EXPECT_EQ(ask(client, request_of(1)).status, Status::answered);
  const auto status = client.status();
  ASSERT_EQ(status.plans.size(), 1u);
  EXPECT_EQ(status.plans[0].name, "default");
  EXPECT_EQ(status.plans[0].strategy, "decomposed");
  EXPECT_EQ(status.plans[0].devices, "hub, desk, cam");
  const auto& list = status.agents;
  ASSERT_EQ(list.size(), 3u);
  EXPECT_EQ(list[0].device, "hub");
  EXPECT_EQ(list[0].address, agents[0]->address());
  EXPECT_TRUE(list[0].connected);
  EXPECT_EQ(list[0].answered, 1);
  EXPECT_FALSE(list[1].connected);
  EXPECT_FALSE(list[1].last_error.empty());
}

TEST_F(ServiceTest, DrainAnswersWhatIsOpenAndRefusesTheRest) {
  start(std::make_unique<GatedEngine>(gate));
  std::promise<Status> status;
  Client client(server->address());
  client.submit(request_of(1), [&](Response response) { status.set_value(response.status); });
  gate->wait_for_entry();
  server->drain();
  ASSERT_TRUE(eventually([&] {
    return text_of_error([&] { Client(server->address()); }).find("cannot connect") !=
           std::string::npos;
  }));
  const auto refused = ask(client, request_of(2));
  EXPECT_EQ(refused.status, Status::overloaded);
  EXPECT_EQ(refused.message, "[serve] draining, no new requests");
  gate->open();
  EXPECT_EQ(status.get_future().get(), Status::answered);
  server->join();
}

TEST_F(ServiceTest, ALostServerIsAnOutcome) {
  start(std::make_unique<GatedEngine>(gate));
  std::promise<Response> answer;
  Client client(server->address());
  client.submit(request_of(1), [&](Response response) { answer.set_value(std::move(response)); });
  gate->wait_for_entry();
  const auto address = server->address();
  server.reset();
  const auto response = answer.get_future().get();
  EXPECT_EQ(response.status, Status::failed);
  EXPECT_EQ(response.message, "[" + address + "] connection lost: the peer closed the connection");
  EXPECT_EQ(ask(client, request_of(2)).status, Status::failed);
  EXPECT_EQ(text_of_error([&] { client.status(); }),
            "[" + address + "] connection lost: the peer closed the connection");
  EXPECT_EQ(text_of_error([&] { Client again(address); }),
            "[" + address + "] cannot connect: Connection refused");
  gate->open();
}

TEST_F(ServiceTest, AClientAtAnAgentsPortIsTold) {
  start();
  EXPECT_EQ(text_of_error([&] { Client client(agents[2]->address()); }),
            "[" + agents[2]->address() +
                "] cannot connect: refused: agent 'cam': role: saw 'client', needs 'aggregator'");
  EXPECT_EQ(text_of_error([] { Client client("nowhere"); }),
            "[address] saw 'nowhere', needs host:port");
}

TEST_F(ServiceTest, GarbageEndsAConnectionAndNothingElse) {
  start();
  Client client(server->address());
  const auto address = net::Address::parse(server->address());
  for (const std::string& text :
       {std::string("GET / HTTP/1.1\r\nHost: server\r\nAccept: everything at all\r\n\r\n"),
        std::string(5000, '\0'), std::string(5000, '\xff')}) {
    boost::asio::io_context io;
    boost::asio::ip::tcp::socket socket(io);
    socket.connect({boost::asio::ip::make_address(address.host),
                    static_cast<std::uint16_t>(std::stoi(address.port))});
    boost::system::error_code ended;
    socket.write_some(boost::asio::buffer(text), ended);
    char byte = 0;
    while (!ended) socket.read_some(boost::asio::buffer(&byte, 1), ended);
  }
  EXPECT_EQ(ask(client, request_of(1)).status, Status::answered);
}

TEST_F(ServiceTest, TheServerSaysWhyItCannotStart) {
  start();
  ServerOptions options;
  options.listen = server->address();
  EXPECT_EQ(text_of_error([&] { Server(*aggregator, bundle, options); }),
            "[listen] " + server->address() + ": Address already in use");
  options.listen = "0.0.0.0:0";
  EXPECT_EQ(text_of_error([&] { Server(*aggregator, bundle, options); }),
            "[listen] 0.0.0.0:0: saw an address beyond loopback, needs --insecure, because nothing "
            "protects it yet");
}

}  // namespace
}  // namespace cleave::infer
