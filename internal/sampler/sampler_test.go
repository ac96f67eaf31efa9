package sampler

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// TestSampler: full readings are sampled beside the rounds, the latest one if several wait, and differences are reported
// by log, metric and findings.
func TestSampler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		var log bytes.Buffer
		differs := authz.DifferenceFinding(authz.ProjectID(42), []authz.Difference{{User: 3, Ours: authz.Developer, Listed: authz.Maintainer}})
		snaps := []*authz.Snapshot{{Issuer: "0"}, {Issuer: "1"}, {Issuer: "2"}, {Issuer: "3"}}
		var seen []string
		s := New(func(_ context.Context, snap *authz.Snapshot) (gitlab.SampleReport, error) {
			seen = append(seen, snap.Issuer)
			switch snap.Issuer {
			case "1":
				return gitlab.SampleReport{Checked: []authz.SourceID{authz.ProjectID(42)}, Differences: 1, Findings: []authz.Finding{differs}}, nil
			case "3":
				return gitlab.SampleReport{}, errors.New("GitLab is away")
			}
			return gitlab.SampleReport{Checked: []authz.SourceID{authz.ProjectID(42)}}, nil
		}, slog.New(slog.NewTextHandler(&log, nil)), registry)
		s.Offer(syncer.Round{Kind: syncer.KindFull, Snapshot: snaps[0]})
		s.Offer(syncer.Round{Kind: syncer.KindFull, Snapshot: snaps[1]})
		s.Offer(syncer.Round{Kind: syncer.KindTargeted, Snapshot: snaps[2]})
		s.Offer(syncer.Round{Kind: syncer.KindFull})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { s.Run(ctx); close(done) }()
		synctest.Wait()
		if got := s.Last(); len(got) != 1 || got[0] != differs || !strings.Contains(got[0].Text, `gitlab user 3 has "Developer" by our reading, "Maintainer" by GitLab's own list`) {
			t.Errorf("findings %v", got)
		}
		if n := value(t, registry, "gl_k8s_integrator_sample_differences"); n != 1 {
			t.Errorf("sample_differences is %v", n)
		}
		if !strings.Contains(log.String(), "membership_differs") || !strings.Contains(log.String(), "project/42") {
			t.Errorf("log: %s", log.String())
		}
		s.Offer(syncer.Round{Kind: syncer.KindFull, Snapshot: snaps[3]})
		synctest.Wait()
		if len(s.Last()) != 1 {
			t.Error("a failed sample took the finding back")
		}
		s.Offer(syncer.Round{Kind: syncer.KindFull, Snapshot: snaps[0]})
		synctest.Wait()
		if len(s.Last()) != 0 || value(t, registry, "gl_k8s_integrator_sample_differences") != 0 {
			t.Error("the finding stays after a sample that agrees")
		}
		cancel()
		<-done
		if got := strings.Join(seen, " "); got != "1 3 0" {
			t.Errorf("sampled %s", got)
		}
		for result, want := range map[string]float64{"agrees": 1, "differs": 1, "failed": 1} {
			if got := value(t, registry, "gl_k8s_integrator_samples_total", result); got != want {
				t.Errorf("samples_total{%s} = %v", result, got)
			}
		}
	})
}

// value returns a number of a registry, by name and label value.
func value(t *testing.T, registry *prometheus.Registry, name string, label ...string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (len(label) == 0 || m.GetLabel()[0].GetValue() == label[0]) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("no metric %s %v", name, label)
	return 0
}
