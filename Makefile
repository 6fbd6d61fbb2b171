# A thin front to the scripts and to Meson: `make help` lists what there is.

BUILD = build
MESON_OPTIONS =
SOAK_SECONDS = 3600
STRESS_SECONDS = 600
FUZZ_SECONDS = 60

.DEFAULT_GOAL = all
.PHONY: all setup demo test bench soak fuzz format lint clean help

all: setup $(BUILD)/build.ninja ## Install what is missing and build the programs into build/bin/
	@ninja --quiet -C $(BUILD) bin/aerostat bin/aerostat-vm bin/aerostatd

setup:
	@scripts/setup build

$(BUILD)/build.ninja: | setup
	@meson setup $(BUILD) $(MESON_OPTIONS) >$(BUILD).log 2>&1 || { cat $(BUILD).log; exit 1; }
	@rm -f $(BUILD).log

demo: all ## Twelve Debian VMs at work in a sixth of their memory, watched, and shut down
	@scripts/setup demo
	@ninja --quiet -C $(BUILD) guests/checker guests/paging >/dev/null
	@demo/run

test: ## Unit tests, guest tests and boots; then what is quick enough under ASan and UBSan
	@scripts/setup build test
	@tests/run-tests $(MESON_OPTIONS)

bench: all ## Measure, beside QEMU's TCG; see docs/benchmarks.md
	@scripts/setup bench debian
	@bench/run
	@bench/speed/run --boots $(BUILD)/bench.json
	@bench/debian/run
	@bench/balloon/run
	@bench/paging/run
	@bench/sharing/run
	@bench/sharing/mix
	@bench/sharing/throughput
	@bench/ksm/run
	@bench/overcommit/run
	@bench/idle/run
	@bench/mmu/run
	@bench/policy/run
	@bench/policy/estimate
	@bench/policy/tax
	@bench/policy/storm

soak: all fuzz ## Fuzzing; a complete Debian at work; random programs, garbage, memory under chaos, SOAK_SECONDS each
	@scripts/setup test debian
	@STRESS_SECONDS=$(STRESS_SECONDS) tests/integration/soak_debian.py
	@ninja --quiet -C $(BUILD) tests/translate/native_test tests/translate/stress_test guests/checker
	@$(BUILD)/tests/translate/native_test --forever $$(($(SOAK_SECONDS) / 6))
	@$(BUILD)/tests/translate/stress_test --seed $$(date +%s) --count 100000
	@tests/integration/soak.py --seconds $(SOAK_SECONDS)
	@tests/integration/soak_memory.py --seconds $$((2 * $(SOAK_SECONDS))) # chaos every other life

fuzz: ## Every libFuzzer target for FUZZ_SECONDS
	@scripts/setup build fuzz
	@scripts/fuzz $(FUZZ_SECONDS)

format: ## Put all C files into the form of .clang-format
	@scripts/setup lint
	@scripts/lint --fix

lint: $(BUILD)/build.ninja ## clang-format and clang-tidy over the tree, and its rules about files
	@scripts/setup lint
	@scripts/lint

clean: ## Remove the build folders; the kernel in .cache stays
	@rm -rf build build-asan build-fuzz build.log

help: ## This list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16
