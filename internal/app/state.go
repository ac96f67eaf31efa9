package app

import (
	"log/slog"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
)

// state is what the program keeps in its own namespace.
type state struct {
	elector   *store.Elector
	inbox     *store.Inbox
	snapshots store.Snapshots
}

func newState(c *clients, log *slog.Logger) *state {
	return &state{
		elector:   &store.Elector{Client: c.kube, Namespace: deploy.Namespace, Identity: store.NewIdentity(), Logger: log},
		inbox:     &store.Inbox{Client: c.kube, Watch: c.watch, Namespace: deploy.Namespace, Logger: log, Now: time.Now},
		snapshots: store.Snapshots{Blob: store.Blob{Client: c.kube, Namespace: deploy.Namespace, Name: store.NameSnapshot}},
	}
}
