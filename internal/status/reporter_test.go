package status

import (
	"bytes"
	"errors"
	"fmt"
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
	differs := authz.Finding{Code: "members_differ", Source: authz.GroupID(7), Text: "somebody is missing"}
	now := func() time.Time { return day }
	p := NewReporter(Options{
		Kube: fake.NewClientset(), Mode: func() string { return "enforce" }, Elector: &store.Elector{Identity: "a"}, Rounds: NewRounds(), Now: now, Logger: slog.New(slog.DiscardHandler),
		Engine:       engine{Round: syncer.Round{Cause: "start", Kind: syncer.KindFull, Started: day, Err: failure}, Err: failure, Since: day},
		Budget:       NewBudget(idle{}, nil, now),
		Findings:     func() []authz.Finding { return []authz.Finding{differs} },
		HooksRefused: func() error { return errors.New("reading listeners.hooks.secretFile: open s: no such file") },
	})
	var out bytes.Buffer
	p.document().print(&out, "a", Activity{}, day)
	for _, want := range []string{"FAILING          since 2026-11-22T12:00:00Z: " + failure.Error(), "GitLab read      never", "members_differ: somebody is missing", "HOOKS REFUSED    reading listeners.hooks.secretFile: open s"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("status without %q:\n%s", want, out.String())
		}
	}
}

// engine is one whose last rounds left this.
type engine syncer.State

func (e engine) State() *syncer.State { s := syncer.State(e); return &s }

func (engine) Staleness() (syncer.Staleness, bool) { return syncer.Staleness{}, false }

// TestWhatTheLeaderWaitsForIsShown: before the first round, until the wait is over; and nothing is written for no news.
func TestWhatTheLeaderWaitsForIsShown(t *testing.T) {
	rounds := NewRounds()
	texts := func() string { _, _, waiting := rounds.summary(); return fmt.Sprint(waiting) }
	fence := &authz.Finding{Code: "fence", Text: "apply deploy/manifests"}
	for _, step := range []struct {
		f    *authz.Finding
		news bool
		want string
	}{{nil, false, ""}, {fence, true, "apply deploy/manifests"}, {nil, true, ""}, {nil, false, ""}} {
		if news := rounds.Wait(step.f); news != step.news || len(rounds.changed) > 0 != news || !strings.Contains(texts(), step.want) || step.want == "" && texts() != "[]" {
			t.Errorf("%v: news %v, to be written %d, %s", step.f, news, len(rounds.changed), texts())
		}
		select {
		case <-rounds.changed:
		default:
		}
	}
}

// idle is a Reader that has read nothing.
type idle struct{}

func (idle) Requests() map[string]int64 { return nil }
func (idle) LinksAge() time.Duration    { return 0 }
