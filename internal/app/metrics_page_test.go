package app

import (
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/expiry"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/logqueue"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/metrics"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

var updateMetrics = flag.Bool("update", false, "write docs/metrics.md anew")

const metricsMarker = "<!-- The table below is made from what serve registers: go test ./internal/app -run TestMetricsPage -update -->"

// TestMetricsPage: each metric of serve is on the page with its type, its labels and its meaning.
func TestMetricsPage(t *testing.T) {
	const path = "../../docs/metrics.md"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, _, found := strings.Cut(string(page), metricsMarker)
	if !found {
		t.Fatalf("%s lacks the line %s", path, metricsMarker)
	}
	want := head + metricsMarker + "\n\n" + metricsTable(t, everyMetric(t))
	if *updateMetrics {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(page) != want {
		t.Error("docs/metrics.md is stale: go test ./internal/app -run TestMetricsPage -update")
	}
}

// everyMetric returns the registry of a process that has something to say of each metric.
func everyMetric(t *testing.T) *prometheus.Registry {
	t.Helper()
	absent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"message":"404 Project Not Found"}`)
	}))
	t.Cleanup(absent.Close)
	dir := t.TempDir()
	file := func(name, content string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	cfg, _ := config.Parse([]byte("gitlab: {url: " + absent.URL + ", readTokenFile: " + file("token", "x") + "}\n" + // without what serve would need beside
		"cluster: {kubeconfig: " + file("kubeconfig", `{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: a, user: a}}], clusters: [{name: a, cluster: {server: "https://127.0.0.1:1"}}], users: [{name: a, user: {}}]}`) + "}\n" +
		"authn: {clientIDs: [a]}"))
	s, err := newServer(cfg, slog.New(slog.DiscardHandler), metrics.LogDrops(func() logqueue.Drops { return logqueue.Drops{} }), metrics.Build("v1"))
	if err != nil {
		t.Fatal(err)
	}
	m := s.metrics
	m.Ends(func() []expiry.End { return []expiry.End{{What: "gitlab.readTokenFile", At: time.Now()}} })
	m.Review(authn.Review{})
	m.Overflow("webhooks")()
	m.Rejected("webhooks")()
	m.ExpectHooks(gitlab.HookOutcomes()...)
	m.HookOverLimit(gitlab.OverRefused)
	m.Round(syncer.Round{Kind: syncer.KindFull, Names: map[authz.SourceID]string{}}, authz.Finding{Code: "held"})
	if _, err := s.reader.About(t.Context(), authz.ProjectID(1)); err != nil {
		t.Fatal(err)
	}
	s.sample.Sample(t.Context(), &authz.Snapshot{Projects: map[int64]authz.Project{1: {ID: 1, Path: "a/b"}}})
	return m.Registry
}

var fqName = regexp.MustCompile(`^Desc\{fqName: "([^"]+)"`)

// metricsTable returns the rows of our metrics; those of Go and of the process are not ours.
func metricsTable(t *testing.T, registry *prometheus.Registry) string {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	ours := func(name string) bool { return strings.HasPrefix(name, "gl_k8s_integrator_") }
	var b strings.Builder
	b.WriteString("| metric | type | labels | meaning |\n|---|---|---|---|\n")
	shown := map[string]bool{}
	for _, f := range families {
		if !ours(f.GetName()) {
			continue
		}
		shown[f.GetName()] = true
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		if strings.ContainsAny(f.GetHelp(), "|\n") || !strings.HasSuffix(f.GetHelp(), ".") {
			t.Errorf("%s: its help is no sentence for a table: %q", f.GetName(), f.GetHelp())
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ", "), f.GetHelp())
	}
	descs := make(chan *prometheus.Desc)
	go func() { registry.Describe(descs); close(descs) }()
	var missing []string
	for d := range descs {
		if name := fqName.FindStringSubmatch(d.String()); name == nil || ours(name[1]) && !shown[name[1]] {
			missing = append(missing, d.String())
		}
	}
	if slices.Sort(missing); len(missing) > 0 || len(shown) < 25 {
		t.Errorf("%d metrics; everyMetric gives no value to %s", len(shown), strings.Join(missing, "\n"))
	}
	return b.String()
}
