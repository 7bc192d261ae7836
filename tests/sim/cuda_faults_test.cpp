// What can go wrong with GPU memory, each thing injected: the error says it, nothing is leaked, no
// CUDA error is left behind, and nobody hangs.
#include <sim/sim_support.hpp>

namespace tenon::test {
namespace {

constexpr std::uint64_t kMiB = 1U << 20U;

/// The runtime's memory of the last error is not to be ours.
void expect_no_error_left() { EXPECT_EQ(cudaGetLastError(), cudaSuccess); }

class Faults : public Simulated {
 protected:
  ~Faults() override { (void)gc(false); }
  [[nodiscard]] std::size_t buckets() const { return model_.layout.bucket_count(); }
  /// A child that attaches and expects an error of that condition and text, and that nothing of it
  /// is left.
  Child refused(
      Errc condition, const std::string& text, const std::function<void()>& prepare = [] {}) {
    return Child([this, condition, text, prepare] {
      prepare();
      const std::string what =
          thrown([this] { (void)Subscriber::attach(name_, {.deadline = 0s}); });
      EXPECT_TRUE(what.starts_with(std::string(name_of(condition)) + ":")) << what;
      EXPECT_NE(what.find(text), std::string::npos) << what;
      expect_no_error_left();
      EXPECT_EQ(sim::open_handles(), 0U);
      return 0;
    });
  }
  /// The same in a child with a variable set.
  Child refused_with(const char* variable, const std::string& value, Errc condition,
                     const std::string& text) {
    return refused(condition, text, [=] { ::setenv(variable, value.c_str(), 1); });
  }
  /// A child that attaches, reads version 1 and checks it, with a variable set.
  Child reads_with(const char* variable, const std::string& value, int device = 0) {
    return Child([=, this] {
      ::setenv(variable, value.c_str(), 1);
      detail::cuda::check(cudaSetDevice(device), "cudaSetDevice");
      auto sub = Subscriber::attach(name_);
      const Lease lease = sub.wait(newest(), kPatience);
      EXPECT_EQ(model_.wrong(lease, 1), 0U);
      Destination into(model_);
      EXPECT_EQ(sub.load(into.plan, kPatience), 1U);
      EXPECT_EQ(into.wrong(1), 0U);
      return 0;
    });
  }
  /// A child that publishes version 1 and then stays.
  Child trainer() {
    return Child([this] {
      Publisher pub = create(Mode::in_place);
      model_.publish(pub, 1);
      ready_.poke();
      for (;;) ::pause();
      return 0;
    });
  }
  Signal ready_;
  Signal go_;
};

// --- Creating ---

TEST_F(Faults, OutOfMemoryAtAnySlotLeavesNothing) {
  ASSERT_GE(buckets(), 3U);
  for (std::uint64_t fits = 0; fits < buckets(); ++fits) {
    const Node fresh;
    const Variable limit("TENON_SIM_MEMORY", std::to_string(fits * 2 * kMiB + kMiB));
    EXPECT_THROWS(OutOfSpace, "slot " + std::to_string(fits) + " of " + std::to_string(buckets()),
                  (void)create(Mode::in_place));
    EXPECT_THROWS(OutOfSpace,
                  "needs 2 MiB and device 0 has 0 MiB of " + std::to_string(fits * 2 + 1) + " MiB",
                  (void)create(Mode::in_place));
    expect_no_error_left();
    EXPECT_EQ(sim::live_allocations(), 0U);
    EXPECT_TRUE(shm_objects(name_).empty());
    EXPECT_EQ(sim::calls("cudaHostAlloc"), sim::calls("cudaFreeHost"));
  }
}

TEST_F(Faults, AFailingCallWhileCreatingLeavesNothing) {
  struct Injected {
    const char* function;
    int nth;
    Errc condition;
    const char* text;
  };
  // Of cudaMalloc, the first is the gather's table.
  for (const Injected& f :
       {Injected{"cudaMalloc", 1, Errc::Cuda, "cudaErrorUnknown"},
        Injected{"cudaMalloc", 3, Errc::Cuda, "cudaErrorUnknown"},
        Injected{"cudaHostAlloc", 1, Errc::Cuda, "cudaErrorUnknown"},
        Injected{"cudaMemsetAsync", 2, Errc::Cuda, "clearing a slot"},
        Injected{"cudaStreamSynchronize", 1, Errc::Cuda, "clearing slots"},
        Injected{"cudaStreamCreateWithFlags", 1, Errc::Cuda, "cudaStreamCreateWithFlags"},
        Injected{"cudaStreamCreateWithFlags", 2, Errc::Cuda, "cudaStreamCreateWithFlags"},
        Injected{"cudaEventCreateWithFlags", 1, Errc::Cuda, "cudaEventCreateWithFlags"},
        Injected{"cudaIpcGetMemHandle", 1, Errc::NotShareable, "cannot be shared"},
        Injected{"cudaIpcGetMemHandle", 3, Errc::NotShareable, "host memory needs none"}}) {
    const Node fresh;
    sim::fail_call(f.function, f.nth, cudaErrorUnknown);
    const std::string what = thrown([this] { (void)create(Mode::in_place); });
    EXPECT_TRUE(what.starts_with(std::string(name_of(f.condition)) + ":")) << what;
    EXPECT_NE(what.find(f.text), std::string::npos) << what;
    expect_no_error_left();
    EXPECT_EQ(sim::live_allocations(), 0U) << f.function << ' ' << f.nth;
    EXPECT_TRUE(shm_objects(name_).empty());
    Publisher pub = create(Mode::in_place);  // nothing is in the way of the next attempt
    EXPECT_EQ(Model(MemoryKind::cuda).publish(pub, 1), 1U);
  }
}

TEST_F(Faults, NoDriverIsSaid) {
  const Variable none("TENON_SIM_DRIVER", "0");
  EXPECT_THROWS(NoDevice, "no GPU can be used here: cudaErrorInsufficientDriver",
                (void)create(Mode::in_place));
  EXPECT_THROWS(NoDevice, "host memory needs no GPU", (void)create(Mode::in_place));
  expect_no_error_left();
  const Model host;
  Publisher pub = Publisher::create(name_, host.layout);  // which it does not
  EXPECT_EQ(pub.version(), 0U);
}

TEST_F(Faults, NoVisibleDeviceIsSaid) {
  const Variable none("CUDA_VISIBLE_DEVICES", "");
  EXPECT_THROWS(NoDevice, "no GPU can be used here", (void)create(Mode::in_place));
  expect_no_error_left();
}

TEST_F(Faults, DeviceOrdinalOutOfRangeIsRefused) {
  for (const int device : {2, -1, 1000}) {
    EXPECT_THROWS(NoDevice, "there is no device " + std::to_string(device) + ": 2 can be seen here",
                  (void)Publisher::create(name_, model_.layout, {.memory = cuda(device)}));
  }
  expect_no_error_left();
  EXPECT_TRUE(shm_objects(name_).empty());
}

TEST_F(Faults, ComputeModesThatKeepAnotherProcessOutAreNamed) {
  for (const auto& [mode, text] :
       {std::pair("exclusive", "'exclusive process'"), std::pair("prohibited", "'prohibited'")}) {
    const Node fresh;
    const Variable variable("TENON_SIM_COMPUTE_MODE", mode);
    EXPECT_THROWS(NotShareable, text, (void)create(Mode::in_place));
    EXPECT_THROWS(NotShareable, "nvidia-smi -c DEFAULT", (void)create(Mode::in_place));
    expect_no_error_left();
    EXPECT_EQ(sim::live_allocations(), 0U);
  }
}

// --- Attaching ---

TEST_F(Faults, RefusedOpensAreSaidAndLeaveNothing) {
  Publisher pub = create(Mode::in_place);
  model_.publish(pub, 1);
  const std::string opening = "opening a slot of process " + std::to_string(::getpid()) + ": ";
  std::vector<std::pair<Child, std::string>>
      children;  // side by side: each looks again for a while
  for (const auto& [error, text] :
       {std::pair(cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle"),
        std::pair(cudaErrorDeviceUninitialized, "cudaErrorDeviceUninitialized"),
        std::pair(cudaErrorAlreadyMapped, "cudaErrorAlreadyMapped"),
        std::pair(cudaErrorInvalidDevice, "cudaErrorInvalidDevice"),
        std::pair(cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation"),
        std::pair(cudaErrorTooManyPeers, "has as many peers as it can")}) {
    for (const int nth : {1, 3}) {
      const auto inject = [error = error, nth] {
        sim::fail_call("cudaIpcOpenMemHandle", nth, error);
      };
      for (const std::string& said : {opening, std::string(text)})
        children.emplace_back(refused(Errc::Cuda, said, inject), said + ' ' + std::to_string(nth));
    }
  }
  for (auto& [child, what] : children) EXPECT_EQ(child.wait(), 0) << what;
  EXPECT_TRUE(pub.subscribers().empty());
  EXPECT_EQ(model_.publish(pub, 2, {.deadline = 1s}), 2U);
}

TEST_F(Faults, WhatAttachingAsksFirstMayFailToo) {
  Publisher pub = create(Mode::in_place);
  for (const char* function :
       {"cudaGetDeviceCount", "cudaGetDevice", "cudaGetDeviceProperties", "cudaDeviceGetAttribute",
        "cudaStreamCreateWithFlags", "cudaGetDriverEntryPointByVersion"}) {
    const std::string text = function == std::string("cudaGetDriverEntryPointByVersion")
                                 ? "looking up cuMemGetAddressRange"
                             : function == std::string("cudaGetDeviceCount") ? "no GPU can be used"
                                                                             : function;
    const Errc condition =
        function == std::string("cudaGetDeviceCount") ? Errc::NoDevice : Errc::Cuda;
    EXPECT_EQ(
        refused(condition, text, [function] { sim::fail_call(function, 1, cudaErrorUnknown); })
            .wait(),
        0)
        << function;
  }
  EXPECT_TRUE(pub.subscribers().empty());
}

TEST_F(Faults, AHandleThatOpensTooLittleIsRefused) {
  Publisher pub = create(Mode::in_place);
  auto segment = segment_of(name_);
  segment.raw_slot(1).mapped_bytes += 2 * kMiB;
  EXPECT_EQ(refused(Errc::BadFormat, "slot.mapped_bytes").wait(), 0);
  segment.raw_slot(1).mapped_bytes -= 2 * kMiB;
  for (auto& byte : segment.raw_slot(1).handle) byte ^= 0xFF;
  EXPECT_EQ(refused(Errc::Cuda, "cudaErrorInvalidValue").wait(), 0);
  for (auto& byte : segment.raw_slot(1).handle) byte ^= 0xFF;
  segment.raw_slot(1).handle_kind = static_cast<std::uint32_t>(format::HandleKind::shm_object);
  EXPECT_EQ(refused(Errc::BadFormat, "slot.handle_kind").wait(), 0);
}

TEST_F(Faults, DeviceThatIsHiddenFromTheSubscriberIsSaid) {
  Publisher pub = create(Mode::in_place);
  EXPECT_EQ(refused_with("CUDA_VISIBLE_DEVICES", "1", Errc::NoDevice, sim::device_uuid(0)).wait(),
            0);
  EXPECT_EQ(refused_with("CUDA_VISIBLE_DEVICES", "1", Errc::NoDevice,
                         "none of the 1 devices that this process sees (CUDA_VISIBLE_DEVICES=1)")
                .wait(),
            0);
  EXPECT_EQ(
      refused_with("CUDA_VISIBLE_DEVICES", "", Errc::NoDevice, "no GPU can be used here").wait(),
      0);
  EXPECT_EQ(refused_with("TENON_SIM_DRIVER", "0", Errc::NoDevice, "no GPU can be used here").wait(),
            0);
  EXPECT_TRUE(pub.subscribers().empty());
}

TEST_F(Faults, DevicesAreMatchedByUuidNotByOrdinal) {
  Publisher pub = create(Mode::in_place);  // on the node's device 0
  model_.publish(pub, 1);
  // Without peer access memory opens under its own device alone.
  const Variable no_peer("TENON_SIM_NO_PEER", "1");
  EXPECT_EQ(reads_with("CUDA_VISIBLE_DEVICES", "1,0", 1).wait(), 0);
  EXPECT_EQ(reads_with("CUDA_VISIBLE_DEVICES", sim::device_uuid(0)).wait(), 0);
  EXPECT_EQ(refused_with("CUDA_VISIBLE_DEVICES", "1,0", Errc::NotShareable,
                         "the publication is on device 1 (" + sim::device_uuid(0) + ")")
                .wait(),
            0);
}

TEST_F(Faults, AUuidThatMatchesNoDeviceIsSaid) {
  Publisher pub = create(Mode::in_place);
  segment_of(name_).header().device_uuid[3] ^= 0xFF;
  EXPECT_EQ(refused(Errc::NoDevice,
                    "none of the 2 devices that this process sees (CUDA_VISIBLE_DEVICES "
                    "is not set)")
                .wait(),
            0);
}

TEST_F(Faults, PeerAccessDecidesWhetherAnotherDeviceMayRead) {
  Publisher pub = create(Mode::in_place);
  model_.publish(pub, 1);
  EXPECT_EQ(reads_with("TENON_SIM_NO_PEER", "0", 1).wait(), 0);
  Child refused_child = refused(Errc::NotShareable, "has no peer access to it", [] {
    ::setenv("TENON_SIM_NO_PEER", "1", 1);
    detail::cuda::check(cudaSetDevice(1), "cudaSetDevice");
  });
  EXPECT_EQ(refused_child.wait(), 0);
  EXPECT_TRUE(pub.subscribers().empty());
}

TEST_F(Faults, TheSubscribersComputeModeIsNamed) {
  Publisher pub = create(Mode::in_place);
  EXPECT_EQ(
      refused_with("TENON_SIM_COMPUTE_MODE", "exclusive", Errc::NotShareable, "'exclusive process'")
          .wait(),
      0);
  EXPECT_EQ(refused_with("TENON_SIM_COMPUTE_MODE", "prohibited", Errc::NotShareable, "'prohibited'")
                .wait(),
            0);
}

// What a driver does not tell is guessed from what is known of both sides.
TEST_F(Faults, ARefusedOpenNamesTheLikelyReason) {
  Publisher pub = create(Mode::in_place);
  const auto fail = [] { sim::fail_call("cudaIpcOpenMemHandle", 1, cudaErrorInvalidValue); };
  const auto with = [&](const char* variable, const char* value) {
    return [fail, variable, value] {
      ::setenv(variable, value, 1);
      fail();
    };
  };
  EXPECT_EQ(refused(Errc::Cuda, "run both sides in one instance",
                    with("TENON_SIM_DEVICE_NAME", "NVIDIA H100 80GB HBM3 MIG 3g.40gb"))
                .wait(),
            0);
  EXPECT_EQ(
      refused(Errc::Cuda, "the publisher has CUDA driver 13000", with("TENON_SIM_DRIVER", "13020"))
          .wait(),
      0);
  EXPECT_EQ(
      refused(Errc::Cuda, "use the same on both sides", with("TENON_SIM_RUNTIME", "12080")).wait(),
      0);
  EXPECT_EQ(refused(Errc::Cuda, "in different pid namespaces",
                    [&] {
                      const auto segment = segment_of(name_);
                      auto& publisher = segment.header().publisher;
                      publisher.pid = static_cast<std::uint32_t>(::getpid());
                      publisher.pid_namespace += 1;
                      fail();
                    })
                .wait(),
            0);
}

// --- Contexts that break, and functions that never run ---

TEST_F(Faults, PublisherWhoseContextBreaksClosesAndReadersAreTold) {
  Signal broken;
  Child trainer([&] {
    Publisher pub = create(Mode::double_buffered);
    model_.publish(pub, 1, {.deadline = kPatience, .require = 1});
    if (!go_.wait()) return 2;
    const auto sources = model_.sources(2);
    HeldHostFunctions held;
    (void)pub.publish(sources);
    sim::break_context();  // the version's function never runs
    EXPECT_THROWS(Cuda, "context of this process is broken", (void)pub.wait_current(kPatience));
    EXPECT_THROWS(Closed, name_, (void)pub.publish(sources));
    return 0;
  });
  Child reader([&] {
    auto sub = Subscriber::attach(name_, {.deadline = kPatience});
    const Lease lease = sub.wait(exactly(1), kPatience);
    go_.poke();
    EXPECT_THROWS(Closed, "after an error of its GPU", (void)sub.wait(newer_than(1), kPatience));
    EXPECT_EQ(model_.wrong(lease, 1), 0U);
    return 0;
  });
  EXPECT_EQ(reader.wait(), 0);
  EXPECT_EQ(trainer.wait(), 0);
  EXPECT_TRUE(shm_objects(name_).empty());
}

// Also when nothing was under way, whichever call finds it.
TEST_F(Faults, PublisherFindsItsBrokenContextAtTheNextCall) {
  for (int way = 0; way < 4; ++way) {
    Child trainer([&] {
      Publisher pub = create(Mode::in_place);
      auto sub = Subscriber::attach(name_);
      model_.publish(pub, 1);
      const auto sources = model_.sources(2);
      const Bytes moved(MemoryKind::cuda, *sources[0].bytes);
      auto other = sources;
      other[0].data = moved.data();
      cudaStream_t stream = make_stream();
      std::optional<Publisher::Update> update;
      if (way == 3) update.emplace(pub.begin());
      sim::break_context();
      const std::string error = thrown([&] {
        if (way == 0) (void)pub.publish(sources, Stream(stream));
        if (way == 1) (void)pub.publish(other);
        if (way == 2) (void)pub.begin();
        if (way == 3) update->put(0, of_bucket(model_.layout, sources, 0));
      });
      EXPECT_TRUE(error.starts_with("Cuda:")) << error;
      if (way == 3) update->abort();
      EXPECT_THROWS(Closed, "after an error of its GPU", (void)sub.wait(newer_than(1), 1s));
      return 0;
    });
    EXPECT_EQ(trainer.wait(), 0) << way;
  }
}

// A GPU tells of a fault some tenths of a second late. What is behind it never becomes current;
// what another stream does meanwhile does, and is whole.
TEST_F(Faults, ABreakThatIsToldLateLosesWhatIsBehindItAlone) {
  for (const bool behind : {true, false}) {
    Child trainer([&] {
      Publisher pub = create(Mode::double_buffered);
      auto sub = Subscriber::attach(name_);
      model_.publish(pub, 1);
      const auto sources = model_.sources(2);
      cudaStream_t stream = make_stream();
      cudaStream_t other = make_stream();
      static std::atomic<bool> tell{false};
      tell = false;
      EXPECT_EQ(sim::launch(stream,
                            [] {
                              while (!tell) std::this_thread::sleep_for(100us);
                              sim::break_context();
                            }),
                cudaSuccess);
      EXPECT_EQ(pub.publish(sources, Stream(behind ? stream : other)), 2U);
      if (behind) {
        let_things_happen();
        EXPECT_EQ(pub.version(), 1U);
        EXPECT_THROWS(DeadlinePassed, "did not become current", (void)pub.wait_current(20ms));
      } else {
        EXPECT_EQ(pub.wait_current(kPatience), 2U);
        EXPECT_EQ(model_.wrong(sub.try_acquire().value(), 2), 0U);
      }
      tell = true;
      EXPECT_TRUE(eventually([&] { return cudaStreamQuery(other) == cudaErrorIllegalAddress; }));
      EXPECT_THROWS(Cuda, "context of this process is broken",
                    (void)pub.publish(sources, Stream(other)));
      EXPECT_THROWS(Closed, "after an error of its GPU", (void)sub.wait(newer_than(2), 1s));
      EXPECT_EQ(sub.current_version(), behind ? 1U : 2U);
      return 0;
    });
    EXPECT_EQ(trainer.wait(), 0) << behind;
  }
}

TEST_F(Faults, ADeviceThatWasResetIsBrokenAllTheSame) {
  Child trainer([&] {
    Publisher pub = create(Mode::in_place);
    auto sub = Subscriber::attach(name_);
    model_.publish(pub, 1);
    const auto sources = model_.sources(2);
    sim::break_context();
    EXPECT_EQ(cudaDeviceReset(), cudaSuccess);
    const std::string error = thrown([&] { (void)pub.publish(sources); });
    EXPECT_TRUE(error.starts_with("Cuda:")) << error;
    EXPECT_NE(error.find("cudaErrorDevicesUnavailable"), std::string::npos) << error;
    EXPECT_THROWS(Closed, "after an error of its GPU", (void)sub.wait(newer_than(1), 1s));
    return 0;
  });
  EXPECT_EQ(trainer.wait(), 0);
  EXPECT_TRUE(shm_objects(name_).empty());
}

TEST_F(Faults, StreamingReadersAreToldToo) {
  Child trainer([&] {
    Publisher pub = create(Mode::streaming, {.slots = 2});
    auto update = pub.begin({.deadline = kPatience, .require = 1});
    const auto sources = model_.sources(1);
    update.put(0, of_bucket(model_.layout, sources, 0));
    if (!go_.wait()) return 2;
    sim::break_context();
    EXPECT_THROWS(Cuda, "cudaErrorIllegalAddress",
                  update.put(1, of_bucket(model_.layout, sources, 1)));
    update.abort();
    return 0;
  });
  Child reader([&] {
    auto sub = Subscriber::attach(name_, {.deadline = kPatience});
    Destination into(model_);
    sub.join();
    std::jthread later([&] {
      EXPECT_TRUE(eventually([] { return sim::calls("cudaMemcpyBatchAsync") > 0; }));
      go_.poke();
    });
    EXPECT_THROWS(Closed, "after an error of its GPU", (void)sub.load(into.plan, kPatience));
    EXPECT_EQ(into.plan.state(), LoadState::torn);
    return 0;
  });
  EXPECT_EQ(reader.wait(), 0);
  EXPECT_EQ(trainer.wait(), 0);
}

TEST_F(Faults, AHostFunctionThatIsMerelyLateIsADeadline) {
  Publisher pub = create(Mode::double_buffered);
  const auto sources = model_.sources(1);
  HeldHostFunctions held;
  EXPECT_EQ(pub.publish(sources), 1U);
  EXPECT_THROWS(DeadlinePassed, "did not become current in time", (void)pub.wait_current(250ms));
  EXPECT_THROWS(DeadlinePassed, "has not come to its copies yet",
                (void)pub.publish(sources, {.deadline = 250ms}));
  held.release();
  EXPECT_EQ(pub.wait_current(kPatience), 1U);
  EXPECT_EQ(publish(pub, sources), 2U);
}

TEST_F(Faults, SubscriberWhoseContextBreaksStopsGating) {
  Publisher pub = create(Mode::in_place);
  model_.publish(pub, 1);
  const std::uint32_t failed = static_cast<std::uint32_t>(format::PlaceState::failed);
  for (int way = 0; way < 5; ++way) {
    const std::uint64_t v = pub.version();
    Child engine([&] {
      auto sub = Subscriber::attach(name_);
      cudaStream_t stream = make_stream();
      Lease lease = sub.wait(newest(), kPatience);
      if (way == 0) {  // found when releasing
        sim::break_context();
        EXPECT_THROWS(Cuda, "cudaErrorIllegalAddress", lease.release(Stream(stream)));
      } else if (way == 1) {  // behind a release: found at the next call
        EXPECT_EQ(sim::launch(stream, [] { sim::break_context(); }), cudaSuccess);
        try {
          lease.release(Stream(stream));
        } catch (const Error& e) {
          EXPECT_EQ(e.code(), Errc::Cuda);
        }
        EXPECT_TRUE(eventually([&] { return cudaStreamQuery(stream) == cudaErrorIllegalAddress; }));
        EXPECT_THROWS(Cuda, "is not to be trusted", (void)sub.try_acquire());
      } else if (way == 2) {  // found while waiting
        EXPECT_EQ(sim::launch(stream,
                              [] {
                                std::this_thread::sleep_for(50ms);
                                sim::break_context();
                              }),
                  cudaSuccess);
        lease.release(Stream(stream));
        EXPECT_THROWS(Cuda, "is not to be trusted", (void)sub.wait(newer_than(v), kPatience));
      } else {  // found by a load
        lease.release();
        Destination into(model_);
        if (way == 4) {
          EXPECT_EQ(sim::launch(stream, [] { sim::break_context(); }), cudaSuccess);
          EXPECT_TRUE(
              eventually([&] { return cudaStreamQuery(stream) == cudaErrorIllegalAddress; }));
        } else {
          EXPECT_EQ(sim::launch(stream,
                                [] {
                                  std::this_thread::sleep_for(50ms);
                                  sim::break_context();
                                }),
                    cudaSuccess);
        }
        EXPECT_EQ(
            thrown([&] { (void)sub.load(into.plan, Stream(stream), kPatience); }).substr(0, 5),
            "Cuda:");
        EXPECT_NE(into.plan.state(), LoadState::loaded);
      }
      if (way != 4) {
        EXPECT_EQ(segment_of(name_).place(sub.place()).state.load(), failed) << way;
      }
      EXPECT_EQ(segment_of(name_).place(sub.place()).cursor.load(), format::kIdle) << way;
      ready_.poke();
      return go_.wait() ? 0 : 2;
    });
    ASSERT_TRUE(ready_.wait());
    EXPECT_EQ(model_.publish(pub, v + 1, {.deadline = 0s}), v + 1) << "gated by a broken context";
    go_.poke();
    EXPECT_EQ(engine.wait(), 0) << way;
    EXPECT_TRUE(pub.subscribers().empty());
  }
}

// What is read from host memory is good whatever the GPU does: only what a host function was to end
// ends, and the rest goes on.
TEST_F(Faults, HostMemoryOutlivesABrokenContext) {
  Model model(MemoryKind::host);
  Publisher pub = Publisher::create(name_, model.layout, {.mode = Mode::double_buffered});
  model.publish(pub, 1);
  auto sub = Subscriber::attach(name_);
  cudaStream_t stream = make_stream();
  {
    Held held(stream);
    sub.wait(newest(), kPatience).release(Stream(stream));
    EXPECT_EQ(pub.subscribers().at(0).holds, 1U);
    sim::break_context();
  }
  model.publish(pub, 2);
  const Lease kept = sub.wait(newer_than(1), kPatience);
  EXPECT_EQ(pub.subscribers().at(0).holds, 2U) << "of version 1 nothing is held any more";
  EXPECT_EQ(model.wrong(kept, 2), 0U);
  Lease refused = sub.wait(newest(), kPatience);
  EXPECT_THROWS(Cuda, "cudaErrorIllegalAddress", refused.release(Stream(stream)));
  EXPECT_TRUE(refused) << "still held, for release()";
  refused.release();
  EXPECT_EQ(pub.subscribers().at(0).holds, 2U) << "the first one's hold stays";
}

// Nothing can tell when those copies have been made: the version they read is never given back.
TEST_F(Faults, ALoadWhoseEndCannotBeMarkedKeepsItsVersionHeld) {
  for (const Mode mode : {Mode::in_place, Mode::streaming}) {
    SCOPED_TRACE(name_of(mode));
    Publisher pub = create(mode, {.slots = mode == Mode::streaming ? 2U : 0U});
    Child engine([&] {
      auto sub = Subscriber::attach(name_);
      cudaStream_t stream = make_stream();
      Destination into(model_);
      sub.join();
      ready_.poke();
      EXPECT_TRUE(
          eventually([&] { return sub.current_version() == 1 || mode == Mode::streaming; }));
      Held held(stream);
      sim::fail_call("cudaLaunchHostFunc", sim::kEveryCall, cudaErrorMemoryAllocation);
      EXPECT_THROWS(Cuda, "cudaErrorMemoryAllocation",
                    (void)sub.load(into.plan, Stream(stream), kPatience));
      sim::clear_failures();
      EXPECT_EQ(into.plan.state(), LoadState::torn);
      const auto segment = segment_of(name_);
      const std::uint64_t pinned = segment.place(sub.place()).cursor.load();
      EXPECT_NE(pinned, format::kIdle);
      const detail::Deadline at_once(5s);
      EXPECT_THROWS(Cuda, "attach again", (void)sub.load(into.plan, Stream(stream), kPatience));
      if (mode == Mode::streaming) EXPECT_THROWS(Cuda, "attach again", sub.pause());
      EXPECT_FALSE(at_once.passed()) << "waited for what nobody will know";
      EXPECT_EQ(segment.place(sub.place()).cursor.load(), pinned) << "what they read was left";
      EXPECT_NE(Subscriber::attach(name_).place(), sub.place());
      ready_.poke();
      return go_.wait() ? 0 : 2;
    });
    ASSERT_TRUE(ready_.wait());
    if (mode == Mode::streaming) {
      EXPECT_THROWS(DeadlinePassed, "pid " + std::to_string(engine.pid()),
                    (void)model_.publish(pub, 1, {.deadline = 2s}));
      ASSERT_TRUE(ready_.wait());
    } else {
      model_.publish(pub, 1);
      ASSERT_TRUE(ready_.wait());
      EXPECT_THROWS(DeadlinePassed, "holds version 1",
                    (void)model_.publish(pub, 2, {.deadline = 200ms}));
    }
    go_.poke();
    EXPECT_EQ(engine.wait(), 0);
  }
}

TEST_F(Faults, StreamingSubscriberWhoseContextBreaksStopsGating) {
  Publisher pub = create(Mode::streaming, {.slots = 2});
  Child engine([&] {
    auto sub = Subscriber::attach(name_);
    cudaStream_t stream = make_stream();
    Destination into(model_);
    sub.join();
    ready_.poke();
    EXPECT_EQ(sim::launch(stream,
                          [] {
                            std::this_thread::sleep_for(50ms);
                            sim::break_context();
                          }),
              cudaSuccess);
    EXPECT_EQ(thrown([&] { (void)sub.load(into.plan, Stream(stream), kPatience); }).substr(0, 5),
              "Cuda:");
    EXPECT_EQ(into.plan.state(), LoadState::torn);
    return go_.wait() ? 0 : 2;
  });
  ASSERT_TRUE(ready_.wait());
  for (std::uint64_t v = 1; v <= 3; ++v) EXPECT_EQ(model_.publish(pub, v, {.deadline = 5s}), v);
  go_.poke();
  EXPECT_EQ(engine.wait(), 0);
}

// --- Death ---

TEST_F(Faults, ExporterThatDiedBeforeTheOpen) {
  Child dead = trainer();
  ASSERT_TRUE(ready_.wait());
  dead.signal(SIGKILL);
  siginfo_t died{};  // dead, not reaped
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(dead.pid()), &died, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(refused(Errc::PublisherGone, "by process ").wait(), 0);
  dead.kill();
  EXPECT_EQ(refused(Errc::PublisherGone, "left behind by process").wait(), 0);
  EXPECT_EQ(sim::live_allocations(), 0U);
}

// The driver is cleaning up behind it, which takes some tenths of a second: the handle does not
// open, and the publisher seems to live. A moment later it is known why.
TEST_F(Faults, ExporterThatDiesDuringTheOpen) {
  Child dying = trainer();
  ASSERT_TRUE(ready_.wait());
  Child engine([&] {
    sim::fail_call("cudaIpcOpenMemHandle", 2, cudaErrorInvalidResourceHandle);
    std::jthread killer([&] {
      std::this_thread::sleep_for(400ms);
      dying.signal(SIGKILL);
    });
    EXPECT_THROWS(PublisherGone, "which closed it or died in this very moment",
                  (void)Subscriber::attach(name_, {.deadline = 0s}));
    expect_no_error_left();
    EXPECT_EQ(sim::open_handles(), 0U) << "the first slot's is closed again";
    return 0;
  });
  EXPECT_EQ(engine.wait(), 0);
  dying.kill();
  EXPECT_EQ(sim::live_allocations(), 0U);
}

TEST_F(Faults, ExporterThatDiesAfterTheOpen) {
  Child dying = trainer();
  ASSERT_TRUE(ready_.wait());
  Child engine([&] {
    {
      auto sub = Subscriber::attach(name_);
      cudaStream_t stream = make_stream();
      Lease lease = sub.wait(newest(), kPatience);
      ready_.poke();
      EXPECT_THROWS(PublisherGone, "died", (void)sub.wait(newer_than(1), kPatience));
      EXPECT_EQ(lease.publisher(), PublisherStatus::gone);
      EXPECT_EQ(model_.wrong(lease, 1), 0U) << "memory that is open stays";
      lease.release(Stream(stream));
    }
    expect_no_error_left();
    EXPECT_EQ(sim::open_handles(), 0U);
    return 0;
  });
  ASSERT_TRUE(ready_.wait());
  dying.kill();
  EXPECT_EQ(engine.wait(), 0);
  EXPECT_EQ(sim::live_allocations(), 0U);
}

// With copies queued whose functions die with it: no reader is let loose on a half-written version.
TEST_F(Faults, ExporterThatDiesWithCopiesUnderWayIsGoneAndNothingMore) {
  Child dying([this] {
    Publisher pub = create(Mode::double_buffered);
    model_.publish(pub, 1, {.deadline = kPatience, .require = 1});
    cudaStream_t stream = make_stream();
    const auto sources = model_.sources(2);
    sim::hold_stream(stream, true);
    (void)pub.publish(sources, Stream(stream));
    ready_.poke();
    for (;;) ::pause();
    return 0;
  });
  auto sub = Subscriber::attach(name_, {.deadline = kPatience});
  ASSERT_TRUE(ready_.wait());
  dying.kill();
  EXPECT_THROWS(PublisherGone, "died", (void)sub.wait(newer_than(1), kPatience));
  EXPECT_EQ(model_.wrong(sub.try_acquire().value(), 1), 0U);
}

// --- Closing ---

TEST_F(Faults, ClosingWaitsForAReaderThatDetachesInTime) {
  std::optional<Publisher> pub = create(Mode::in_place);
  Child engine([&] {
    auto sub = Subscriber::attach(name_);
    const Lease lease = sub.wait(newest(), kPatience);
    EXPECT_THROWS(Closed, "closed the publication", (void)sub.wait(newer_than(1), kPatience));
    std::this_thread::sleep_for(100ms);
    EXPECT_EQ(model_.wrong(lease, 1), 0U) << "not freed while it is held";
    return 0;
  });
  const auto sources = model_.sources(1);
  const std::uint64_t before = sim::live_allocations();  // the slots' and the sources'
  publish(*pub, sources, {.deadline = kPatience, .require = 1});
  EXPECT_TRUE(eventually([&] { return pub->subscribers().at(0).holds == 1; }));
  ::testing::internal::CaptureStderr();
  EXPECT_TRUE(pub->close());
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(engine.wait(), 0);
  EXPECT_EQ(sim::live_allocations(), before - buckets()) << "freed";
  EXPECT_EQ(sim::violations(), 0U);
}

TEST_F(Faults, ClosingKeepsTheMemoryOfAReaderThatStays) {
  std::optional<Publisher> pub = create(Mode::in_place);
  Child engine([&] {
    auto sub = Subscriber::attach(name_, {.label = "lazy-engine"});
    const Lease lease = sub.wait(newest(), kPatience);
    ready_.poke();
    if (!go_.wait()) return 2;
    EXPECT_EQ(model_.wrong(lease, 1), 0U) << "freed under a reader";
    return 0;
  });
  const auto sources = model_.sources(1);
  const std::uint64_t before = sim::live_allocations();
  publish(*pub, sources, {.deadline = kPatience, .require = 1});
  ASSERT_TRUE(ready_.wait());
  ::testing::internal::CaptureStderr();
  EXPECT_FALSE(pub->close());
  EXPECT_FALSE(pub->close()) << "nor asked again";
  pub.reset();
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("MiB of GPU memory stay allocated until this process ends, because of pid " +
                      std::to_string(engine.pid()) + " (lazy-engine)"),
            std::string::npos)
      << said;
  EXPECT_EQ(sim::live_allocations(), before - 1) << "all but the table";
  EXPECT_EQ(sim::violations(), 0U);
  go_.poke();
  EXPECT_EQ(engine.wait(), 0);
}

TEST_F(Faults, ClosingDoesNotWaitForADeadReader) {
  Publisher pub = create(Mode::in_place);
  model_.publish(pub, 1);
  Child engine([&] {
    auto sub = Subscriber::attach(name_);
    const Lease lease = sub.wait(newest(), kPatience);
    ready_.poke();
    for (;;) ::pause();
    return 0;
  });
  ASSERT_TRUE(ready_.wait());
  engine.kill();
  ::testing::internal::CaptureStderr();
  pub.close();
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

TEST_F(Faults, ClosingFreesBehindItsOwnCopies) {
  const auto sources = model_.sources(1);
  const std::uint64_t before = sim::live_allocations();
  const Variable delay("TENON_SIM_DELAY_US", "2000");
  {
    Publisher pub = create(Mode::in_place);
    cudaStream_t stream = make_stream();
    ASSERT_EQ(sim::launch(stream, [] { std::this_thread::sleep_for(50ms); }), cudaSuccess);
    (void)pub.publish(sources, Stream(stream));
  }
  EXPECT_EQ(sim::live_allocations(), before);
}

// Freeing waits for the device: behind work that does not end, nothing may be freed.
TEST_F(Faults, ClosingBehindWorkThatDoesNotEndIsReportedAndDoesNotHang) {
  Child trainer([&] {
    const auto sources = model_.sources(1);
    cudaStream_t stream = make_stream();
    Held held(stream);
    {
      Publisher pub = create(Mode::in_place, {.gather = GatherMethod::cub});
      (void)pub.publish(sources, Stream(stream));
      ::testing::internal::CaptureStderr();
    }
    const std::string said = ::testing::internal::GetCapturedStderr();
    EXPECT_NE(said.find("because of its own copies"), std::string::npos) << said;
    return 0;
  });
  EXPECT_EQ(trainer.wait(10s), 0);
}

TEST_F(Faults, SubscriberThatGoesBehindWorkThatDoesNotEndIsReportedAndDoesNotHang) {
  Publisher pub = create(Mode::in_place);
  model_.publish(pub, 1);
  Child engine([&] {
    cudaStream_t stream = make_stream();
    Held held(stream);
    ::testing::internal::CaptureStderr();
    {
      auto sub = Subscriber::attach(name_);
      sub.wait(newest(), kPatience).release(Stream(stream));
    }
    const std::string said = ::testing::internal::GetCapturedStderr();
    EXPECT_NE(said.find("behind work that is still running"), std::string::npos) << said;
    return 0;
  });
  EXPECT_TRUE(eventually([&] {
    const auto there = pub.subscribers();
    return !there.empty() && there[0].holds == 1;
  }));
  EXPECT_THROWS(DeadlinePassed, "holds version 1",
                (void)model_.publish(pub, 2, {.deadline = 500ms}));
  EXPECT_EQ(engine.wait(), 0);
  EXPECT_EQ(model_.publish(pub, 2, {.deadline = kPatience}), 2U);
}

TEST_F(Faults, SubscriberInThePublishersProcessOutlivesIt) {
  const auto sources = model_.sources(1);
  const std::uint64_t before = sim::live_allocations();
  std::optional<Publisher> pub = create(Mode::in_place);
  std::optional<Subscriber> sub = Subscriber::attach(name_);
  publish(*pub, sources);
  std::optional<Lease> lease = sub->wait(newest(), kPatience);
  ::testing::internal::CaptureStderr();
  pub.reset();
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(model_.wrong(*lease, 1), 0U);
  EXPECT_THROWS(Closed, "closed the publication", (void)sub->wait(newer_than(1), kPatience));
  sub.reset();
  EXPECT_EQ(model_.wrong(*lease, 1), 0U);
  EXPECT_EQ(sim::live_allocations(), before + buckets()) << "the slots, by the lease";
  lease.reset();
  EXPECT_EQ(sim::live_allocations(), before);
}

}  // namespace
}  // namespace tenon::test
