package accounts

import (
	"errors"
	"sync/atomic"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// Options are what a Directory has beside a Knowledge. The zero value is good.
type Options struct {
	// Recent, optional, notes who was asked about.
	Recent *Recent
	// Published, optional, returns the last published Snapshot. It is asked at each review, because a round publishes what it
	// read before it writes to the cluster, which may take long.
	Published func() *authz.Snapshot
	// StillServed, optional, reports whether the jobs of a project with another delivery have rights by their ID tokens all
	// the same, because they may have begun before the delivery was changed (docs/adr/0054).
	StillServed func(project int64) bool
}

// Directory answers what authentication asks about users and projects. Its methods may be called at the same time.
type Directory struct {
	k    *Knowledge
	o    Options
	seen atomic.Pointer[authz.Snapshot] // what Published returned last
}

// New returns the Directory of a Knowledge, which may learn more later.
func New(k *Knowledge, o Options) *Directory { return &Directory{k: k, o: o} }

// latest returns what is known now, nil before the first Snapshot.
func (d *Directory) latest() *facts {
	if d.o.Published != nil {
		if s := d.o.Published(); s != nil && d.seen.Swap(s) != s {
			d.k.Learn(s)
		}
	}
	return d.k.latest.Load()
}

// Conditional reports whether users have to meet a condition, so that Admitted has to be asked.
func (d *Directory) Conditional() bool { return d.k.rules.Conditional() }

// UserState is authn.Config.UserState. Before the first Snapshot nobody is known, and the token alone decides.
func (d *Directory) UserState(id int64) (state string, known bool) {
	if d.o.Recent != nil {
		d.o.Recent.Note(id)
	}
	k := d.latest()
	if k == nil {
		return "", false
	}
	return k.userState(id)
}

// Admitted is authn.Config.Admitted.
func (d *Directory) Admitted(id int64) (admitted, known bool) {
	k := d.latest()
	if k == nil {
		return false, false
	}
	return k.admitted[id], k.admitted[id] || k.complete
}

// Project is authn.Config.CIProject.
func (d *Directory) Project(id int64) authn.ProjectStanding {
	k := d.latest()
	if k == nil {
		return authn.ProjectUnread
	}
	if standing, there := k.projects[id]; there {
		if standing == authn.ProjectOtherDelivery && d.o.StillServed != nil && d.o.StillServed(id) {
			return authn.ProjectServed
		}
		return standing
	}
	if _, there := k.snapshot.Projects[id]; there || !k.complete || unreadProject(k.snapshot, id) {
		return authn.ProjectUnread
	}
	return authn.ProjectNotServed
}

// Ready returns nil if users can be judged, else why they can't.
func (d *Directory) Ready() error {
	if k := d.latest(); d.Conditional() && (k == nil || !k.complete) {
		return errors.New("GitLab has not been read yet, and authn.require lets nobody in before")
	}
	return nil
}
