package app

import (
	"errors"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

var day = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// TestAFailedFullReadingIsShown: in the metrics and in `status`, also before there ever was a good one.
func TestAFailedFullReadingIsShown(t *testing.T) {
	m := newMetrics()
	failure := errors.New("reading GitLab: not even a list was read completely: listing projects: 502")
	m.round(syncer.Round{Kind: syncer.KindFull, Started: day, Err: failure})
	if n := value(t, m.registry, "gl_k8s_integrator_rounds_total", "full"); n != 1 {
		t.Errorf("%v rounds", n)
	}
	if at := value(t, m.registry, "gl_k8s_integrator_last_good_round_timestamp_seconds"); at != 0 {
		t.Errorf("the last good round was at %v", at)
	}

	if m.round(syncer.Round{Kind: syncer.KindFull, Started: day}); value(t, m.registry, "gl_k8s_integrator_last_good_round_timestamp_seconds") != float64(day.Unix()) {
		t.Error("a good round does not count as one")
	}
}
