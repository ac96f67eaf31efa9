package gitlab

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// defaultLinksMaxAge is within which time the links of a group are read again.
const defaultLinksMaxAge = 15 * time.Minute

// linkMemory remembers the groups that are invited into groups, with their levels and last days. Only the answer about a single group
// tells these, and a thousand groups with invitations cost a thousand requests; so a full reading reads only some of them again, in
// turns. GraphQL's lists tell each time which group is invited into which: an invitation that came or went is never remembered. What
// may be old is a level or a last day, by at most maxAge and one reading.
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

// LinksAge returns how long ago the oldest of the links were read that the last full reading used; 0 when there are none.
func (r *Reader) LinksAge() time.Duration {
	r.links.mu.Lock()
	defer r.links.mu.Unlock()
	if r.links.oldest.IsZero() {
		return 0
	}
	return max(0, r.links.now().Sub(r.links.oldest))
}

// RereadLinks reads the links of those groups again whose turn it is, so that a full reading has few to read. Called each ten seconds
// it reads a dozen of a thousand groups. It returns the groups whose links are not as remembered, or which GitLab does not show as
// before: a targeted reading has to look at them. About whom GitLab does not answer the next full reading asks.
func (r *Reader) RereadLinks(ctx context.Context) ([]authz.SourceID, error) {
	began := r.links.now()
	var changed []authz.SourceID
	row := 0
	for id, known := range r.links.due(began) {
		g, err := r.api.group(briefly(ctx, sourceTimeout), id)
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
				r.links.put(id, known)
				continue
			}
		}
		r.links.forget(id, began)
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

// group reads a group for a targeted reading. Whatever comes of it, what was remembered of its links no longer counts.
func (r *Reader) group(ctx context.Context, id int64) (restGroup, error) {
	began := r.links.now()
	r.links.forget(id, began)
	g, err := r.api.group(ctx, id)
	if err == nil && g.Links != nil {
		if ls, err := links(*g.Links); err == nil {
			r.links.put(id, linksOfGroup{began: began, links: ls})
		}
	}
	return g, err
}

// maxFailures is how many things of a full reading may fail in a row by being slow or refused before the rest of their kind is left.
const maxFailures = 5

// unanswered reports whether GitLab did not answer about one thing: it is slow, limits us, or has an error of its own.
func unanswered(err error) bool { return errors.Is(err, ErrSlow) || errors.Is(err, ErrBusy) }

// takeLinks gives the groups of the draft their links: all are read where GraphQL does not tell who is invited into what, else what
// linkMemory wants to have read. A group about which GitLab does not answer is missing, unless what is remembered is new enough.
func (r *Reader) takeLinks(ctx context.Context, d *draft) error {
	ids := slices.Sorted(maps.Keys(d.invited))
	if d.linksUnknown {
		ids = slices.Sorted(maps.Keys(d.groups))
	}
	ids = slices.DeleteFunc(ids, func(id int64) bool { return d.unread[authz.GroupID(id)] != "" }) // those are read whole later
	read, usable := ids, map[int64][]authz.Link(nil)
	if !d.linksUnknown {
		read, usable = r.links.plan(d, ids)
	}
	for id, ls := range usable {
		if g, ok := d.groups[id]; ok {
			g.Links = ls
			d.groups[id] = g
		}
	}
	left, err := r.readAllLinks(ctx, d, read, usable)
	if err == nil && len(left) > 0 { // GitLab may have limited us, and does so no longer
		left, err = r.readAllLinks(ctx, d, slices.Sorted(maps.Keys(left)), usable)
	}
	for id, why := range left {
		d.missing[authz.GroupID(id)] = "reading its links: " + why
	}
	r.links.used(ids)
	return err
}

// readAllLinks reads the links of groups, some at the same time. It returns about which of them GitLab did not answer, and why, as far
// as nothing usable is remembered.
func (r *Reader) readAllLinks(ctx context.Context, d *draft, ids []int64, usable map[int64][]authz.Link) (map[int64]string, error) {
	left := map[int64]string{}
	var mu sync.Mutex
	row, why := 0, ""
	note := func(id int64) {
		if _, ok := usable[id]; !ok {
			left[id] = why
		}
	}
	err := each(ctx, r.api, ids, func(ctx context.Context, id int64) error {
		mu.Lock()
		enough := row >= maxFailures
		if enough {
			note(id)
		}
		mu.Unlock()
		if enough {
			return nil
		}
		err := r.readLinks(briefly(ctx, sourceTimeout), d, id)
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

// readLinks reads the links of one group.
func (r *Reader) readLinks(ctx context.Context, d *draft, id int64) error {
	began := r.links.now()
	rg, err := r.api.group(ctx, id)
	d.mu.Lock()
	defer d.mu.Unlock()
	var ls []authz.Link
	if err == nil {
		ls, err = d.linksOf(rg)
	}
	switch {
	case errors.Is(err, ErrNotFound):
		d.unread[authz.GroupID(id)] = vanished
		return nil
	case unanswered(err):
		return err
	case err != nil:
		d.missing[authz.GroupID(id)] = "reading its links: " + err.Error()
		return err
	}
	g, ok := d.groups[id]
	if !ok { // appeared after the list was read
		d.unread[authz.GroupID(id)] = "it was not in the list of groups"
		return nil
	}
	g.Links = ls
	d.groups[id] = g
	if rg.Links != nil {
		r.links.put(id, linksOfGroup{began: began, links: ls, invited: slices.Sorted(maps.Keys(d.invited[id])), listed: d.listed[id]})
	}
	return nil
}
