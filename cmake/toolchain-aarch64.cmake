# AArch64 (Grace) by Debian's cross compiler: g++-aarch64-linux-gnu. Programs run under qemu-user-static where it is.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)  # GoogleTest's own project asks for one
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
find_program(TENON_QEMU_AARCH64 NAMES qemu-aarch64-static qemu-aarch64)
if(TENON_QEMU_AARCH64)
  set(CMAKE_CROSSCOMPILING_EMULATOR ${TENON_QEMU_AARCH64} -L /usr/aarch64-linux-gnu)
endif()

# Headers (Boost, CLI11, fmt, nlohmann_json) serve every machine and lie in /usr/include; fmt's package file lies with
# this machine's library, of which nothing is used (header-only). GoogleTest is compiled from its sources.
file(GLOB fmt_DIR /usr/lib/*-linux-gnu/cmake/fmt)
