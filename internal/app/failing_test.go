package app

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes/fake"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

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

	kube := fake.NewClientset()
	engine, err := syncer.New(syncer.Options{Kube: kube, Logger: slog.New(slog.DiscardHandler), Policy: policyOf(t)})
	if err != nil {
		t.Fatal(err)
	}
	differs := authz.Finding{Code: "members_differ", Source: authz.Group(7), Text: "somebody is missing"}
	p := &reporter{
		elector: &store.Elector{Identity: "a"}, mode: "enforce", syncer: engine, now: func() time.Time { return day },
		requests: func() map[string]int64 { return nil }, sampled: func() []authz.Finding { return []authz.Finding{differs} },
		secrets: func() error { return errors.New("reading listeners.hooks.secretFile: open s: no such file") },
		budget:  &budget{requests: func() map[string]int64 { return nil }, linksAge: func() time.Duration { return 0 }, now: func() time.Time { return day }},
	}
	var out bytes.Buffer
	p.status(&syncer.State{Round: syncer.Round{Cause: "start", Kind: syncer.KindFull, Started: day, Err: failure}, Err: failure, Since: day}).print(&out, "a", day)
	for _, want := range []string{"FAILING          since 2026-11-22T12:00:00Z: " + failure.Error(), "GitLab read      never", "members_differ: somebody is missing", "HOOKS REFUSED    reading listeners.hooks.secretFile: open s"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("status without %q:\n%s", want, out.String())
		}
	}
}

func policyOf(t *testing.T) authz.Policy {
	t.Helper()
	p, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}
