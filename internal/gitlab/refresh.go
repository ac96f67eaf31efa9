package gitlab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// Refresh reads only what changed and returns a Snapshot as a full reading would give, made from base, which stays
// as it is. It also reads what the changes lead to: below a deleted, archived or restored group everything, and
// groups and people nobody knew before. What GitLab says does not exist is gone; what could not be read is in
// Missing. Taken stays that of base, because most of the Snapshot is that old.
//
// One thing that GitLab does not answer about delays no other: things are read side by side, people first, each within
// sourceTimeout, and what was not reached within refreshTimeout is in Missing, too. The error is for when nothing at
// all could be read: then the changes are still to be done.
func (r *Reader) Refresh(ctx context.Context, base *authz.Snapshot, changed []authz.SourceID) (*authz.Snapshot, error) {
	u := &update{
		s: copySnapshot(base), absences: &r.absences, now: r.api.now, done: map[authz.SourceID]bool{}, read: map[authz.SourceID]bool{},
		below: map[authz.SourceID]bool{}, fromRow: map[int64]bool{},
	}
	f := &fetcher{
		api: r.api, graphQL: r.graphQL, links: r.links, absences: &r.absences, have: u, until: time.Now().Add(refreshTimeout),
		adminTurn: make(chan struct{}, 1),
	}
	for _, id := range changed {
		u.want(id)
	}
	for len(u.queue) > 0 {
		wave := u.queue
		u.queue = nil
		slices.SortFunc(wave, usersFirst)
		answers := f.fetch(ctx, wave)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("reading changes from GitLab: %w", ctx.Err())
		}
		if len(u.read) == 0 {
			if err := nothing(answers); err != nil {
				return nil, err
			}
		}
		u.takeAll(wave, answers)
	}
	if !r.includeUsers {
		dropUnnamed(u.s)
	}
	for id := range u.fromRow { // it is not known to be a human or none: the next reading has to ask
		delete(u.s.Users, id)
	}
	markIncomplete(u.s)
	inheritFlags(u.s)
	vctx, cancel := urgently(ctx, variablesTimeout)
	defer cancel()
	r.graphQL.readVariables(vctx, u.s, u.projectsRead())
	return u.s, nil
}

const (
	// refreshTimeout is when a targeted reading starts nothing more: a group that is no longer archived may lead to thousands of others.
	refreshTimeout = 2 * sourceTimeout
	// refreshConcurrency is how many things a targeted reading reads side by side.
	refreshConcurrency = 10
	// variablesTimeout is how long it waits for variables: without them nobody's rights are other.
	variablesTimeout = time.Second
)

// errNotReached is why something is missing that a targeted reading had no time for.
var errNotReached = errors.New("not read yet: the reading of what changed took too long to come to it")

// copySnapshot copies the maps. Rows and links are shared with base and replaced as a whole, never changed.
func copySnapshot(base *authz.Snapshot) *authz.Snapshot {
	s := *base
	s.Users, s.Groups, s.Projects, s.Missing = maps.Clone(base.Users), maps.Clone(base.Groups), maps.Clone(base.Projects), maps.Clone(base.Missing)
	if s.Users == nil {
		s.Users = map[int64]authz.User{}
	}
	if s.Groups == nil {
		s.Groups = map[int64]authz.Group{}
	}
	if s.Projects == nil {
		s.Projects = map[int64]authz.Project{}
	}
	if s.Missing == nil {
		s.Missing = map[authz.SourceID]string{}
	}
	return &s
}

// dropUnnamed removes people whom no row and no personal project names.
func dropUnnamed(s *authz.Snapshot) {
	named := map[int64]bool{}
	for _, g := range s.Groups {
		for _, m := range g.Members {
			named[m.User] = true
		}
	}
	for _, p := range s.Projects {
		named[p.Owner] = true
		for _, m := range p.Members {
			named[m.User] = true
		}
	}
	maps.DeleteFunc(s.Users, func(id int64, _ authz.User) bool { return !named[id] })
}

func firstTime(a, b time.Time) time.Time {
	if a.IsZero() {
		return b
	}
	return a
}
