# A thin wrapper: every target first installs the Debian packages that are missing, then hands over to CMake (presets in
# CMakePresets.json). `make help` lists the targets.

SHELL := /bin/sh
PREFIX ?= /usr/local
SECONDS ?= 600
IMAGE ?=
MODEL ?=
PHOTOS ?=
OUT ?= out/nano
JOBS ?= $(shell nproc)
CONFIGURE = cmake --preset $(1) $(2) >$(if $(filter release,$(1)),build,build/$(1))/configure.log 2>&1 || \
	{ cat $(if $(filter release,$(1)),build,build/$(1))/configure.log; exit 1; }
# OpenMP threads that wait must sleep: several tests share the cores.
CTEST = OMP_WAIT_POLICY=passive ctest --output-on-failure --timeout 600 -j $(JOBS)
ASAN = ASAN_OPTIONS=abort_on_error=0:detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1

.DEFAULT_GOAL := all
.PHONY: all help deps demo nano test asan long tsan fuzz parity arm coverage bench install format lint clean

all: deps ## build build/fakeshield and the libraries
	@mkdir -p build
	@$(call CONFIGURE,release,)
	@cmake --build --preset release -j $(JOBS) --target fakeshield fakeshield_static fakeshield_shared

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo "  Variables: PREFIX=$(PREFIX) SECONDS=$(SECONDS) JOBS=$(JOBS) IMAGE=photo.jpg MODEL=checkpoint"

deps: ## install the Debian packages that are missing (root or sudo)
	@scripts/deps.sh build

demo: all ## a photograph and a forgery made of it, examined and shown side by side; IMAGE=yours MODEL=checkpoint
	@MODEL='$(MODEL)' scripts/demo.sh build/fakeshield '$(IMAGE)'

nano: all ## train the demonstration model: PHOTOS=folder OUT=folder (hours; stopped, it goes on)
	@[ -n '$(PHOTOS)' ] || { echo "make nano: give authentic photos: make nano PHOTOS=folder OUT=folder" >&2; exit 2; }
	@scripts/nano.sh build/fakeshield '$(PHOTOS)' '$(OUT)'

test: all ## the whole suite, then once more under ASan and UBSan
	@cmake --build --preset release -j $(JOBS)
	@cd build && $(CTEST) -LE "parity-full|long"
	@$(MAKE) --no-print-directory asan

asan: deps ## the suite under AddressSanitizer and UndefinedBehaviorSanitizer
	@mkdir -p build/asan
	@$(call CONFIGURE,asan,)
	@cmake --build --preset asan -j $(JOBS)
	@cd build/asan && $(ASAN) $(CTEST) -LE "parity-full|long"

long: deps ## whole trainings on the tiny checkpoint: does it learn what it is shown? (minutes)
	@mkdir -p build
	@$(call CONFIGURE,release,-DFS_BUILD_LONG=ON)
	@cmake --build --preset release -j $(JOBS)
	@cd build && $(CTEST) -j 1 --timeout 3000 -L long

tsan: ## the suite under ThreadSanitizer (clang)
	@scripts/deps.sh build tsan
	@mkdir -p build/tsan
	@$(call CONFIGURE,tsan,)
	@cmake --build --preset tsan -j $(JOBS)
	@cd build/tsan && FS_TEST_NO_LIMITS=1 TSAN_OPTIONS="ignore_noninstrumented_modules=1 halt_on_error=1" $(CTEST) -LE "parity-full|long"

fuzz: ## every fuzz harness for SECONDS each (clang)
	@scripts/deps.sh build fuzz
	@mkdir -p build/fuzz
	@$(call CONFIGURE,fuzz,-DFS_BUILD_TESTS=OFF)
	@cmake --build --preset fuzz -j $(JOBS)
	@$(ASAN) scripts/fuzz.sh build/fuzz $(SECONDS)

parity: deps ## recompute the goldens in Python and compare; networks at full size
	@scripts/deps.sh reference
	@mkdir -p build
	tools/reference/make_env.sh
	tools/reference/make_goldens.sh --check
	@$(call CONFIGURE,release,-DFS_BUILD_FULL_PARITY=ON)
	@cmake --build --preset release -j $(JOBS)
	@cd build && $(CTEST) -j 1 --timeout 3000 -L 'parity'
	tools/reference/check_trained.sh build

arm: ## cross-compile for 64-bit Arm and run the suite under qemu (tens of minutes)
	@scripts/arm.sh build/arm $(JOBS)

coverage: ## line coverage of the suite, in build/coverage/coverage.txt
	@scripts/deps.sh build coverage
	@mkdir -p build/coverage
	@$(call CONFIGURE,coverage,)
	@cmake --build --preset coverage -j $(JOBS)
	@cd build/coverage && FS_TEST_NO_LIMITS=1 $(CTEST) -LE "parity-full|long"
	@gcovr -r . --filter src/ --gcov-ignore-parse-errors --exclude-directories '.*CompilerId.*' --object-directory build/coverage build/coverage -o build/coverage/coverage.txt --print-summary

bench: all ## time every stage: MODEL=bundle, else random weights of the true size (9 GB)
	@[ -n '$(MODEL)' ] || [ -e build/synthetic/vision.gguf ] || build/fakeshield synth --arch 22b --type mixed -o build/synthetic
	@build/fakeshield bench -m '$(if $(MODEL),$(MODEL),build/synthetic)'
	@build/fakeshield bench -m '$(if $(MODEL),$(MODEL),build/synthetic)' --stage picture --runs 1

install: deps ## install under PREFIX, with a pkg-config file
	@mkdir -p build
	@$(call CONFIGURE,release,-DCMAKE_INSTALL_PREFIX=$(PREFIX))
	@cmake --build --preset release -j $(JOBS)
	@cmake --install build

format: ## clang-format on all sources
	@scripts/deps.sh lint
	@find src include tests tools bench \( -name '*.c' -o -name '*.h' -o -name '*.cc' \) -not -path '*/corpus/*' -print0 | xargs -0 -r clang-format -i

lint: all ## clang-tidy, cppcheck, shellcheck, include directions
	@scripts/deps.sh lint
	@scripts/check_includes.sh
	@find scripts tests tools .ci -type f \( -name '*.sh' -o -path .ci/run \) -print0 | xargs -0 -r shellcheck -S warning
	@cppcheck --quiet --std=c17 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
		--suppress=missingIncludeSystem --suppress=invalidFunctionArg '-Djson_array_foreach(a,i,v)=for(;;)' -D_GNU_SOURCE -Iinclude -Isrc src
	@find src \( -name '*.c' -o -name '*.cc' \) -print0 | xargs -0 -P $(JOBS) -n 8 clang-tidy --quiet -p build

clean: ## remove build/
	rm -rf build
