# Works with GNU make on Linux and macOS. `make` lists the targets.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
BIN := ./target/debug/chat-service
BUF := .tools/npm/node_modules/.bin/buf
COMPOSE := .tools/bin/compose
# Fails with one line where Compose or an engine is missing, in place of Compose's own pages.
ENGINE = scripts/tools.sh compose; [ -x $(COMPOSE) ] || { echo "Docker Compose is missing: install Docker; make run serves without it" >&2; exit 1; }; \
	$(COMPOSE) ps -q >/dev/null 2>&1 || { echo "no container engine answers: start Docker; make run serves without it" >&2; exit 1; }
HADOLINT := .tools/hadolint/bin/hadolint
SHA256 := $(shell command -v sha256sum >/dev/null 2>&1 && echo sha256sum || echo shasum -a 256)

.PHONY: help
help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' Makefile

.PHONY: setup
setup: install-deps generate ## From a fresh clone to a running service: in containers where Docker runs, else the binary on SQLite
	@if docker info >/dev/null 2>&1; then $(MAKE) up; else echo "Docker doesn't run here: serving by the binary, on SQLite"; $(MAKE) run; fi

.PHONY: install-deps
install-deps: ## Put the tools of the checks into .tools: buf, grpcurl, ghz, linters; protoc isn't needed, the build compiles protos itself
	scripts/tools.sh all

.PHONY: up
up: ## Start the whole stack in containers; PROFILES="tracing monitoring" adds Jaeger, Prometheus and Grafana
	@$(ENGINE)
	$(COMPOSE) build chat-service
	$(if $(findstring tracing,$(PROFILES)),OTEL_EXPORTER_OTLP_ENDPOINT=http://jaeger:4318 )$(COMPOSE) $(PROFILES:%=--profile %) up -d
	@echo "serving on https://localhost:50051; a token: $(COMPOSE) run --rm token --sub alice; docs/operations.md tells more"

.PHONY: down
down: ## Stop the stack; its volumes stay, unless ARGS=-v
	@$(ENGINE)
	$(COMPOSE) --profile tracing --profile monitoring down $(ARGS)

.PHONY: build
build: ## Build the debug binary
	cargo build --locked

.PHONY: release
release: ## Build the release binary by its own profile, into target/guided: more messages a second, for two builds' time (docs/performance.md)
	scripts/release.sh

.PHONY: run
run: build gen-cert certs/dev.secret ## Serve on SQLite with a development secret, and print ready commands
	CHAT_AUTH_SECRET=certs/dev.secret $(BIN) serve

certs/dev.secret:
	@umask 077; printf 'development-only-%s\n' "$$(od -An -tx1 -N48 /dev/urandom | tr -d ' \n')" > $@

.PHONY: gen-cert
gen-cert: build ## Make certs/: a CA, a server's and a client's certificate; what is there is kept; ARGS="--out … --name …"
	$(BIN) gen-cert $(ARGS)

.PHONY: generate
generate: generate-chat-api generate-openapi generate-assets ## Generate everything that is made from the proto, and fetch what is served with it

.PHONY: generate-chat-api
generate-chat-api: ## Generate the API's code and validation (build.rs does it; protoc isn't needed), and check the proto
	touch build.rs
	cargo build --locked
	scripts/tools.sh buf
	@if [ -x $(BUF) ]; then $(BUF) build -o /dev/null; else echo "skipped: buf build"; fi

.PHONY: generate-openapi
generate-openapi: ## Write the REST API's description, which is built into the binary (a test says when it is stale)
	UPDATE=1 cargo test --locked --test openapi the_committed_description

.PHONY: generate-assets
generate-assets: ## Swagger UI's files from their pinned package; offline they are only verified
	scripts/vendor-swagger.sh

.PHONY: vendor-proto
vendor-proto: ## Third-party protos from their pinned origins; offline they are only verified
	scripts/vendor-proto.sh

.PHONY: test
test: ## Run every test; finds or installs what it needs and starts it, trying again where that fails, and says so at the end
	scripts/test.sh

.PHONY: test-faults
test-faults: ## The delivery checker while things break, on both stores; FAULT_ROUNDS=100 makes a soak of it
	scripts/test-faults.sh

.PHONY: test-cluster
test-cluster: ## The delivery checker on three nodes with Redis, a Redis Cluster and nginx while things break; CLUSTER_ROUNDS=100 makes a soak of it
	scripts/test-cluster.sh

ADDR ?= https://localhost:50051
LOAD_PROFILE ?= release
.PHONY: check
check: build ## Prove the delivery promises on a running deployment: ADDR, CHAT_CA, CHAT_AUTH_SECRET; ARGS are added
	$(BIN) check --addr $(ADDR) $(ARGS)

.PHONY: test-model
test-model: ## Run the model-based tests and the fuzzing for longer: MODEL_CASES times as many cases, 50 by default
	MODEL_CASES=$${MODEL_CASES:-50} scripts/with-services.sh cargo test --locked --test model --test fuzz

.PHONY: bench
bench: ## The goals' tables, against bare tonic, on both stores: BENCH_ROUNDS, BENCH_ONLY, BENCH_SHORT=1, BENCH_PROFILE (docs/performance.md)
	scripts/bench.sh

.PHONY: bench-growth
bench-growth: ## CPU per message and the start, with up to 10 million messages stored; takes longer
	scripts/bench.sh growth

.PHONY: bench-guard
bench-guard: ## Short, failing where a goal is missed by far
	scripts/bench-guard.sh

.PHONY: bench-micro
bench-micro: ## The hot pieces alone, by criterion; ARGS are criterion's
	cargo bench --locked --profile $${BENCH_PROFILE:-bench} --bench micro -- $(ARGS)

.PHONY: profile
profile: ## Where the server's time goes: BENCH_ONLY picks the row, PROFILE_OF the profiler
	scripts/profile.sh

.PHONY: test-coverage
test-coverage: ## Coverage by cargo-tarpaulin (built into .tools where it is missing), into target/tarpaulin, and shown in a browser where there is one; ARGS=--lib: of the unit tests alone
	scripts/tools.sh tarpaulin
	scripts/coverage.sh $(ARGS)
	@report=target/tarpaulin/tarpaulin-report.html; echo "coverage: $$report"; \
	if [ -t 1 ] && [ "$$(uname)" = Darwin ]; then open "$$report"; \
	elif [ -t 1 ] && [ -n "$${DISPLAY:-$$WAYLAND_DISPLAY}" ] && command -v xdg-open >/dev/null; then xdg-open "$$report"; fi

.PHONY: grpc-load-test
grpc-load-test: ## Load by ghz over TLS: SendMessage, GetChat, ConnectChat; starts a server of its own, unless ADDR is given to make; LOAD_PROFILE=dev: of the debug build
	cargo build --locked --profile $(LOAD_PROFILE)
	BIN=./target/$(LOAD_PROFILE:dev=debug)/chat-service $(if $(filter command environment,$(firstword $(origin ADDR))),ADDR=$(ADDR) )scripts/load-test.sh

.PHONY: lint
lint: ## Formatting, clippy with warnings denied, the proto's lint, checksums of third-party files, containers, dependencies
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --test faults --test cluster -- -D warnings
	cd proto/third_party && $(SHA256) -c --quiet SHA256SUMS
	cd assets/swagger && $(SHA256) -c --quiet SHA256SUMS
	scripts/tools.sh buf
	@if [ -x $(BUF) ]; then $(BUF) lint; else echo "skipped: buf lint"; fi
	scripts/tools.sh compose hadolint
	@if [ -x $(COMPOSE) ]; then $(COMPOSE) --profile tools --profile tracing --profile monitoring config -q; else echo "skipped: compose config"; fi
	@if [ -x $(HADOLINT) ]; then $(HADOLINT) Dockerfile; else echo "skipped: hadolint"; fi
	scripts/deny.sh

.PHONY: fmt
fmt: ## Format the code
	cargo fmt

.PHONY: clean
clean: ## Remove what was built and the test tools; certs/ and data/ stay
	cargo clean
	rm -rf .tools examples/go/gen examples/typescript/node_modules
