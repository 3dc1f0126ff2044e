// Agents that exchange values with each other, over sockets and plain C++ engines.

#include <array>
#include <map>
#include <random>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>

#include "infer/lot.hpp"
#include "infer/play.hpp"
#include "net/mesh.hpp"
#include "tests/infer/fake_parts.hpp"
#include "tests/net/recording_stream.hpp"
#include "tests/optimizer/examples.hpp"
#include "tests/support/proxy.hpp"

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
    plan.teacher_digest = std::string(64, 'a');
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
    auto made = std::make_unique<Aggregator>(*bundle, std::vector{plan},
                                             std::make_unique<FakeEngine>(), options);
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
  for (const Make make :
       {Make(examples::tensor_plan), Make(star_plan), Make(examples::pipeline_plan)}) {
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

/// What agents wrote of the values of one request, without their headers. All of it is frames, of
/// which the last may not be whole yet.
std::uint64_t bytes_of_values(const std::vector<std::byte>& stream, std::uint64_t request) {
  std::uint64_t bytes = 0;
  std::size_t at = 0;
  while (at + net::header_bytes <= stream.size()) {
    const auto header = net::decode_header(stream.data() + at, {});
    if (!header.has_value()) {
      ADD_FAILURE() << "no frame at byte " << at;
      return 0;
    }
    if (header->kind == static_cast<std::uint16_t>(net::Kind::value) && header->request == request)
      bytes += header->payload_length;
    at += net::header_bytes + header->body_length + header->payload_length;
  }
  return bytes;
}

// Counted where they leave: two all-reduces a layer, each 2(P − 1) times the stream over all
// devices, in a ring as in a star; a stream a stage; and the answer's logits.
TEST_F(Routes, ExchangeAsManyBytesAsTheFormulasSay) {
  const model::ModelConfig config = fake_teacher();
  const std::int64_t stream = 4 * config.num_tokens() * config.width, layers = config.num_layers();
  const std::int64_t answer = 4 * config.classes;
  using Make = plan::Plan (*)(const model::ModelConfig&, std::size_t);
  for (const std::int64_t devices : {2, 3}) {
    const std::pair<Make, std::int64_t> cases[] = {
        {examples::tensor_plan, layers * 2 * 2 * (devices - 1) * stream + answer},
        {star_plan, layers * 2 * 2 * (devices - 1) * stream + answer},
        {examples::pipeline_plan, (devices - 1) * stream + answer}};
    for (const auto& [make, needed] : cases) {
      agents.clear();
      hosts.clear();
      use(make(config, static_cast<std::size_t>(devices)));
      // One for each connection: frames of two do not mix.
      std::mutex guard;
      std::vector<std::shared_ptr<net::Record>> records;  // outlive the agents
      AgentOptions options;
      options.wrap_stream = [&](std::unique_ptr<net::Stream> inner, const std::string&) {
        const std::lock_guard lock(guard);
        records.push_back(std::make_shared<net::Record>());
        return std::make_unique<net::RecordingStream>(std::move(inner), records.back());
      };
      start_all(options);
      const auto asked = aggregator();
      // The first may come before the links, and be taken back and begun again.
      const Response first = ask(*asked, request_of(3));
      ASSERT_EQ(first.status, Status::answered) << first.message;
      // What a device still has to send when the answer is there is canceled: it is asked until
      // nothing was. What was sent is noted a moment after it has arrived.
      const auto wanted = static_cast<std::uint64_t>(needed);
      std::uint64_t bytes = 0;
      for (int i = 0; i < 50 && bytes < wanted; ++i) {
        std::promise<Response> promised;
        const auto request = asked->submit(
            request_of(3), [&](Response response) { promised.set_value(std::move(response)); });
        const Response response = promised.get_future().get();
        ASSERT_EQ(response.status, Status::answered) << response.message;
        eventually(
            [&] {
              const std::lock_guard lock(guard);
              bytes = 0;
              for (const auto& record : records)
                bytes += bytes_of_values(record->written(), request);
              return bytes >= wanted;
            },
            300ms);
        ASSERT_LE(bytes, wanted) << plan.strategy << " on " << devices;
      }
      EXPECT_EQ(bytes, wanted) << plan.strategy << " on " << devices;
      agents.clear();
    }
  }
}

/// Agents each behind a proxy, which aggregator and agents alike have to pass.
class BadRoutes : public Routes {
 protected:
  void start_behind_proxies() {
    start_all();
    std::uint64_t seed = 1;
    for (auto& [device, address] : hosts) {
      proxies[device] = std::make_unique<testing::Proxy>(address, ++seed);
      address = proxies.at(device)->address();
    }
  }
  void set(const testing::Mischief& mischief) {
    for (const auto& [device, proxy] : proxies)
      for (const auto way : {testing::Proxy::Way::forth, testing::Proxy::Way::back})
        proxy->set(way, mischief);
  }
  std::map<std::string, std::unique_ptr<testing::Proxy>> proxies;
};

// Delayed, damaged, cut or cut short: each request ends, those that are answered are answered
// rightly, and once the links are well the next is.
TEST_F(BadRoutes, LoseNoRequestAndGiveNoWrongAnswer) {
  using testing::Mischief;
  using Make = plan::Plan (*)(const model::ModelConfig&, std::size_t);
  std::vector<std::pair<std::string, Mischief>> kinds(5);
  kinds[0].first = "delay";
  kinds[0].second.delay = 1ms;
  kinds[1].first = "damage";
  kinds[1].second.flip_probability = 1e-5;
  kinds[2].first = "cut";
  kinds[2].second.cut_probability = 1e-5;
  kinds[3].first = "end";
  kinds[3].second.end_after = 6000;
  kinds[4].first = "swallow";
  kinds[4].second.swallows = true;
  for (const Make make : {Make(examples::tensor_plan), Make(examples::pipeline_plan)}) {
    agents.clear();
    proxies.clear();
    hosts.clear();
    use(make(fake_teacher(), 3));
    start_behind_proxies();
    const auto asked = aggregator();
    for (const auto& [kind, mischief] : kinds) {
      set(mischief);
      int answered = 0;
      for (std::uint8_t seed = 1; seed <= (kind == "swallow" ? 2 : 25); ++seed) {
        const auto deadline = kind == "swallow" ? 300ms : 1000ms;
        const auto began = Clock::now();
        const Request request = request_of(seed, deadline);
        const Response response = ask(*asked, request);
        EXPECT_LT(Clock::now() - began, deadline + 5s) << kind;
        if (response.status != Status::answered) {
          EXPECT_FALSE(response.message.empty()) << kind;
          continue;
        }
        ++answered;
        EXPECT_TRUE(same(response.output, expected(plan, request.input)))
            << plan.strategy << ", " << kind;
      }
      if (kind == "delay") {
        EXPECT_EQ(answered, 25) << plan.strategy << "\n" << lines();
      }
      set({});
      for (const auto& [device, proxy] : proxies) proxy->cut();
      EXPECT_TRUE(eventually(
          [&] {
            const Request request = request_of(99, 1000ms);
            const Response response = ask(*asked, request);
            return response.status == Status::answered &&
                   same(response.output, expected(plan, request.input));
          },
          30s))
          << plan.strategy << ", after " << kind << "\n"
          << lines();
    }
  }
}

/// Of a bundle with this plan, under another name.
plan::Plan named(plan::Plan made, const std::string& name) {
  made.teacher_digest = std::string(64, 'a');
  made.name = name;
  return made;
}

TEST_F(Routes, ServeSeveralPlansOfOneBundle) {
  const plan::Plan line = named(examples::pipeline_plan(fake_teacher(), 2), "line");
  use(examples::tensor_plan(fake_teacher(), 3));
  bundle.emplace(write_bundle(folder.path(), {plan, line}));
  for (const auto& part : plan.parts) {
    AgentOptions options;
    options.device = part.device;
    options.log = [this](base::LogLevel, const std::string& text) { note(text); };
    std::vector<plan::Plan> held{plan};
    if (plan::rank_of(line, part.device)) held.push_back(line);
    agents[part.device] = std::make_unique<RunningAgent>(*bundle, held, std::move(options));
    hosts[part.device] = agents.at(part.device)->address();
  }
  // Within the holdings, and told to nobody before: the same shares in another order of sums.
  plan::Plan star = named(star_plan(fake_teacher(), 3), "star");
  // Beyond them.
  plan::Plan beyond = named(examples::pipeline_plan(fake_teacher(), 3), "beyond");
  AggregatorOptions options;
  options.hosts = hosts;
  Aggregator asked(*bundle, {plan, line, star, beyond}, std::make_unique<FakeEngine>(), options);
  asked.wait_for_agents(0, 10s);
  for (const plan::Plan* wanted : std::vector<const plan::Plan*>{&plan, &line, &star, &plan}) {
    Request request = request_of(7);
    request.plan = wanted == &plan ? "" : wanted->name;
    const Response response = ask(asked, request);
    ASSERT_EQ(response.status, Status::answered) << wanted->name << ": " << response.message;
    EXPECT_TRUE(same(response.output, expected(*wanted, request.input))) << wanted->name;
    EXPECT_EQ(present_devices(response).size(), wanted->parts.size()) << wanted->name;
  }
  Request request = request_of(7);
  request.plan = "beyond";
  Response response = ask(asked, request);
  EXPECT_EQ(response.status, Status::no_device);
  EXPECT_NE(response.message.find("refused the plan: [plan 'beyond'] holdings/d"),
            std::string::npos)
      << response.message;
  EXPECT_NE(response.message.find("; cut the bundle again"), std::string::npos);
  request.plan = "night";
  response = ask(asked, request);
  EXPECT_EQ(response.status, Status::failed);
  EXPECT_EQ(response.message,
            "[submit] plan: saw 'night', needs one of default, line, star, beyond");
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

// A prompt by rows, then several tokens by heads and columns, then one: aggregator and agents mean
// the same programs.
TEST_F(Routes, ContinueATextWithSeveralTokens) {
  const auto teacher = examples::llama(3, 24, 4, 1, 48, 20, 64);
  for (const auto make : {examples::voltage_plan, examples::hepti_rows_plan, examples::galaxy_plan,
                          examples::prism_plan}) {
    agents.clear();
    hosts.clear();
    plan::Plan made = make(teacher, 3);
    made.shape = {1, 9, 0};
    use(made);
    start_all();
    const auto asked = aggregator();
    Request request = request_of(1, 10s);
    request.sequence = {asked->new_sequence(), 0, 32};
    for (const std::int64_t tokens : {9, 5, 1, 4}) {
      const std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens), 3);
      request.input.element = base::Element::i32;
      request.input.dims = {1, tokens};
      request.input.data = net::Buffer::copy_of(ids.data(), ids.size() * sizeof(std::int32_t));
      FakeEngine engine;
      const Response response = ask(*asked, request);
      ASSERT_EQ(response.status, Status::answered) << plan.strategy << response.message;
      EXPECT_TRUE(
          same(response.output, run_locally(engine, plan, request.input, {}, request.sequence)))
          << plan.strategy << ", " << tokens << " behind " << request.sequence.past;
      request.sequence.past += tokens;
    }
  }
}

/// Stops in the second layer, behind what devices exchanged in the first.
class HalfWayEngine : public FakeEngine {
 public:
  explicit HalfWayEngine(std::shared_ptr<Gate> gate) : gate_(std::move(gate)) {}
  net::Value compute(const plan::Instruction& instruction, const plan::Program& program,
                     const std::vector<const net::Value*>& operands,
                     const Sequence& sequence) override {
    const auto* norm = std::get_if<plan::Norm>(&instruction);
    if (norm != nullptr && norm->layer == 1) gate_->pass();
    return FakeEngine::compute(instruction, program, operands, sequence);
  }

 private:
  std::shared_ptr<Gate> gate_;
};

/// A plan of every strategy whose devices exchange values, with products beside the transfers where
/// it has them.
std::vector<plan::Plan> exchanging_plans() {
  const model::ModelConfig config = fake_teacher();
  std::vector<plan::Plan> plans;
  for (const auto make :
       {examples::tensor_plan, star_plan, examples::pipeline_plan, examples::voltage_plan,
        examples::hepti_rows_plan, examples::hepti_columns_plan, examples::hepti_heads_plan,
        examples::galaxy_plan, examples::prism_plan})
    plans.push_back(make(config, 3));
  for (const std::size_t p : {3u, 4u, 5u}) {
    plans.push_back(plans[p]);
    plans.back().overlap = true;
  }
  return plans;
}

// The second device holds the third one up in the middle of the exchange. Each has room for one
// request: the next one is answered only where the lost one has ended everywhere.
TEST_F(Routes, ADeviceLostInTheExchangeEndsTheRequestAtEveryOtherOne) {
  AgentOptions narrow;
  narrow.max_requests = 1;
  for (const plan::Plan& made : exchanging_plans()) {
    const std::string what = made.strategy + (made.overlap ? ", beside the products" : "");
    agents.clear();
    hosts.clear();
    use(made);
    const auto gate = std::make_shared<Gate>();
    start("d0", narrow);
    start("d1", narrow, std::make_unique<HalfWayEngine>(gate));
    start("d2", narrow);
    const auto asked = aggregator();
    auto promise = std::make_shared<std::promise<Response>>();
    auto answer = promise->get_future();
    asked->submit(request_of(1, 30s),
                  [promise](Response response) { promise->set_value(std::move(response)); });
    gate->wait_for_entry();
    agents.at("d2").reset();
    ASSERT_EQ(answer.wait_for(10s), std::future_status::ready) << what << "\n" << lines();
    const Response response = answer.get();
    EXPECT_EQ(response.status, Status::no_device) << what;
    EXPECT_NE(response.message.find("'d2'"), std::string::npos) << what << response.message;
    EXPECT_EQ(response.message.find('\n'), std::string::npos) << what << response.message;
    gate->open();
    start("d2", narrow);
    asked->wait_for_agents(3, 10s);
    const Request again = request_of(2, 10s);
    const Response next = ask(*asked, again);
    ASSERT_EQ(next.status, Status::answered) << what << next.message << "\n" << lines();
    EXPECT_TRUE(same(next.output, expected(plan, again.input))) << what;
  }
}

/// Whoever greets so, and says what the test wants.
class Impostor {
 public:
  Impostor(const std::string& address, const net::Hello& hello) : socket_(io_) {
    const auto at = net::Address::parse(address);
    socket_.connect(
        {boost::asio::ip::make_address(at.host), static_cast<std::uint16_t>(std::stoi(at.port))});
    socket_.set_option(boost::asio::ip::tcp::no_delay(true));
    send(hello);
  }
  /// A write that fails, as where the agent has closed already, shows in the next `receive`.
  void send(const net::Message& message) {
    const net::Frame frame = net::encode(message);
    const std::array<boost::asio::const_buffer, 2> parts{
        boost::asio::buffer(frame.head),
        boost::asio::buffer(frame.payload.data(), frame.payload.size())};
    boost::system::error_code closed;
    boost::asio::write(socket_, parts, closed);
  }
  void send(const Asked& asked) {
    send(net::Message(asked));
    send(net::Message(asked.input()));
  }
  /// Pings aside.
  net::Message receive() {
    while (true) {
      net::Message message = receive_any();
      if (!std::holds_alternative<net::Ping>(message)) return message;
    }
  }

 private:
  net::Message receive_any() {
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

  boost::asio::io_context io_;
  boost::asio::ip::tcp::socket socket_;
};

/// The agent d1 between an aggregator and a d0 that the test plays.
class Between : public Routes {
 protected:
  static constexpr std::uint64_t origin = 77;
  net::Hello hello(net::Role role, const std::string& name) const {
    net::Hello hello;
    hello.role = role;
    hello.epoch = 1;
    hello.bundle = bundle->identity();
    hello.device = "d1";
    hello.name = name;
    hello.origin = role == net::Role::aggregator ? origin : 0;
    return hello;
  }
  void join(const AgentOptions& options = {}) {
    use(examples::tensor_plan(fake_teacher(), 2));
    start("d1", options);
    asker = std::make_unique<Impostor>(hosts.at("d1"), hello(net::Role::aggregator, "test"));
    asker->receive();
    asker->send(told(plan));
    EXPECT_EQ(std::get<net::PlanReply>(asker->receive()).refusal, "");
    peer = std::make_unique<Impostor>(hosts.at("d1"), hello(net::Role::agent, "d0"));
    peer->receive();
  }
  Asked admit(std::uint64_t request) const {
    Asked admit;
    admit.request = request;
    admit.epoch = 1;
    admit.plan = plan::digest_of(plan);
    admit.digest = program().digest;
    admit.deadline_ms = 5000;
    admit.tensor = pixels(3);
    admit.batch = 1;
    return admit;
  }
  plan::Program program() const { return plan::compile(plan, {1}).at(1); }
  /// What d0 is to send, by tag; all zeros.
  std::vector<net::ValueMessage> values(std::uint64_t request) const {
    std::vector<net::ValueMessage> messages;
    const plan::Program of_d1 = program();
    for (const auto& instruction : of_d1.instructions)
      if (const auto* receive = std::get_if<plan::Receive>(&instruction);
          receive && receive->peer == 0) {
        net::ValueMessage message;
        message.origin = origin;
        message.request = request;
        message.tag = receive->tag;
        message.tensor.dims = of_d1.values.at(static_cast<std::size_t>(receive->result)).dims;
        const std::vector<float> zeros(static_cast<std::size_t>(message.tensor.count()), 0);
        message.tensor.data = net::Buffer::copy_of(zeros.data(), zeros.size() * sizeof(float));
        messages.push_back(std::move(message));
      }
    return messages;
  }

  std::unique_ptr<Impostor> asker, peer;
};

TEST_F(Between, ValuesMayComeBeforeTheirRequest) {
  join();
  for (const auto& value : values(5)) peer->send(value);
  // Of another aggregator's request of the same number: not for this one.
  for (auto value : values(5)) {
    value.origin = 78;
    value.tensor.data =
        net::Buffer::copy_of(std::vector<float>(1000, 1e30f).data(), value.tensor.data.size());
    peer->send(value);
  }
  std::this_thread::sleep_for(20ms);
  asker->send(admit(5));
  const net::Message answer = asker->receive();
  ASSERT_TRUE(std::holds_alternative<net::Done>(answer)) << lines();
  EXPECT_EQ(std::get<net::Done>(answer).request, 5u);
}

TEST_F(Between, AValueOfAnotherShapeEndsItsRequestAlone) {
  join();
  asker->send(admit(5));
  asker->send(admit(6));
  auto wrong = values(5).front();
  wrong.tensor.dims = {1};
  wrong.tensor.data = net::Buffer::copy_of("1234", 4);
  peer->send(wrong);
  const net::Message answer = asker->receive();
  ASSERT_TRUE(std::holds_alternative<net::Failed>(answer));
  const auto& failed = std::get<net::Failed>(answer);
  EXPECT_EQ(failed.request, 5u);
  EXPECT_EQ(failed.text.rfind("[receive] value ", 0), 0u) << failed.text;
  EXPECT_NE(failed.text.find(" from rank 0: saw f32 [1], needs f32 [1, "), std::string::npos)
      << failed.text;
  for (const auto& value : values(6)) peer->send(value);
  EXPECT_TRUE(std::holds_alternative<net::Done>(asker->receive()));
}

TEST_F(Between, ValuesThatNobodyAdmitsAreBounded) {
  use(examples::tensor_plan(fake_teacher(), 2));
  AgentOptions options;
  for (const auto& value : values(5))
    options.waiting_bytes = value.tensor.data.size() + sizeof(Lot::Waiting) +
                            (value.tag == 0 ? 0 : options.waiting_bytes);
  join(options);  // room for the values of one request
  for (const auto& value : values(5)) peer->send(value);
  for (const auto& value : values(7)) peer->send(value);
  std::this_thread::sleep_for(20ms);
  asker->send(admit(5));
  EXPECT_TRUE(std::holds_alternative<net::Done>(asker->receive())) << lines();
  asker->send(admit(7));
  const net::Message answer = asker->receive();
  ASSERT_TRUE(std::holds_alternative<net::Failed>(answer));
  EXPECT_EQ(std::get<net::Failed>(answer).text.rfind(
                "values of it came before it was admitted, and all that wait take more than ", 0),
            0u);
  for (const auto& value : values(6)) peer->send(value);
  asker->send(admit(6));
  EXPECT_TRUE(std::holds_alternative<net::Done>(asker->receive())) << "room is free again";
}

TEST_F(Between, APeerThatSaysAnythingElseIsCutOff) {
  join();
  peer->send(net::Message(admit(5)));
  EXPECT_TRUE(eventually([&] {
    return lines().find("link lost: message: of a kind that does not belong here") !=
           std::string::npos;
  })) << lines();
  asker->send(admit(6));
  const net::Message answer = asker->receive();
  ASSERT_TRUE(std::holds_alternative<net::Busy>(answer));
  EXPECT_EQ(std::get<net::Busy>(answer).text, "no link to 'd0'");
}

TEST_F(Between, ALostPeerEndsWhatWaitsForItAndIsNamed) {
  join();
  asker->send(admit(5));
  const net::Message first = peer->receive();  // it computes, and waits for us
  ASSERT_TRUE(std::holds_alternative<net::ValueMessage>(first));
  EXPECT_EQ(std::get<net::ValueMessage>(first).origin, origin);
  peer.reset();
  const net::Message answer = asker->receive();
  ASSERT_TRUE(std::holds_alternative<net::Abort>(answer))
      << net::name_of(net::kind_of(answer)) << "\n"
      << lines();
  EXPECT_EQ(std::get<net::Abort>(answer).request, 5u);
  EXPECT_EQ(std::get<net::Abort>(answer).text, "lost 'd0'");
}

TEST_F(Between, AnAggregatorWithoutAnOriginIsRefused) {
  use(examples::tensor_plan(fake_teacher(), 2));
  start("d1");
  auto nameless = hello(net::Role::aggregator, "test");
  nameless.origin = 0;
  const net::Message answer = Impostor(hosts.at("d1"), nameless).receive();
  ASSERT_TRUE(std::holds_alternative<net::Refused>(answer));
  EXPECT_EQ(std::get<net::Refused>(answer).text,
            "agent 'd1': origin: saw 0, needs a number that names the aggregator");
}

TEST_F(Routes, TakeOnlyAgentsOfThePlanThatDial) {
  use(examples::tensor_plan(fake_teacher(), 3));
  start("d1");
  const auto refusal = [&](const std::string& name) {
    net::Hello hello;
    hello.role = net::Role::agent;
    hello.bundle = bundle->identity();
    hello.device = "d1";
    hello.name = name;
    const net::Message answer = Impostor(hosts.at("d1"), hello).receive();
    const auto* refused = std::get_if<net::Refused>(&answer);
    return refused ? refused->text : "welcome";
  };
  EXPECT_EQ(refusal("d0"), "welcome");
  EXPECT_EQ(refusal("d2"),
            "agent 'd1': link: saw agent 'd2', needs a device of the bundle that dials 'd1'");
  EXPECT_EQ(refusal("phone"),
            "agent 'd1': link: saw agent 'phone', needs a device of the bundle that dials 'd1'");
}

}  // namespace
}  // namespace cleave::infer
