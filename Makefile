SHELL := /bin/bash -o pipefail
BIN := bin/gl-k8s-integrator
DEMO := bin/gl-k8s-demo
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
FUZZTIME ?= 20s
# Packages whose tests start a real control plane share two cores: one after the other is as fast, and steadier.
TESTFLAGS ?= -race -shuffle=on -p 1 -timeout 25m
LINT = go tool -modfile=internal/lint/go.mod
GOFILES = $$(find . -name '*.go' -not -path '*/node_modules/*')

.DEFAULT_GOAL := help
.PHONY: help build demo check vet test lint fuzz bench bench-sync bench-hang bench-authn bench-explain bench-init bench-web bench-page verify controlplane fmt chart image release bench-people

help: ## show this help
	@echo "gl-k8s-integrator: GitLab's rights on one shared Kubernetes cluster"
	@echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

build: ## make bin/gl-k8s-integrator
	go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o $(BIN) ./cmd/gl-k8s-integrator

.PHONY: $(DEMO)
$(DEMO):
	go build -trimpath -ldflags "-s -w" -o $(DEMO) ./cmd/gl-k8s-demo

demo: build $(DEMO) ## show the whole job on a real API server (ARGS=--once: then stop; ARGS=--login=apiserver: without our TokenReview)
	$(DEMO) demo $(ARGS)

controlplane: $(DEMO) ## build or find etcd, kube-apiserver, kube-controller-manager, kubectl
	$(DEMO) controlplane

check: export FUZZTIME := 3s
check: ## all that must hold before a change goes in: vet, lint, verify, test, fuzz for 3s each (half an hour)
	@failed=; n=0; for step in vet lint verify test fuzz; do \
	  n=$$((n+1)); echo "== check $$n/5: make $$step"; begun=$$SECONDS; \
	  if $(MAKE) --no-print-directory $$step; then echo "== check $$n/5: $$step passed in $$((SECONDS-begun)) s"; \
	  else echo "== check $$n/5: $$step FAILED after $$((SECONDS-begun)) s"; failed="$$failed $$step"; fi; \
	done; \
	if [ -z "$$failed" ]; then echo "PASS: vet, lint, verify, test and fuzz"; else echo "FAIL:$$failed; see above"; exit 1; fi

vet: ## let go vet look at all packages
	@echo "== go vet"; go vet ./... && cd internal/conformance && go vet ./... && cd ../image && go vet ./... && cd ../browser && go vet ./...

test: vet build controlplane ## run all tests, against a real API server
	@/usr/bin/python3 -c 'import gitlab' 2>/dev/null || echo "SKIPPED: python3-gitlab is not installed: no foreign client drives the simulated REST API (.ci/run installs it)"
	@cmp -s internal/gitlabsim/runner/testdata/gitlab-ci-local/package-lock.json "$${XDG_CACHE_HOME:-$$HOME/.cache}/gl-k8s-integrator/gitlab-ci-local/node_modules/.installed" && command -v node >/dev/null || echo "SKIPPED: gitlab-ci-local is not installed: no foreign reader of .gitlab-ci.yml is compared with the simulated runner (.ci/run installs it)"
	@command -v promtool >/dev/null || echo "SKIPPED: promtool is not installed: alerts and dashboard are not checked with Prometheus' own tool (.ci/run installs it)"
	@cmp -s internal/browser/testdata/axe/package-lock.json "$${XDG_CACHE_HOME:-$$HOME/.cache}/gl-k8s-integrator/axe-core/node_modules/.installed" && command -v chromium >/dev/null || echo "SKIPPED: chromium or axe-core is not installed: no page is opened in a real browser, or its accessibility is not checked (.ci/run installs both)"
	@echo "== tests (about half an hour; packages that start a control plane run one after the other, the rest beside them)"
	@failed=; beside=$$(mktemp); \
	  go list -test -f '{{.ImportPath}} {{join .Deps " "}}' ./... | awk '$$1 ~ /\.test$$/ { print sub(/\.test$$/, "", $$1) && /internal\/controlplane/ ? "with" : "without", $$1 }' > $$beside.list; \
	  go test $(TESTFLAGS) $$(awk '$$1 == "without" { print $$2 }' $$beside.list) > $$beside 2>&1 & \
	  go test $(TESTFLAGS) $$(awk '$$1 == "with" { print $$2 }' $$beside.list) || failed=1; \
	  wait $$! || failed=1; echo "== those beside them"; cat $$beside; rm -f $$beside $$beside.list; \
	  echo "== kube-apiserver's own webhook client, a module of its own"; (cd internal/conformance && go test ./...) || failed=1; \
	  echo "== the pages in a browser, a module of its own"; (cd internal/browser && go test ./...) || failed=1; \
	  echo "== the image, a module of its own"; (cd internal/image && go test ./...) || failed=1; \
	  if [ -z "$$failed" ]; then echo "PASS: all tests passed"; else echo "FAIL: see the first '--- FAIL' above"; exit 1; fi

lint: ## check style and import directions
	$(LINT) golangci-lint run ./...

fmt: ## format all Go files
	$(LINT) gofumpt -w $(GOFILES)

fuzz: ## run every fuzz target for FUZZTIME (20s) each
	@targets=$$(grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sed -E 's|/[^/]*:func | |' | sort); n=0; \
	while read -r pkg f; do \
	  n=$$((n+1)); echo "== fuzz $$n/$$(wc -l <<< "$$targets"): $$pkg $$f for $(FUZZTIME)"; \
	  go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg < /dev/null || { echo "FAIL: $$pkg $$f"; exit 1; }; \
	done <<< "$$targets"

bench: build controlplane ## print BENCH lines: how long the story and a revocation take
	$(DEMO) demo --once --bench

bench-sync: build controlplane ## print BENCH lines: the sync engine at 10,000 projects (about 15 minutes; ARGS=-scale=0.05: a small one; AGAINST=COMMIT: beside that build, an hour)
	@against=; if [ -n "$(AGAINST)" ]; then \
	  tree=$$(mktemp -d) && trap 'git worktree remove --force "$$tree"' EXIT && git worktree add --detach "$$tree" "$(AGAINST)" >/dev/null && against="-against-source $$tree" || exit 1; fi; \
	go run ./internal/bench/sync -binary $(BIN) $$against $(ARGS)

bench-hang: build controlplane ## print BENCH lines: what goes on while a part of GitLab hangs (about 4 minutes; ARGS=-kinds=project,group: only these)
	go run ./internal/bench/sync -binary $(BIN) -hang $(ARGS)

bench-authn: ## print BENCH lines: what a token review costs, beside a constant handler (about 5 minutes; ARGS=-quick: one)
	go run ./internal/bench/authn $(ARGS)

bench-explain: ## print BENCH lines: what the reason for a refusal costs at 20,000 namespaces (half a minute)
	@go test -run '^$$' -bench '^BenchmarkRefusal$$' ./authz | awk '/^BenchmarkRefusal/ { sub(/-[0-9]+$$/, "", $$1); sub(/BenchmarkRefusal/, "", $$1); gsub("/", ".", $$1); printf "BENCH refusal%s %.1f us\n", $$1, $$3 / 1000 }'

bench-people: ## print BENCH lines: what people's tools wait for an answer at 10,000 projects, the 99th percentile (half a minute)
	@go test -run '^$$' -bench '^BenchmarkPeople$$' ./internal/people/api | awk '/^BenchmarkPeople/ { sub(/-[0-9]+$$/, "", $$1); sub(/BenchmarkPeople/, "", $$1); gsub("/", ".", $$1); printf "BENCH people%s.p99_ms %.1f ms\n", $$1, $$5 }'

bench-init: build controlplane ## print BENCH lines: from init to a login in mode enforce, in each form (two minutes)
	@go test -count=1 -v -run '^TestNextPage' ./internal/setup | sed -n -E '/BENCH/s/.*BENCH/BENCH/p; /^(---|FAIL|ok)/p'

bench-page: controlplane ## print BENCH lines: from the page to kubectl get pods, in Chromium (a minute and a half)
	@cd internal/browser && go test -count=1 -v -run '^TestPages' . | sed -n -E '/BENCH/s/.*BENCH/BENCH/p; /^(---|FAIL|ok)/p'

bench-web: ## print BENCH lines: p99 of the pages for people at 10,000 projects (half a minute)
	@go test -run '^$$' -bench '^BenchmarkPage$$' ./internal/web | awk '/^BenchmarkPage/ { sub(/-[0-9]+$$/, "", $$1); sub(/BenchmarkPage\//, "", $$1); gsub("/", ".", $$1); for (i = 3; i < NF; i++) if ($$(i+1) == "p99-ms") printf "BENCH web.%s.page_p99 %.2f ms\n", $$1, $$i }'

chart: ## make what has its source elsewhere: the chart's copies of manifests, alerts and keys, deploy/optional/deployment.yaml
	go test -count=1 -run '^TestOneSource$$' ./internal/chart -update

image: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
image: ## make the container image as an OCI archive in bin/, without an engine (KEY=FILE: sign it; docs/image.md)
	cd internal/image && go run . -version $(VERSION) $(if $(KEY),-key $(abspath $(KEY)))

release: ## make all files of a release in dist/, from the commit that is checked out (VERSION=v0.1.0 KEY=FILE URL=WHERE_IT_WILL_BE; docs/release.md)
	cd internal/image && go run . -release -version "$(VERSION)" -out "$(CURDIR)/dist" $(if $(URL),-url "$(URL)") $(if $(KEY),-key $(abspath $(KEY))) $(ARGS)

verify: ## check formatting and go.mod; writes nothing and needs no git
	@failed=; for module in . internal/lint internal/chart/helm internal/conformance internal/controlplane/kubelogin internal/controlplane/tools internal/image internal/image/krew internal/browser; do \
	  echo "== go mod tidy -diff in $$module"; (cd $$module && go mod tidy -diff) || { echo "$$module/go.mod: run go mod tidy there"; failed=1; }; \
	done; \
	echo "== gofumpt"; list=$$($(LINT) gofumpt -l $(GOFILES)) || failed=1; \
	if [ -n "$$list" ]; then echo "not formatted, run make fmt:"; echo "$$list"; failed=1; fi; \
	echo "== one source of chart and manifests"; go test -count=1 -run '^TestOneSource$$' ./internal/chart || failed=1; \
	[ -z "$$failed" ]
