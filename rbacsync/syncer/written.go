package syncer

import (
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Written is what one pass found in the cluster and wrote there. Nothing in it is changed later.
type Written struct {
	Kind  Kind
	Cause string
	// Scope are the namespaces that Observed is about; nil: all.
	Scope        rbacsync.Scope
	Observed     *rbacsync.Observed // before
	Made         []rbacsync.Change
	Snapshot     *authz.Snapshot
	Before       *authz.Snapshot // the last one that was carried out before; nil: not known
	Policy       authz.Policy
	Was          []authz.Policy // what the cluster may have been written by before; empty: not known, or the same
	Began, Ended time.Time
}

// reportWritten hands what a pass has found and written to OnWritten, for the history.
func (s *pipeline) reportWritten(p *pass) {
	if s.o.OnWritten == nil {
		return
	}
	s.o.OnWritten(Written{
		Kind: p.Kind, Cause: p.Cause, Scope: p.scope, Observed: p.have, Made: p.made, Snapshot: p.Snapshot, Before: p.plannedOn.Before,
		Policy: s.o.Policy, Was: p.plannedOn.Was, Began: p.Started, Ended: s.o.Now(),
	})
}
