# Cross-compiling for 64-bit Arm with Debian's crossbuild compiler; tests run under qemu's user emulation.
#
#   cmake -S . -B build/arm --toolchain cmake/aarch64-linux-gnu.cmake -DFS_ARM_ROOT=FOLDER
#
# FS_ARM_ROOT: a folder with the libraries for arm64 (scripts/arm_sysroot.sh makes one). Which processor is emulated says the environment
# variable QEMU_CPU when the tests run: "max" (the default), "cortex-a53", "neoverse-n1" ...
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

set(FS_ARM_ROOT "" CACHE PATH "Folder with the libraries for arm64")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES FS_ARM_ROOT)
if(NOT FS_ARM_ROOT)
  message(FATAL_ERROR "Say where the libraries for arm64 are: -DFS_ARM_ROOT=FOLDER (scripts/arm_sysroot.sh FOLDER fetches them)")
endif()
set(CMAKE_SYSROOT "${FS_ARM_ROOT}")
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(ENV{PKG_CONFIG_LIBDIR} "${FS_ARM_ROOT}/usr/lib/aarch64-linux-gnu/pkgconfig:${FS_ARM_ROOT}/usr/share/pkgconfig")
set(ENV{PKG_CONFIG_SYSROOT_DIR} "${FS_ARM_ROOT}")
# Libraries that libraries need, where Debian keeps them (libblas, liblapack and the like are elsewhere, but nothing needs those).
string(APPEND CMAKE_EXE_LINKER_FLAGS_INIT " -Wl,-rpath-link,${FS_ARM_ROOT}/usr/lib/aarch64-linux-gnu:${FS_ARM_ROOT}/lib/aarch64-linux-gnu")
string(APPEND CMAKE_SHARED_LINKER_FLAGS_INIT " -Wl,-rpath-link,${FS_ARM_ROOT}/usr/lib/aarch64-linux-gnu:${FS_ARM_ROOT}/lib/aarch64-linux-gnu")

find_program(FS_QEMU NAMES qemu-aarch64-static qemu-aarch64)
if(FS_QEMU)
  set(CMAKE_CROSSCOMPILING_EMULATOR "${FS_QEMU};-L;${FS_ARM_ROOT}")
endif()
