package gitlab

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// linkReading reads, for a full reading, which groups are invited into the groups of its draft, and with which levels.
type linkReading struct {
	api    *api
	memory *linkMemory
	d      *draft
}

// maxFailures is how many things of a full reading may fail in a row by being slow or refused before the rest of their kind is left.
const maxFailures = 5

// takeAll gives the groups of the draft their links: all are read where GraphQL does not tell who is invited into what, else what
// linkMemory wants to have read. A group about which GitLab does not answer is missing, unless what is remembered is new enough.
func (l *linkReading) takeAll(ctx context.Context) error {
	ids := slices.Sorted(maps.Keys(l.d.invited))
	if l.d.linksUnknown {
		ids = slices.Sorted(maps.Keys(l.d.groups))
	}
	ids = slices.DeleteFunc(ids, func(id int64) bool { return l.d.unread[authz.GroupID(id)] != "" }) // those are read whole later
	read, usable := ids, map[int64][]authz.Link(nil)
	if !l.d.linksUnknown {
		read, usable = l.memory.plan(l.d, ids)
	}
	for id, ls := range usable {
		if g, ok := l.d.groups[id]; ok {
			g.Links = ls
			l.d.groups[id] = g
		}
	}
	left, err := l.readAll(ctx, read, usable)
	if err == nil && len(left) > 0 { // GitLab may have limited us, and does so no longer
		left, err = l.readAll(ctx, slices.Sorted(maps.Keys(left)), usable)
	}
	for id, why := range left {
		l.d.missing[authz.GroupID(id)] = "reading its links: " + why
	}
	l.memory.used(ids)
	return err
}

// readAll reads the links of groups, some at the same time. It returns about which of them GitLab did not answer, and why, as far
// as nothing usable is remembered.
func (l *linkReading) readAll(ctx context.Context, ids []int64, usable map[int64][]authz.Link) (map[int64]string, error) {
	left := map[int64]string{}
	var mu sync.Mutex
	row, why := 0, ""
	note := func(id int64) {
		if _, ok := usable[id]; !ok {
			left[id] = why
		}
	}
	err := each(ctx, l.api, ids, func(ctx context.Context, id int64) error {
		mu.Lock()
		enough := row >= maxFailures
		if enough {
			note(id)
		}
		mu.Unlock()
		if enough {
			return nil
		}
		err := l.read(briefly(ctx, sourceTimeout), id)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil:
			row = 0
		case unanswered(err):
			row++
			why = err.Error()
			note(id)
			return nil
		}
		return err
	})
	return left, err
}

// read reads the links of one group.
func (l *linkReading) read(ctx context.Context, id int64) error {
	began := l.memory.now()
	rg, err := l.api.group(ctx, id)
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	var ls []authz.Link
	if err == nil {
		ls, err = l.d.linksOf(rg)
	}
	switch {
	case errors.Is(err, ErrNotFound):
		l.d.unread[authz.GroupID(id)] = vanished
		return nil
	case unanswered(err):
		return err
	case err != nil:
		l.d.missing[authz.GroupID(id)] = "reading its links: " + err.Error()
		return err
	}
	g, ok := l.d.groups[id]
	if !ok { // appeared after the list was read
		l.d.unread[authz.GroupID(id)] = "it was not in the list of groups"
		return nil
	}
	g.Links = ls
	l.d.groups[id] = g
	if rg.Links != nil {
		l.memory.put(id, linksOfGroup{began: began, links: ls, invited: slices.Sorted(maps.Keys(l.d.invited[id])), listed: l.d.listed[id]})
	}
	return nil
}
