package gitlab

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// defaultLinksMaxAge is within which time the links of a group are read again.
const defaultLinksMaxAge = 15 * time.Minute

// linkMemory remembers the groups that are invited into groups, with their levels and end dates. Only the answer about a single group
// tells these, and a thousand groups with invitations cost a thousand requests; so a full reading reads only some of them again, in
// turns. GraphQL's lists tell each time which group is invited into which: an invitation that came or went is never remembered. What
// may be old is a level or an end date, by at most maxAge and one reading.
type linkMemory struct {
	maxAge time.Duration
	now    func() time.Time

	mu     sync.Mutex
	groups map[int64]linksOfGroup
	turned time.Time // when the last turn began
	oldest time.Time // when the oldest links that the last full reading used were read
}

// linksOfGroup are the links of one group as they were read.
type linksOfGroup struct {
	unknown bool // a targeted reading found that they must be read again, and could not
	began   time.Time
	tried   time.Time
	links   []authz.Link
	invited []int64 // whom GraphQL called invited then, sorted; nil: it was not asked
	listed  listedGroup
}

// listedGroup is what lists show of a group. The zero value is not known.
type listedGroup struct {
	path                   string
	parent                 int64
	archived, marked, lock bool
	updated                string
}

func newLinkMemory(maxAge time.Duration, now func() time.Time) *linkMemory {
	if maxAge == 0 {
		maxAge = defaultLinksMaxAge
	}
	return &linkMemory{maxAge: maxAge, now: now, groups: map[int64]linksOfGroup{}}
}

// forget says that the links of a group are being read because something pointed to it.
func (m *linkMemory) forget(id int64, began time.Time) {
	m.put(id, linksOfGroup{unknown: true, began: began})
}

// put remembers links, unless a reading that began later has said something.
func (m *linkMemory) put(id int64, l linksOfGroup) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old, ok := m.groups[id]; ok && old.began.After(l.began) {
		return
	}
	l.tried = l.began
	m.groups[id] = l
}

// plan takes what is remembered about the given groups and returns which of them have to be read, and what may be used of the others
// and of those whose turn it merely is.
func (m *linkMemory) plan(d *draft, ids []int64) (read []int64, usable map[int64][]authz.Link) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	wanted := map[int64]bool{}
	usable = map[int64][]authz.Link{}
	for _, id := range ids {
		wanted[id] = true
		l, ok := m.groups[id]
		if !ok || !l.fits(slices.Sorted(maps.Keys(d.invited[id])), d.listed[id]) {
			read = append(read, id)
			continue
		}
		l.invited, l.listed = slices.Sorted(maps.Keys(d.invited[id])), d.listed[id]
		m.groups[id] = l
		usable[id] = l.links
	}
	maps.DeleteFunc(m.groups, func(id int64, _ linksOfGroup) bool { return !wanted[id] })
	read = append(read, m.turn(slices.Collect(maps.Keys(usable)), now)...)
	for id := range usable {
		if now.Sub(m.groups[id].began) > m.maxAge { // too old to stand for an answer that does not come
			delete(usable, id)
		}
	}
	slices.Sort(read)
	return read, usable
}

// fits reports whether what lists show now is what they showed when the links were read.
func (l linksOfGroup) fits(invited []int64, listed listedGroup) bool {
	then := l.invited
	if then == nil {
		for _, k := range l.links {
			then = append(then, k.Group)
		}
		slices.Sort(then)
	}
	return !l.unknown && slices.Equal(then, invited) && (l.listed == listed || l.listed == listedGroup{})
}

// turn returns whose turn it is: as many as keep all within maxAge when turns come as often as lately, the oldest first, and all that
// would be too old at the next turn.
func (m *linkMemory) turn(ids []int64, now time.Time) []int64 {
	elapsed := now.Sub(m.turned)
	m.turned = now
	quota := int(math.Ceil(min(1, elapsed.Seconds()/m.maxAge.Seconds()) * float64(len(ids))))
	slices.SortFunc(ids, func(a, b int64) int {
		return cmp.Or(m.groups[a].tried.Compare(m.groups[b].tried), cmp.Compare(a, b))
	})
	var out []int64
	for i, id := range ids {
		if i < quota || now.Sub(m.groups[id].began)+elapsed/2 > m.maxAge {
			l := m.groups[id]
			l.tried = now
			m.groups[id] = l
			out = append(out, id)
		}
	}
	return out
}

// used notes the age of what a full reading used.
func (m *linkMemory) used(ids []int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.oldest = time.Time{}
	for _, id := range ids {
		if l, ok := m.groups[id]; ok && !l.unknown && (m.oldest.IsZero() || l.began.Before(m.oldest)) {
			m.oldest = l.began
		}
	}
}

// age returns how old the oldest links are that the last full reading used; 0 when there are none.
func (m *linkMemory) age() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.oldest.IsZero() {
		return 0
	}
	return max(0, m.now().Sub(m.oldest))
}

// LinksAge returns how long ago the oldest of the links were read that the last full reading used; 0 when there are none.
func (r *Reader) LinksAge() time.Duration { return r.links.age() }

// RereadLinks reads the links of those groups again whose turn it is, so that a full reading has few to read. Called each ten seconds
// it reads a dozen of a thousand groups. It returns the groups whose links are not as remembered, or which GitLab does not show as
// before: a targeted reading has to look at them. About whom GitLab does not answer the next full reading asks.
func (r *Reader) RereadLinks(ctx context.Context) ([]authz.SourceID, error) {
	return r.links.reread(ctx, r.api)
}

// reread is RereadLinks.
func (m *linkMemory) reread(ctx context.Context, a *api) ([]authz.SourceID, error) {
	began := m.now()
	var changed []authz.SourceID
	row := 0
	for id, known := range m.due(began) {
		g, err := a.group(briefly(ctx, sourceTimeout), id)
		switch {
		case ctx.Err() != nil:
			return changed, ctx.Err()
		case err != nil && global(err):
			return changed, err
		case unanswered(err):
			if row++; row >= maxFailures {
				return changed, err
			}
			continue
		}
		row = 0
		if err == nil && g.Links != nil {
			if ls, err := links(*g.Links); err == nil && slices.Equal(ls, known.links) {
				known.began = began
				m.put(id, known)
				continue
			}
		}
		m.forget(id, began)
		changed = append(changed, authz.GroupID(id))
	}
	return changed, nil
}

// due returns the groups whose turn it is, with what is remembered of them.
func (m *linkMemory) due(now time.Time) map[int64]linksOfGroup {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ids []int64
	for id, l := range m.groups {
		if !l.unknown {
			ids = append(ids, id)
		}
	}
	out := map[int64]linksOfGroup{}
	for _, id := range m.turn(ids, now) {
		out[id] = m.groups[id]
	}
	return out
}

// read reads a group for a targeted reading. Whatever comes of it, what was remembered of its links no longer counts.
func (m *linkMemory) read(ctx context.Context, a *api, id int64) (restGroup, error) {
	began := m.now()
	m.forget(id, began)
	g, err := a.group(ctx, id)
	if err == nil && g.Links != nil {
		if ls, err := links(*g.Links); err == nil {
			m.put(id, linksOfGroup{began: began, links: ls})
		}
	}
	return g, err
}
