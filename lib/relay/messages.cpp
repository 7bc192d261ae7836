#include "messages.hpp"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <tenon/detail/block.hpp>
#include <utility>

namespace tenon::relay {

using Json = nlohmann::json;

namespace {

constexpr std::uint64_t kMostMilliseconds = 1ULL << 40U;  // 35 years
constexpr std::size_t kMostText = 1024;

Message make(const char* type, const Json& fields) { return {type, fields.dump(), {}}; }

Message with_layout(Message message, const Layout& layout) {
  const auto [block, bytes] = layout.bytes();
  message.blob.assign(reinterpret_cast<const char*>(block), bytes);
  return message;
}

/// The fields of one message, each checked as it is taken.
class Fields {
 public:
  Fields(const Message& message, const char* type)
      : type_(type), json_(Json::parse(message.fields, nullptr, false)) {
    if (message.type != type) fail("type", "'" + message.type + "'");
    if (!json_.is_object()) fail("text", "no JSON object");
  }

  [[nodiscard]] std::uint64_t number(const char* name, std::uint64_t least,
                                     std::uint64_t most) const {
    const auto field = json_.find(name);
    if (field == json_.end() || !field->is_number_unsigned()) fail(name, "no natural number");
    const auto value = field->get<std::uint64_t>();
    if (value < least || value > most) fail(name, std::to_string(value));
    return value;
  }
  [[nodiscard]] std::uint64_t version() const { return number("version", 1, format::kMaxRecord); }
  [[nodiscard]] std::uint64_t deadline() const {
    return number("deadline_ms", 0, kMostMilliseconds);
  }
  [[nodiscard]] std::string text(const char* name, std::size_t most = kMostText) const {
    const auto field = json_.find(name);
    if (field == json_.end() || !field->is_string()) fail(name, "no text");
    auto value = field->get<std::string>();
    if (value.size() > most) fail(name, std::to_string(value.size()) + " bytes long");
    return value;
  }
  [[nodiscard]] bool flag(const char* name) const {
    const auto field = json_.find(name);
    if (field == json_.end() || !field->is_boolean()) fail(name, "neither true nor false");
    return field->get<bool>();
  }
  [[nodiscard]] MemoryKind memory() const {
    const std::string text = this->text("memory");
    for (const MemoryKind kind : {MemoryKind::host, MemoryKind::cuda})
      if (text == tenon::name_of(kind)) return kind;
    fail("memory", "'" + text + "'");
  }
  [[nodiscard]] std::optional<MemoryKind> memory_or_same() const {
    if (text("memory") == "same") return std::nullopt;
    return memory();
  }
  [[nodiscard]] std::optional<ReduceOp> reduce() const {
    const std::string text = this->text("reduce");
    if (text == "no") return std::nullopt;
    for (const ReduceOp op : {ReduceOp::sum, ReduceOp::mean})
      if (text == name_of(op)) return op;
    fail("reduce", "'" + text + "'");
  }
  [[nodiscard]] EngineKind engine() const {
    const std::string text = this->text("engine");
    for (const EngineKind kind : {EngineKind::gloo, EngineKind::nccl})
      if (text == name_of(kind)) return kind;
    fail("engine", "'" + text + "'");
  }
  [[nodiscard]] const Json& list(const char* name) const {
    const auto field = json_.find(name);
    if (field == json_.end() || !field->is_array()) fail(name, "no list");
    return *field;
  }
  [[noreturn]] void fail(const std::string& field, const std::string& value) const {
    throw Error(Errc::BadFormat, "a relay's message '" + std::string(type_) + "': its " + field +
                                     " is " + detail::plain(value));
  }

 private:
  const char* type_;
  Json json_;
};

// Texts of this machine may be no UTF-8, which JSON must be.
std::string printable(const std::string& text) {
  std::string out = text.substr(0, kMostText);
  for (char& c : out)
    if (static_cast<unsigned char>(c) >= 0x80) c = '?';
  return out;
}

}  // namespace

const char* name_of(EngineKind kind) noexcept {
  switch (kind) {
    case EngineKind::automatic:
      return "automatic";
    case EngineKind::gloo:
      return "gloo";
    case EngineKind::nccl:
      return "nccl";
  }
  return "unknown";
}

const char* name_of(ReduceOp op) noexcept { return op == ReduceOp::mean ? "mean" : "sum"; }

Message to_message(const Hello& m) {
  return make(m.kType, {{"library", m.library},
                        {"host", printable(m.host)},
                        {"pid", m.pid},
                        {"memory", m.memory ? tenon::name_of(*m.memory) : "same"},
                        {"nccl", m.nccl},
                        {"asks", m.asks},
                        {"shard", m.shard},
                        {"keeps", m.keeps},
                        {"reduce", m.reduce ? name_of(*m.reduce) : "no"},
                        {"layout_hash", m.layout_hash}});
}
Message to_message(const Welcome& m, const Layout& layout) {
  Message message = make(m.kType, {{"library", m.library},
                                   {"publication", m.publication},
                                   {"instance", m.instance},
                                   {"boot_id", m.boot_id},
                                   {"memory", tenon::name_of(m.memory)},
                                   {"layout_hash", m.layout_hash},
                                   {"reduce", m.reduce ? name_of(*m.reduce) : "no"}});
  return with_layout(std::move(message), layout);
}
Message to_message(const Want& m, const Layout& layout) {
  return with_layout(make(m.kType, Json::object()), layout);
}
Message to_message(const FormGroup& m) {
  return make(m.kType, {{"group", m.group},
                        {"rank", static_cast<unsigned>(m.rank)},
                        {"size", static_cast<unsigned>(m.size)},
                        {"senders", static_cast<unsigned>(m.senders)},
                        {"engine", name_of(m.engine)},
                        {"deadline_ms", m.deadline_ms}});
}
Message to_message(const Ready& m) {
  return make(m.kType,
              {{"group", m.group}, {"version", m.version}, {"failure", printable(m.failure)}});
}
Message to_message(const Offer& m) {
  return make(m.kType, {{"version", m.version}, {"deadline_ms", m.deadline_ms}});
}
Message to_message(const Answer& m) {
  return make(m.kType, {{"version", m.version}, {"refusal", printable(m.refusal)}});
}
Message to_message(const Transfer& m) {
  Message message = make(m.kType, {{"version", m.version}, {"deadline_ms", m.deadline_ms}});
  message.blob = m.plan;
  return message;
}
Message to_message(const Reduce& m) {
  std::vector<unsigned> takers(m.takers.begin(), m.takers.end());
  return make(m.kType,
              {{"version", m.version}, {"takers", takers}, {"deadline_ms", m.deadline_ms}});
}
Message to_message(const Commit& m) {
  Message message = make(m.kType, {{"version", m.version}});
  message.blob.assign(reinterpret_cast<const char*>(m.sums.data()),
                      m.sums.size() * sizeof(m.sums[0]));
  return message;
}
Message to_message(const Done& m) {
  return make(m.kType, {{"group", m.group},
                        {"version", m.version},
                        {"has", m.has},
                        {"in_group", m.in_group},
                        {"failure", printable(m.failure)}});
}

Layout read_layout(const Message& message) {
  detail::Block block = detail::allocate_block(std::max<std::size_t>(message.blob.size(), 1));
  std::memcpy(block.get(), message.blob.data(), message.blob.size());
  return Layout::parse(std::move(block), message.blob.size());
}

template <>
Hello read<Hello>(const Message& message) {
  const Fields f(message, Hello::kType);
  return {f.text("library"),
          f.text("host"),
          f.number("pid", 0, ~std::uint64_t{0}),
          f.memory_or_same(),
          f.flag("nccl"),
          f.flag("asks"),
          f.flag("shard"),
          f.flag("keeps"),
          f.reduce(),
          f.number("layout_hash", 0, ~std::uint64_t{0})};
}
template <>
Welcome read<Welcome>(const Message& message) {
  const Fields f(message, Welcome::kType);
  return {f.text("library"),  f.text("publication"),
          f.text("instance"), f.text("boot_id"),
          f.memory(),         f.number("layout_hash", 0, ~std::uint64_t{0}),
          f.reduce()};
}
template <>
FormGroup read<FormGroup>(const Message& message) {
  const Fields f(message, FormGroup::kType);
  const std::uint64_t size = f.number("size", 2, 1U << 20U);
  return {f.number("group", 1, ~std::uint64_t{0}),
          static_cast<int>(f.number("rank", 1, size - 1)),
          static_cast<int>(size),
          static_cast<int>(f.number("senders", 1, size - 1)),
          f.engine(),
          f.deadline()};
}
template <>
Ready read<Ready>(const Message& message) {
  const Fields f(message, Ready::kType);
  return {f.number("group", 1, ~std::uint64_t{0}), f.number("version", 0, format::kMaxRecord),
          f.text("failure")};
}
template <>
Offer read<Offer>(const Message& message) {
  const Fields f(message, Offer::kType);
  return {f.version(), f.deadline()};
}
template <>
Answer read<Answer>(const Message& message) {
  const Fields f(message, Answer::kType);
  return {f.version(), f.text("refusal")};
}
template <>
Transfer read<Transfer>(const Message& message) {
  const Fields f(message, Transfer::kType);
  Transfer transfer{f.version(), message.blob, f.deadline()};
  for (const char c : transfer.plan)
    if (c != static_cast<char>(Carriage::kept) && c != static_cast<char>(Carriage::broadcast) &&
        c != static_cast<char>(Carriage::direct))
      f.fail("plan", "with '" + std::string(1, c) + "'");
  return transfer;
}
template <>
Reduce read<Reduce>(const Message& message) {
  const Fields f(message, Reduce::kType);
  Reduce reduce{f.version(), {}, f.deadline()};
  for (const Json& taker : f.list("takers")) {
    if (!taker.is_number_unsigned() || taker.get<std::uint64_t>() >= 1U << 20U)
      f.fail("takers", "with one that is no rank");
    reduce.takers.push_back(taker.get<int>());
  }
  return reduce;
}
template <>
Commit read<Commit>(const Message& message) {
  const Fields f(message, Commit::kType);
  Commit commit{f.version(), {}};
  if (message.blob.size() % sizeof(commit.sums[0]) != 0)
    f.fail("sums", std::to_string(message.blob.size()) + " bytes long");
  commit.sums.resize(message.blob.size() / sizeof(commit.sums[0]));
  if (!commit.sums.empty())
    std::memcpy(commit.sums.data(), message.blob.data(), message.blob.size());
  return commit;
}
template <>
Done read<Done>(const Message& message) {
  const Fields f(message, Done::kType);
  return {f.number("group", 1, ~std::uint64_t{0}), f.version(),
          f.number("has", 0, format::kMaxRecord), f.flag("in_group"), f.text("failure")};
}

}  // namespace tenon::relay
