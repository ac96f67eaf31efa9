package gitlabsim

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabversion"
)

// instance is what all parts of a simulated GitLab share: its model, its clock, its address, and what its administrator
// has configured.
type instance struct {
	opts    Options
	release gitlabversion.Version
	now     func() time.Time
	log     *slog.Logger
	world   *World
	url     string // set before the first request

	mu       sync.Mutex
	features features
}

func newInstance(opts Options) (*instance, error) {
	release, ok := gitlabversion.Parse(opts.Version)
	if !ok {
		return nil, fmt.Errorf("reading the GitLab version %q: want one like 19.1.0-ee", opts.Version)
	}
	i := &instance{opts: opts, release: release, now: opts.Now, log: opts.Logger, world: opts.World}
	i.features = features{certificate: opts.CertificateClusters, local: opts.LocalRequests, plan: opts.License, kas: opts.KAS}
	if i.world == nil {
		i.world = NewWorld(opts.Now)
	}
	return i, nil
}

// features are what an administrator of the simulated GitLab can change while it runs; instance.mu guards them.
type features struct {
	certificate, local, expired bool
	plan                        string
	kas                         KAS
}

// Has reports whether a GitLab of this version has the feature.
func (s *instance) Has(f gitlabversion.Feature) bool { return s.release.Has(f) }

// URL is the base URL and the issuer, without a slash at the end.
func (s *instance) URL() string { return s.url }

// World is the model behind the server.
func (s *instance) World() *World { return s.world }

// SetCertificateClusters turns the feature flag certificate_based_clusters on or off.
func (s *instance) SetCertificateClusters(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.features.certificate = on
}

// SetLicense replaces the licence: premium, ultimate, an older plan, or "" for none.
func (s *instance) SetLicense(plan string, expired bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.features.plan, s.features.expired = plan, expired
}

// SetKAS connects the agents to another API server.
func (s *instance) SetKAS(k KAS) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.features.kas = k
}

func (s *instance) feature() features {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.features
}

func (s *instance) premium() bool {
	f := s.feature()
	return strings.HasSuffix(s.opts.Version, "-ee") && !f.expired && (f.plan == "premium" || f.plan == "ultimate")
}

// activeUser is User.active.find_by(id:): nil for everybody who may not log in. Bots and internal users can't
// either.
func (s *instance) activeUser(id int64) *User {
	var found *User
	s.world.View(func(v *View) {
		if u := v.User(id); u != nil && u.State == StateActive && u.Type == "HUMAN" {
			copied := *u
			found = &copied
		}
	})
	return found
}
