package syncer

import (
	"context"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Ticket is one entry of an Inbox: something to read again, until a round has dealt with it.
type Ticket struct {
	Key, Value string           // of the Inbox; the same Key with another Value is another ticket
	Changed    []authz.SourceID // none: everything
	Cause      string
	At         time.Time // when it came in; zero when that is not known

	instead []authz.SourceID // Changed, when everything is read instead
}

// Inbox keeps what hooks named, also when this process ends.
type Inbox interface {
	// Follow hands over every entry, those that are there first, until ctx is done.
	Follow(ctx context.Context, take func([]Ticket))
	// Remove takes entries out, unless they were put in again since.
	Remove(ctx context.Context, done []Ticket) error
}

// Stored is what is kept beyond the life of a process: the last Snapshot and the names of the namespaces, and what the
// next plan is judged by (see Evidence).
type Stored struct {
	Snapshot *authz.Snapshot
	Names    map[authz.SourceID]string
	Jobs     map[int64]string // as in State
	// Before is the last Snapshot that the whole cluster agreed with, often Snapshot itself; nil: not known. Of it only the
	// issuer, the users, the groups and the projects are stored.
	Before *authz.Snapshot
	// Policy is what the last policy was made of that the whole cluster agreed with; nil: not known.
	Policy *authz.PolicyConfig
	Past   []rbacsync.Past
	// Marks says by what the namespaces in Names are known.
	Marks map[string]rbacsync.Mark
	// Gaps is what the cluster lacks of what GitLab gives (authz.View.Gaps); nil: not known.
	Gaps map[authz.SourceID]authz.Gap
}

// Memory keeps what one process has to know of those before it, for other replicas and for the next start.
type Memory interface {
	Save(ctx context.Context, s Stored) error
	// Load returns what is stored and its version; nil when nothing is, or nothing but the version in have.
	Load(ctx context.Context, have string) (*Stored, string, error)
}

// HeldStore keeps what is held back, and knows what of it was approved.
type HeldStore interface {
	// Save keeps what is held, for people to look at and approve.
	Save(ctx context.Context, items []rbacsync.Item) error
	// Approvals returns what was approved, by Item.Key.
	Approvals(ctx context.Context) (map[string]bool, error)
	// Forget drops approvals that are of no use any more.
	Forget(ctx context.Context, keys []string) error
}
