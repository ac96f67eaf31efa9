package app

import (
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/httpserver"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/metrics"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
)

// newHook takes GitLab's system hooks and puts what they name into the inbox, which the leader follows. A secret that
// can't be read is reported, but is no reason not to start: it may be mounted later. deleted learns of deletions, which is of use
// where the leader itself got the hook; received of what became of each.
func newHook(h config.HooksListener, log *slog.Logger, inbox *store.Inbox, deleted func(...authz.SourceID), m *metrics.Metrics, received func(gitlab.Received)) *gitlab.Hook {
	if err := hookSecrets(h); err != nil {
		log.Error("system hooks are refused until their secret can be read", "error", err)
	}
	secret, signingKey := hookFiles(h)
	m.ExpectHooks(gitlab.HookOutcomes()...)
	return &gitlab.Hook{
		Secret: secret, SigningKey: signingKey,
		Parse: func(body []byte) ([]authz.SourceID, bool, string, error) {
			e, err := gitlab.ParseSystemHook(body)
			if err == nil && e.Deleted {
				deleted(e.Changed...)
			}
			return e.Changed, e.Ignored, e.Name, err
		},
		Trigger: inbox.Put, Now: time.Now, Logger: log, OverLimit: m.HookOverLimit, Outcome: received,
		Unproven: func(next http.Handler) http.Handler {
			return httpserver.QueuedBodies(maxBodies, maxWaiting, turnTime, bodyTime, func() { m.HookOverLimit(gitlab.OverGivenUp) }, next)
		},
	}
}

// hookFiles reads what hooks are checked with; nil for what is not configured.
func hookFiles(h config.HooksListener) (secret, signingKey func() ([]byte, error)) {
	bytesOf := func(path, what string) func() ([]byte, error) {
		if path == "" {
			return nil
		}
		read := secretFile(path, what)
		return func() ([]byte, error) { s, err := read(); return []byte(s), err }
	}
	return bytesOf(h.SecretFile, "listeners.hooks.secretFile"), bytesOf(h.SigningKeyFile, "listeners.hooks.signingKeyFile")
}

// hookSecrets returns why hooks can't be checked now, nil if they can or none are expected.
func hookSecrets(h config.HooksListener) error {
	if h.Address == "" {
		return nil
	}
	var errs []error
	secret, key := hookFiles(h)
	for _, read := range []func() ([]byte, error){secret, key} {
		if read == nil {
			continue
		}
		if _, err := read(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// received takes in what became of a hook.
func (s *server) received(r gitlab.Received) {
	s.metrics.Hook(r.Outcome)
	switch {
	case r.Proven():
		s.watch.Hook(r.Event, r.From)
	case r.Claims: // others are strangers' attempts
		s.watch.Refuse(r.Outcome, r.From)
	}
}

// reviewed takes in a TokenReview.
func (s *server) reviewed(r authn.Review) {
	s.metrics.Review(r)
	if r.Outcome == authn.OutcomeOK {
		s.watch.Login(string(r.Kind))
	}
}
