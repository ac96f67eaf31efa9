package authz

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// possessions finds a person's namespaces without looking at all of them. The index is made when it is first asked for,
// so that rounds, and the rights they give and take, never wait for it (docs/adr/0081).
type possessions struct {
	mu    sync.Mutex
	table *table
}

// maxChanged is how many sources may have changed since the index was made: they are looked at one by one.
const maxChanged = 16

// table says in which namespaces people have which ClusterRole, on one day: memberships end at the start of a day (UTC).
type table struct {
	day     time.Time
	sources []SourceID // by the names of their namespaces
	entries []entry    // by user, role and name
	of      map[int64]span
}

type entry struct{ role, source int32 }

func newEntry(role, source int) entry {
	return entry{int32(role), int32(source)} //nolint:gosec // there are far fewer namespaces
}

func (e entry) compare(o entry) int {
	return cmp.Or(cmp.Compare(e.role, o.role), cmp.Compare(e.source, o.source))
}

type span struct{ from, to int32 }

// possession is a ClusterRole in a namespace.
type possession struct {
	role int // its place in Policy.ClusterRoles
	ns   string
}

func dayOf(now time.Time) time.Time { return now.UTC().Truncate(24 * time.Hour) }

// made reports whether there is an index already.
func (p *possessions) made() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.table != nil
}

// at returns the index for a moment, and makes it from the View if there is none for that day.
func (p *possessions) at(v View, now time.Time) *table {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.table == nil || !p.table.day.Equal(dayOf(now)) {
		p.table = newTable(v, now)
	}
	return p.table
}

func newTable(v View, now time.Time) *table {
	t := &table{day: dayOf(now), sources: make([]SourceID, 0, len(v.Namespace)), of: map[int64]span{}}
	for id := range v.Namespace {
		t.sources = append(t.sources, id)
	}
	slices.SortFunc(t.sources, func(a, b SourceID) int { return cmp.Compare(v.Namespace[a], v.Namespace[b]) })
	type right struct {
		user int64
		entry
	}
	var rights []right
	r := newResolver(v.Snapshot, now)
	for i, id := range t.sources {
		v.each(r, id, func(role int, user int64) { rights = append(rights, right{user, newEntry(role, i)}) })
	}
	slices.SortFunc(rights, func(a, b right) int {
		return cmp.Or(cmp.Compare(a.user, b.user), a.compare(b.entry))
	})
	rights = slices.Compact(rights) // two mappings may give one right
	t.entries = make([]entry, len(rights))
	for i, x := range rights {
		t.entries[i] = x.entry
		s, ok := t.of[x.user]
		if !ok {
			s.from = int32(i)
		}
		t.of[x.user] = span{s.from, int32(i) + 1}
	}
	return t
}

// each calls give for each right in a source. Who is no person that may have rights is in it, too.
func (v View) each(r *resolver, id SourceID, give func(role int, user int64)) {
	src, ok := v.Policy.Source(v.Snapshot, id)
	if !ok {
		return
	}
	v.Policy.each(r, src, func(role string, a standing) { give(v.rank[role], a.user) }, func(standing) {})
}

// possessions returns the first most rights of a person, by role (strongest first) and name, and how many there are.
func (v View) possessions(user int64, now time.Time, most int) (first []possession, all int) {
	t := v.own.at(v, now)
	s := t.of[user]
	entries := t.entries[s.from:s.to]
	all = len(entries) - t.count(entries, v)
	for _, e := range entries {
		if len(first) == most {
			break
		}
		if id := t.sources[e.source]; !v.changed[id] {
			first = append(first, possession{int(e.role), v.Namespace[id]})
		}
	}
	if len(v.changed) == 0 {
		return first, all
	}
	r := newResolver(v.Snapshot, now)
	r.only = user
	for id := range v.changed {
		ns, ok := v.Namespace[id]
		if !ok {
			continue
		}
		before := len(first)
		v.each(r, id, func(role int, _ int64) {
			if p := (possession{role, ns}); !slices.Contains(first[before:], p) {
				first = append(first, p)
				all++
			}
		})
	}
	slices.SortFunc(first, func(a, b possession) int { return cmp.Or(cmp.Compare(a.role, b.role), cmp.Compare(a.ns, b.ns)) })
	return first[:min(len(first), most)], all
}

// count returns how many of one person's entries are about changed sources, without looking at all of them.
func (t *table) count(entries []entry, v View) (n int) {
	for id := range v.changed {
		at, found := slices.BinarySearchFunc(t.sources, v.Namespace[id], func(s SourceID, ns string) int { return cmp.Compare(v.Namespace[s], ns) })
		for role := range len(v.rank) {
			if !found {
				break
			}
			if _, has := slices.BinarySearchFunc(entries, newEntry(role, at), entry.compare); has {
				n++
			}
		}
	}
	return n
}
