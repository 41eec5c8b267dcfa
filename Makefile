# KEMI. `make run` and `make test` need nothing but Go, Node.js with npm, and (as root, for tests) Debian's packages.
SHELL := /bin/bash
.DEFAULT_GOAL := help

BIN     := bin/kemi
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X kemi/app.Version=$(VERSION)
GOFLAGS_BUILD := -buildvcs=false -ldflags '$(LDFLAGS)'
LINT    := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.5.0
WEB_SRC := $(shell find web/src web/index.html web/package.json web/package-lock.json web/vite.config.ts 2>/dev/null)

.PHONY: help build run test check peer-opentsdb bench e2e web fmt lint fuzz deps clean

help: ## show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

build: web ## build bin/kemi with its web page
	go build $(GOFLAGS_BUILD) -o $(BIN) ./cmd/kemi

run: build ## build what is needed, start everything embedded on 127.0.0.1:7070, print the address and the token
	./$(BIN) server --data ./data --listen 127.0.0.1:7070

web: web/dist/index.html ## build the web page into web/dist

web/dist/index.html: $(WEB_SRC)
	cd web && npm ci --no-audit --no-fund --loglevel=error && rm -rf dist/assets && npm run --silent test && npm run --silent build

deps: ## install the Debian packages that tests use, if they are missing (needs root)
	@./e2e/deps

test: deps build ## everything that CI runs: vet, all Go tests with the race detector where it pays, end to end with the built binary
	go vet ./...
	go test ./...
	go test -race $(RACE)
	$(MAKE) e2e

# The packages whose goroutines share state.
RACE := ./app ./pipeline/... ./collectors/... ./sauron/... ./alerting/... ./provisioning/...

check: lint ## vet, lint and the race detector over everything
	go vet ./...
	go test -race ./...

e2e: ## the built binary on real input, from an empty folder (needs make build)
	go test -count=1 -tags e2e -timeout 15m ./e2e/...

# A real OpenTSDB, started for this. RECORD=1 writes anew what it answers; without, it is asked random questions beside our engine,
# by one package after the other: its ids follow the order in which names come.
peer-opentsdb: ## compare with a real OpenTSDB 2.4.1, which Maven brings (needs Java 17)
	eval "export $$(./e2e/peers/opentsdb up)"; \
	  if [ -n "$(RECORD)" ]; then KEMI_TEST_RECORD=1 go test -count=1 -tags peer -run '^TestRecord$$' -v ./sauron/tsd; \
	  else for p in ./sauron/tsd ./sauron/query; do go test -count=1 -tags peer -timeout 30m -run '^TestPeer' -v $$p || { code=1; break; }; done; fi; \
	  code=$${code:-$$?}; ./e2e/peers/opentsdb down; exit $$code

bench: build ## whole-process figures, written to docs/benchmarks.md (BENCH="-only query -victoriametrics PATH": see go run ./e2e/bench -h)
	go run ./e2e/bench -bin $(BIN) -out docs/benchmarks.md $(BENCH)

fuzz: ## each fuzz target for FUZZTIME (default 30s)
	@for p in $$(grep -rl --include=*_test.go 'func Fuzz' . | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -ho 'func Fuzz[A-Za-z0-9_]*' $$p/*_test.go | cut -c6-); do \
	    echo "$$p $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $${FUZZTIME:-30s} $$p || exit 1; done; done

fmt: ## format the Go code
	gofmt -w $$(git ls-files '*.go')

lint: ## golangci-lint with .golangci.yml
	go run $(LINT) run

clean: ## remove what was built (not the data)
	rm -rf bin web/dist/assets web/dist/index.html web/node_modules
