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
	entries []entry    // by user, kind and name
	of      map[int64]span
}

// entry is a right in a namespace. kind is the role's place in Policy.ClusterRoles; of a right that is not in the cluster, with
// the number of roles added as often as the place of the reason says, from 1.
type entry struct{ kind, source int32 }

func newEntry(kind, source int) entry {
	return entry{int32(kind), int32(source)} //nolint:gosec // there are far fewer namespaces
}

func (e entry) compare(o entry) int {
	return cmp.Or(cmp.Compare(e.kind, o.kind), cmp.Compare(e.source, o.source))
}

// kind returns the kind of a right.
func (v View) kind(g Gap, role string, user int64) int {
	why := g.of(role, user)
	if why == "" {
		return v.rank[role]
	}
	reason := slices.Index(absences, why)
	if reason < 0 { // a newer version stored it
		reason = slices.Index(absences, AbsentUnknown)
	}
	return v.rank[role] + len(v.rank)*(1+reason)
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

// Prepare makes the index that questions about one person need, unless there is one for the day: else the first of them waits for it.
func (v View) Prepare(now time.Time) { v.own.at(v, now) }

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
	r := NewResolver(v.Snapshot, now)
	for i, id := range t.sources {
		v.each(r, id, func(kind int, user int64) { rights = append(rights, right{user, newEntry(kind, i)}) })
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
func (v View) each(r *Resolver, id SourceID, give func(kind int, user int64)) {
	src, ok := v.Policy.Source(v.Snapshot, id)
	if !ok {
		return
	}
	gap := v.gaps[id]
	v.Policy.each(r, src, func(role string, a standing) { give(v.kind(gap, role, a.user), a.user) }, func(standing) {})
}

// rights are what a person has, and what they should have by GitLab and have not.
type rights struct {
	first []possession // by role (strongest first) and name
	all   int          // how many there are
	lacks []lacking    // in the order of absences
}

// lacking counts rights that are not in the cluster.
type lacking struct {
	why Absence
	n   int
}

// possessions returns a person's rights, of those in the cluster the first most.
func (v View) possessions(user int64, now time.Time, most int) rights {
	t := v.own.at(v, now)
	s := t.of[user]
	counts := make([]int, len(v.rank)*(1+len(absences)))
	var first []possession
	for rest := t.entries[s.from:s.to]; len(rest) > 0; {
		kind := rest[0].kind
		end, _ := slices.BinarySearchFunc(rest, newEntry(int(kind)+1, 0), entry.compare)
		same := rest[:end]
		rest = rest[end:]
		counts[kind] += len(same) - t.count(same, v)
		for _, e := range same {
			if len(first) == most || !v.has(int(kind)) {
				break
			}
			if id := t.sources[e.source]; !v.changed[id] {
				first = append(first, possession{int(kind), v.Namespace[id]})
			}
		}
	}
	if len(v.changed) > 0 {
		r := resolverOf(user, v.Snapshot, now)
		for id := range v.changed {
			ns, ok := v.Namespace[id]
			if !ok {
				continue
			}
			seen := map[int]bool{}
			v.each(r, id, func(kind int, _ int64) {
				if seen[kind] {
					return
				}
				seen[kind] = true
				counts[kind]++
				if v.has(kind) {
					first = append(first, possession{kind, ns})
				}
			})
		}
		slices.SortFunc(first, func(a, b possession) int { return cmp.Or(cmp.Compare(a.role, b.role), cmp.Compare(a.ns, b.ns)) })
	}
	return v.sum(first[:min(len(first), most)], counts)
}

// has reports whether rights of a kind are in the cluster.
func (v View) has(kind int) bool {
	return kind < len(v.rank) && (len(v.gone) == 0 || !v.gone[v.Policy.ClusterRoles()[kind]])
}

// sum adds up the rights of each kind.
func (v View) sum(first []possession, counts []int) rights {
	out := rights{first: first}
	by := map[Absence]int{}
	for kind, n := range counts {
		switch {
		case n == 0:
		case v.has(kind):
			out.all += n
		case kind < len(v.rank):
			by[AbsentNoRole] += n
		default:
			by[absences[kind/len(v.rank)-1]] += n
		}
	}
	for _, why := range absences {
		if by[why] > 0 {
			out.lacks = append(out.lacks, lacking{why, by[why]})
		}
	}
	return out
}

// count returns how many of one person's entries of one kind are about changed sources, without looking at all of them.
func (t *table) count(entries []entry, v View) (n int) {
	for id := range v.changed {
		at, found := t.find(v, id)
		if !found {
			continue
		}
		if _, has := slices.BinarySearchFunc(entries, newEntry(int(entries[0].kind), at), entry.compare); has {
			n++
		}
	}
	return n
}

// find returns the place of a source in the index; false if it has no namespace.
func (t *table) find(v View, id SourceID) (at int, found bool) {
	return slices.BinarySearchFunc(t.sources, v.Namespace[id], func(s SourceID, ns string) int { return cmp.Compare(v.Namespace[s], ns) })
}
