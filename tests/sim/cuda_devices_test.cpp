// Several GPUs in one process: whatever device a thread has current, Tenon works under the one that
// the publication is on, or open under, and makes no context elsewhere.
#include <future>
#include <sim/sim_support.hpp>

namespace tenon::test {
namespace {

namespace cuda = detail::cuda;

void use_device(int device) { cuda::check(cudaSetDevice(device), "cudaSetDevice"); }

int current_device() {
  int device = -1;
  cuda::check(cudaGetDevice(&device), "cudaGetDevice");
  return device;
}

/// In a thread that has never chosen a device; it must be where it was afterwards.
void in_fresh_thread(const std::function<void()>& body) {
  std::async(std::launch::async, [&] {
    body();
    EXPECT_EQ(current_device(), 0) << "the thread's device was changed";
  }).get();
}

/// Device memory whose bytes the test reads and writes by the simulator's view of it.
class OnDevice {
 public:
  OnDevice(int device, std::uint64_t bytes) : bytes_(bytes) {
    const cuda::DeviceScope scope(device);
    cuda::check(cudaMalloc(&memory_, std::max<std::uint64_t>(bytes, 1)), "cudaMalloc of a test");
  }
  ~OnDevice() { (void)cudaFree(memory_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  [[nodiscard]] void* data() const { return memory_; }
  void put(const std::vector<std::byte>& from) const {
    std::memcpy(sim::host_view(memory_), from.data(), from.size());
  }
  [[nodiscard]] std::vector<std::byte> get() const {
    const auto* first = static_cast<const std::byte*>(sim::host_view(memory_));
    return {first, first + bytes_};
  }

 private:
  void* memory_ = nullptr;
  std::uint64_t bytes_;
};

/// A publication on device 1 of a process that must never touch device 0.
class Devices : public ::testing::Test {
 protected:
  static constexpr int kDevice = 1;

  Devices() {
    use_device(kDevice);
    for (std::size_t i = 0; i < layout_.size(); ++i)
      sources_.push_back(std::make_unique<OnDevice>(kDevice, layout_[i].bytes));
  }

  [[nodiscard]] static std::vector<std::byte> bytes_of(std::uint64_t bytes, std::uint64_t version) {
    return std::vector<std::byte>(bytes, static_cast<std::byte>(version + 1));
  }
  [[nodiscard]] std::vector<Source> sources(std::uint64_t version) const {
    std::vector<Source> all;
    for (std::size_t i = 0; i < layout_.size(); ++i) {
      sources_[i]->put(bytes_of(layout_[i].bytes, version));
      all.push_back({sources_[i]->data(), layout_[i].dtype, layout_[i].bytes});
    }
    return all;
  }
  [[nodiscard]] Publisher create(Mode mode) const {
    return Publisher::create(name_, layout_,
                             {.memory = tenon::cuda(kDevice), .mode = mode, .checksums = true});
  }
  void publish(Publisher& pub, std::uint64_t version) const {
    EXPECT_EQ(pub.publish(sources(version), PublishOptions{.deadline = kPatience}), version);
    EXPECT_EQ(pub.wait_current(kPatience), version);
  }

  Node node_;
  std::string name_ = unique_name("devices");
  Layout layout_ = plan(
      std::vector<Parameter>{
          {"a", Dtype::u8, {5000}}, {"b", Dtype::u8, {300}}, {"c", Dtype::u8, {7}}},
      {.bucket_bytes = 4096});
  std::vector<std::unique_ptr<OnDevice>> sources_;
};

TEST_F(Devices, AWorkerThreadPublishesAndClosesWithoutAContextElsewhere) {
  std::optional<Publisher> pub = create(Mode::double_buffered);
  in_fresh_thread([&] {
    for (std::uint64_t v = 1; v <= 3; ++v) publish(*pub, v);
  });
  in_fresh_thread([&] { pub.reset(); });
  EXPECT_FALSE(sim::has_context(0));
}

TEST_F(Devices, AWorkerThreadReadsLoadsVerifiesAndReleasesWithoutAContextElsewhere) {
  Publisher pub = create(Mode::double_buffered);
  publish(pub, 1);
  Child engine([&] {
    use_device(kDevice);
    std::optional<Subscriber> sub = Subscriber::attach(name_, {.deadline = kPatience});
    cudaStream_t stream = make_stream();
    const OnDevice whole(kDevice, layout_[0].bytes);
    const OnDevice half(kDevice, layout_[1].bytes / 2);
    in_fresh_thread([&] {
      Lease lease = sub->wait(newest(), kPatience);
      EXPECT_TRUE(lease.verify().empty());
      lease.release(Stream(stream));

      LoadPlan contiguous(sub->layout());
      contiguous.into("a", whole.data());
      EXPECT_EQ(sub->load(contiguous, kPatience), 1U);
      EXPECT_EQ(whole.get(), bytes_of(layout_[0].bytes, 1));

      LoadPlan sliced(sub->layout());
      sliced.into("b", half.data()).slice(0, 1, 2);
      EXPECT_EQ(sub->load(sliced, Stream(stream), kPatience), 1U);
      EXPECT_EQ(half.get(), bytes_of(layout_[1].bytes / 2, 1));
    });
    in_fresh_thread([&] { sub.reset(); });
    EXPECT_FALSE(sim::has_context(0));
    EXPECT_EQ(sim::open_handles(), 0U);
    return 0;
  });
  EXPECT_EQ(engine.wait(), 0);
}

TEST_F(Devices, ThreadsThatAttachOnDifferentDevicesShareOneMapping) {
  Publisher pub = create(Mode::in_place);
  publish(pub, 1);
  Child engine([&] {
    use_device(0);  // reads device 1 as a peer
    auto here = Subscriber::attach(name_, {.deadline = kPatience});
    std::async(std::launch::async, [&] {
      use_device(1);
      auto there = Subscriber::attach(name_, {.deadline = kPatience});
      EXPECT_EQ(sim::open_handles(), layout_.bucket_count());
      const OnDevice half(0, layout_[1].bytes / 2);
      LoadPlan plan(there.layout());
      plan.into("b", half.data()).slice(0, 0, 2);
      EXPECT_EQ(there.load(plan, kPatience), 1U) << "under device 0, as the first one opened it";
      EXPECT_EQ(half.get(), bytes_of(layout_[1].bytes / 2, 1));
    }).get();
    return 0;
  });
  EXPECT_EQ(engine.wait(), 0);
}

TEST_F(Devices, AStreamOfAnotherDeviceIsRefused) {
  Publisher pub = create(Mode::in_place);
  publish(pub, 1);
  cudaStream_t elsewhere = nullptr;
  {
    const cuda::DeviceScope scope(0);
    elsewhere = make_stream();
  }
  EXPECT_THROWS(InvalidArgument, "the stream is of device 0",
                (void)pub.publish(sources(2), Stream(elsewhere)));
  in_fresh_thread([&] {  // the publication's own default stream would not be behind this thread's
    EXPECT_THROWS(InvalidArgument, "the stream is of device 0",
                  (void)pub.publish(sources(2), Stream(nullptr)));
  });
  publish(pub, 2);
  auto sub = Subscriber::attach(name_);
  const OnDevice whole(kDevice, layout_[0].bytes);
  LoadPlan plan(sub.layout());
  plan.into("a", whole.data());
  EXPECT_THROWS(InvalidArgument, "in use here under device 1",
                (void)sub.load(plan, Stream(elsewhere), kPatience));
  in_fresh_thread([&] {
    EXPECT_THROWS(InvalidArgument, "a default stream is one of the device that cudaSetDevice chose",
                  (void)sub.load(plan, Stream(nullptr), kPatience));
  });
  EXPECT_EQ(plan.state(), LoadState::empty);
  EXPECT_EQ(sub.load(plan, kPatience), 2U);
  EXPECT_EQ(whole.get(), bytes_of(layout_[0].bytes, 2));
}

TEST_F(Devices, ADestinationThatTheKernelCannotWriteIsRefused) {
  Publisher pub = create(Mode::in_place);
  publish(pub, 1);
  auto sub = Subscriber::attach(name_);
  const OnDevice elsewhere(0, layout_[1].bytes);
  LoadPlan sliced(sub.layout());
  sliced.into("b", elsewhere.data()).slice(0, 0, 2);
  EXPECT_THROWS(InvalidArgument, "a destination is on device 0", (void)sub.load(sliced, kPatience));
  LoadPlan whole(sub.layout());  // a copy reaches every device
  whole.into("b", elsewhere.data());
  EXPECT_EQ(sub.load(whole, kPatience), 1U);
  EXPECT_EQ(elsewhere.get(), bytes_of(layout_[1].bytes, 1));
}

TEST_F(Devices, AReleaseOnAStreamOfAnotherDeviceEndsBehindIt) {
  Publisher pub = create(Mode::in_place);
  publish(pub, 1);
  auto sub = Subscriber::attach(name_);
  cudaStream_t elsewhere = nullptr;
  {
    const cuda::DeviceScope scope(0);
    elsewhere = make_stream();
  }
  Held held(elsewhere);
  Lease lease = sub.wait(newest(), kPatience);
  in_fresh_thread([&] { lease.release(Stream(elsewhere)); });
  EXPECT_EQ(pub.subscribers().at(0).holds, 1U);
  held.release();
  EXPECT_TRUE(eventually([&] { return pub.subscribers().at(0).holds == 0; }));
}

// --- One device breaks ---

/// A kernel that faults on `stream`; returns when it has.
void break_behind(cudaStream_t stream, int device) {
  const cuda::DeviceScope scope(device);
  EXPECT_EQ(sim::launch(stream, [] { sim::break_context(); }), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorIllegalAddress);
  (void)cudaGetLastError();
}

cudaStream_t stream_on(int device) {
  const cuda::DeviceScope scope(device);
  return make_stream();
}

TEST_F(Devices, AnotherDevicesErrorEndsNoLeaseOfGpuMemory) {
  Publisher pub = create(Mode::double_buffered);
  publish(pub, 1);
  Signal ready;
  Signal go;
  Child engine([&] {
    use_device(kDevice);
    auto sub = Subscriber::attach(name_, {.deadline = kPatience});
    cudaStream_t here = stream_on(kDevice);
    cudaStream_t elsewhere = stream_on(0);
    sub.wait(newest(), kPatience).release(Stream(elsewhere));  // Tenon knows that device too
    Held held(here);
    sub.wait(newest(), kPatience).release(Stream(here));
    break_behind(elsewhere, 0);
    EXPECT_THROWS(DeadlinePassed, "no version newer", (void)sub.wait(newer_than(1), 250ms));
    ready.poke();
    if (!go.wait()) return 2;
    held.release();
    const Lease lease = sub.wait(newer_than(1), kPatience);
    return lease.version() == 2 ? 0 : 1;
  });
  ASSERT_TRUE(ready.wait());
  EXPECT_EQ(pub.subscribers().at(0).holds, 1U) << "work on its own device is still under way";
  publish(pub, 2);
  go.poke();
  EXPECT_EQ(engine.wait(), 0);
}

// Leases of host memory end with the device on which they were all released, and with no other.
TEST_F(Devices, AnotherDevicesErrorEndsNoLeaseOfHostMemory) {
  Model model(MemoryKind::host);
  Publisher pub = Publisher::create(name_, model.layout, {.mode = Mode::double_buffered});
  model.publish(pub, 1);
  auto sub = Subscriber::attach(name_);
  cudaStream_t here = stream_on(kDevice);
  cudaStream_t elsewhere = stream_on(0);
  const auto holds = [&] { return pub.subscribers().at(0).holds; };
  Held held(here);
  sub.wait(newest(), kPatience).release(Stream(here));
  break_behind(elsewhere, 0);
  EXPECT_THROWS(DeadlinePassed, "no version newer", (void)sub.wait(newer_than(1), 250ms));
  EXPECT_EQ(holds(), 1U);
  held.release();
  EXPECT_TRUE(eventually([&] { return holds() == 0; }));

  Held again(here);
  sub.wait(newest(), kPatience).release(Stream(here));
  sim::break_context();  // of device 1, which is this thread's
  EXPECT_THROWS(DeadlinePassed, "no version newer", (void)sub.wait(newer_than(1), 250ms));
  EXPECT_EQ(holds(), 0U) << "its own device's error does";
}

}  // namespace
}  // namespace tenon::test
