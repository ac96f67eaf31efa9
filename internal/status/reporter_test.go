package status

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

// TestStatusShowsWhatFails: also before there ever was a good round.
func TestStatusShowsWhatFails(t *testing.T) {
	failure := errors.New("reading GitLab: not even a list was read completely: listing projects: 502")
	kube := fake.NewClientset()
	engine, err := syncer.New(syncer.Options{Kube: kube, Logger: slog.New(slog.DiscardHandler), Policy: policyOf(t)})
	if err != nil {
		t.Fatal(err)
	}
	differs := authz.Finding{Code: "members_differ", Source: authz.Group(7), Text: "somebody is missing"}
	p := &Reporter{
		Elector: &store.Elector{Identity: "a"}, Mode: "enforce", Syncer: engine, Now: func() time.Time { return day },
		Requests: func() map[string]int64 { return nil }, Sampled: func() []authz.Finding { return []authz.Finding{differs} },
		Secrets: func() error { return errors.New("reading listeners.hooks.secretFile: open s: no such file") },
		Budget:  &Budget{Requests: func() map[string]int64 { return nil }, Now: func() time.Time { return day }},
	}
	var out bytes.Buffer
	p.status(&syncer.State{Round: syncer.Round{Cause: "start", Read: "full", Started: day, Err: failure}, Err: failure, Since: day}).print(&out, "a", day)
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
