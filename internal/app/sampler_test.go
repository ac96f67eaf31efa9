package app

import (
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// TestSamplesCanBeSwitchedOff: then there is no sampler, and nothing is asked.
func TestSamplesCanBeSwitchedOff(t *testing.T) {
	s, err := newSampler(&config.Config{GitLab: config.GitLab{SampleSize: -1}}, nil, nil, nil)
	if s != nil || err != nil {
		t.Errorf("switched off: %v, %v", s, err)
	}
	if s.Offer(syncer.Round{Kind: syncer.KindFull, Snapshot: &authz.Snapshot{}}); len(s.Last()) > 0 {
		t.Errorf("findings: %v", s.Last())
	}
}
