package metrics

import (
	"sync"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// TestAScrapeSeesTheFindingsOfOneRound: rounds that find the same, and scrapes at any moment between. Each sees all of it, once.
func TestAScrapeSeesTheFindingsOfOneRound(t *testing.T) {
	m := New()
	r := syncer.Round{Names: map[authz.SourceID]string{}, Findings: []authz.Finding{{Code: "fence"}, {Code: "held"}, {Code: "held"}}}
	m.Round(r, authz.Finding{Code: "held"})
	stop := make(chan struct{})
	var rounds sync.WaitGroup
	rounds.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				m.Round(r, authz.Finding{Code: "held"})
			}
		}
	})
	defer rounds.Wait()
	defer close(stop)
	for range 300 {
		fence, held := value(t, m.Registry, "gl_k8s_integrator_findings", "fence"), value(t, m.Registry, "gl_k8s_integrator_findings", "held")
		if fence != 1 || held != 3 {
			t.Fatalf("fence %v, held %v, want 1 and 3", fence, held)
		}
	}
}

// TestFindingsThatAreGoneAreNotShown: a round without them, and a leader that waits.
func TestFindingsThatAreGoneAreNotShown(t *testing.T) {
	m := New()
	names := map[authz.SourceID]string{}
	shown := func() (codes []string) {
		families, err := m.Registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "gl_k8s_integrator_findings" {
				for _, x := range f.GetMetric() {
					codes = append(codes, x.GetLabel()[0].GetValue())
				}
			}
		}
		return codes
	}
	if got := shown(); len(got) != 0 {
		t.Errorf("before the first round: %v", got)
	}
	m.Waits(&authz.Finding{Code: "fence"})
	if got := shown(); len(got) != 1 || got[0] != "fence" {
		t.Errorf("while the leader waits: %v", got)
	}
	m.Round(syncer.Round{Names: names, Findings: []authz.Finding{{Code: "held"}}})
	if got := shown(); len(got) != 1 || got[0] != "held" {
		t.Errorf("after a round: %v", got)
	}
	m.Round(syncer.Round{Kind: syncer.KindDrift})
	if got := shown(); len(got) != 1 {
		t.Errorf("after drift was put back: %v", got)
	}
	m.Round(syncer.Round{Names: names})
	if got := shown(); len(got) != 0 {
		t.Errorf("after a round without findings: %v", got)
	}
}
