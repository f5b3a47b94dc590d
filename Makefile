# Two commands do everything: make run, make test. See make help.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

BIN     := bin/quorate
TOOLS   := $(CURDIR)/.tools
GO      ?= go

# Tools are built from the Go module proxy, pinned, into .tools.
STATICCHECK_VERSION := v0.8.2
GOVULNCHECK_VERSION := v1.9.0
NATSCLI_VERSION     := v0.5.1
STATICCHECK := $(TOOLS)/staticcheck-$(STATICCHECK_VERSION)
GOVULNCHECK := $(TOOLS)/govulncheck-$(GOVULNCHECK_VERSION)
NATSCLI     := $(TOOLS)/natscli-$(NATSCLI_VERSION)
NATSSERVER  := $(TOOLS)/natsserver-$(shell awk '/nats-server\/v2 v/{print $$2}' bench/nats/go.mod)
ETCD        := $(TOOLS)/etcd-$(shell awk '/etcd\/server\/v3/{print $$NF}' bench/etcd/go.mod)

# Root's end-to-end tests make networks and disks of their own with these.
E2E_PROGRAMS := ip:iproute2 iptables:iptables nsenter:util-linux mkfs.ext4:e2fsprogs

.PHONY: help run build test unit race e2e e2e-programs soak chaos-long lint vuln fmt bench bench-quick fuzz docker tools clean

help: ## Print what there is to make.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 14

run: build ## Build, start three nodes in one process, print what to try. Ctrl-C stops them.
	@exec $(BIN) dev --log-level warn

build: ## Build the one binary, static, into bin/.
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN) ./cmd/quorate

test: tools build lint race e2e vuln ## Run everything: lint, unit and property tests with -race, clusters of processes, the examples of the documents.
	@echo "make test: all of it passed"

race: ## Unit, property and in-process tests with the race detector.
	$(GO) test -race -timeout 15m $$($(GO) list ./... | grep -v internal/e2e)
	cd bench && $(GO) test ./...

unit: ## The same without the race detector, for a quick look.
	$(GO) test $$($(GO) list ./... | grep -v internal/e2e)

e2e: $(NATSCLI) e2e-programs ## Clusters of real processes: kill -9, partitions, power cuts, full disks, rolling restarts; and every example of README and subjects.md.
	NATS_CLI=$(NATSCLI)/nats $(GO) test -count=1 -timeout 20m ./internal/e2e/

e2e-programs: # Without root, or without apt-get, the tests that need them say that they are not run.
	@test "$$(id -u)" = 0 && command -v apt-get >/dev/null || exit 0; missing=; \
	for p in $(E2E_PROGRAMS); do command -v $${p%%:*} >/dev/null || missing="$$missing $${p##*:}"; done; \
	test -z "$$missing" || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing; } || echo "could not install$$missing: tests that need them are not run"

soak: $(NATSCLI) e2e-programs ## What takes too long for make test: more power cuts, long partitions, more random histories of the log. Some ten minutes.
	QUORATE_SOAK=1 NATS_CLI=$(NATSCLI)/nats $(GO) test -count=1 -v -timeout 60m -run 'TestPowerLoss|Partition|TestPacketLoss|Bite' ./internal/e2e/
	$(GO) test -count=1 -timeout 60m ./raftnode/wal -rapid.checks=2000

chaos-long: e2e-programs ## Things happen at random (kills, pauses, partitions, power cuts, full disks, transfers) and histories are judged: CHAOS_TIME=30m, and SEED=… to replay.
	QUORATE_CHAOS_TIME=$${CHAOS_TIME:-30m} QUORATE_CHAOS_SEED=$${SEED:-} $(GO) test -count=1 -v -timeout 0 -run 'TestChaos$$' ./internal/e2e/

lint: $(STATICCHECK) ## gofmt, go vet, staticcheck.
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "gofmt would change:"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	$(STATICCHECK)/staticcheck ./...
	cd bench && $(GO) vet ./... && $(STATICCHECK)/staticcheck ./...

vuln: $(GOVULNCHECK) ## Known vulnerabilities, when the database can be reached; it says when not.
	@out=$$($(GOVULNCHECK)/govulncheck ./... 2>&1) && { echo "$$out" | tail -3; } || { \
	  if grep -qE 'dial tcp|no such host|i/o timeout|connection refused|vuln.go.dev|proxyconnect|TLS handshake' <<<"$$out" && ! grep -q 'Vulnerability #' <<<"$$out"; then \
	    echo "govulncheck: its database cannot be reached from here; vulnerabilities were NOT checked"; \
	  else echo "$$out"; exit 1; fi; }

fmt: ## Format all Go files.
	gofmt -w $$(git ls-files '*.go')

BENCH = cd bench && $(GO) build -o ../bin/bench . && exec ../bin/bench -nats-server $(NATSSERVER)/nats-server -etcd $(ETCD)/etcd
BIG  ?= 10000000

bench: build $(NATSSERVER) $(ETCD) ## Measure beside JetStream and etcd, as ratios within one run, into docs/benchmarks.md: some 25 minutes, and again as many for a store of ten million events (BIG=0: without).
	$(BENCH) -command "$(strip make bench BIG=$(BIG) $(if $(BENCHFLAGS),BENCHFLAGS='$(BENCHFLAGS)'))" -big $(BIG) -json ../bin/bench.json -markdown ../docs/benchmarks.md -svg ../docs $(BENCHFLAGS)

bench-quick: build $(NATSSERVER) $(ETCD) ## The same for the essential rows, printed only: less than five minutes.
	$(BENCH) -quick $(BENCHFLAGS)

fuzz: ## Fuzz every decoder for a while each (FUZZTIME=30s).
	@for pkg in $$($(GO) list ./...); do for f in $$($(GO) test -list '^Fuzz' $$pkg | grep ^Fuzz || true); do \
	  echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $${FUZZTIME:-30s} $$pkg; done; done

docker: ## Build the container image quorate:dev from scratch.
	docker/build.sh

tools: $(STATICCHECK) $(GOVULNCHECK) $(NATSCLI) ## Build the pinned tools that the tests need.

$(STATICCHECK):
	GOBIN=$@ $(GO) install honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK_VERSION)

$(GOVULNCHECK):
	GOBIN=$@ $(GO) install golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION)

$(NATSCLI):
	GOBIN=$@ $(GO) install github.com/nats-io/natscli/nats@$(NATSCLI_VERSION)

$(NATSSERVER): # its version, as etcd's, is in its own go.mod
	cd bench/nats && $(GO) build -o $@/nats-server github.com/nats-io/nats-server/v2

$(ETCD):
	cd bench/etcd && $(GO) build -o $@/etcd .

clean: ## Remove what was built; data directories stay.
	rm -rf bin .tools
