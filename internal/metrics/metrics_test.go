package metrics

import (
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

var day = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// TestAFailedFullReadingIsShown: in the metrics and in `status`, also before there ever was a good one.
func TestAFailedFullReadingIsShown(t *testing.T) {
	m := New()
	failure := errors.New("reading GitLab: not even a list was read completely: listing projects: 502")
	m.Round(syncer.Round{Kind: syncer.KindFull, Started: day, Err: failure})
	if n := value(t, m.Registry, "gl_k8s_integrator_rounds_total", "full"); n != 1 {
		t.Errorf("%v rounds", n)
	}
	if at := value(t, m.Registry, "gl_k8s_integrator_last_good_round_timestamp_seconds"); at != 0 {
		t.Errorf("the last good round was at %v", at)
	}

	if m.Round(syncer.Round{Kind: syncer.KindFull, Started: day}); value(t, m.Registry, "gl_k8s_integrator_last_good_round_timestamp_seconds") != float64(day.Unix()) {
		t.Error("a good round does not count as one")
	}
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
