package audit

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// change is an Entry that is in no book yet: it is still true when the book was read anew.
type change struct {
	at        time.Time
	namespace string
	owner     int64  // of a namespace that is a person's, or unknownOwner
	user      int64  // GitLab's id
	name      string // of the user
	subject   string // of what is no person
	role      string // of an object its kind and name
	cause     string
	why       string
	by        string
	what      uint8
	found     bool
}

func (c change) object() bool { return c.user == 0 && c.subject == "" }

// note takes a change into the book, and reports whether there was something to note: a right that is there can't be gained, and
// one that is not can't be lost. Times never go back, whatever the clocks of two leaders say.
func (b *book) note(c change, now state) bool {
	held := len(now[b.namespaceNumber(c.namespace)]) > 0
	r := record{at: c.at.UnixMilli(), namespace: b.namespace(c.namespace, c.owner, held), role: b.roles.text(c.role), what: c.what, found: c.found}
	switch {
	case c.user != 0:
		r.who = b.user(c.user)
		if p := b.users[r.who-1]; c.name != "" && p.Name != c.name {
			p.Name = c.name
			b.addUser(p)
		}
	case c.subject != "":
		r.who = b.subject(c.subject)
	}
	if r.who != 0 && now.has(r.namespace, r.role, r.who) == (r.what == gained) {
		return false
	}
	r.cause, r.why, r.by = b.reasons.text(c.cause), b.reasons.text(c.why), b.approver(c.by)
	r.at = max(r.at, b.last)
	if n := len(b.log); n > 0 {
		r.at = max(r.at, b.log[n-1].at)
	}
	b.log = append(b.log, r)
	now.apply(r)
	return true
}

// has reports whether a change is in a log, the oldest first: it may have been stored, though the answer to that write was lost. Its
// time is that of its record.
func (b *book) has(log []record, c change) bool {
	at := c.at.UnixMilli()
	i, _ := slices.BinarySearchFunc(log, at, func(r record, at int64) int { return cmp.Compare(r.at, at) })
	for ; i < len(log) && log[i].at == at; i++ {
		r := log[i]
		who := b.who(r.who)
		if r.what == c.what && b.namespaceName(r.namespace) == c.namespace && b.roles.textOf(r.role) == c.role && who.ID == c.user && (c.user != 0 || who.Name == c.subject) {
			return true
		}
	}
	return false
}

// later returns those changes that a version before has recorded and that are not in a log yet, which has all from the first of them on.
func (b *book) later(log []record, old []change) []change {
	n := len(log)
	if n == 0 {
		return old
	}
	last := log[n-1].at
	return slices.DeleteFunc(slices.Clone(old), func(c change) bool { return c.at.UnixMilli() < last || b.has(log, c) })
}

// changeOf is the other way round: what a record was made of; false where that is not known any more, because it was pseudonymised.
func (b *book) changeOf(r record) (change, bool) {
	c := change{at: time.UnixMilli(r.at), role: b.roles.textOf(r.role), cause: b.reasons.textOf(r.cause), why: b.reasons.textOf(r.why), what: r.what, found: r.found}
	place := b.namespaces[r.namespace-1]
	c.namespace, c.owner = place.Name, place.Owner
	if by := b.approving(r.by); by == 0 {
		c.by = b.reasons.textOf(r.by)
	} else if id := b.users[by-1].ID; id != 0 {
		c.by = kubename.User(id)
	}
	if r.who == 0 {
		return c, place.Name != ""
	}
	who := b.users[r.who-1]
	c.user, c.name, c.subject = who.ID, who.Name, who.Subject
	return c, place.Name != "" && !who.anonymous()
}

// noteEarlier takes in a change of before the history begins, of which nothing before it is known: who lost something had it.
func (b *book) noteEarlier(c change) bool {
	none := state{}
	if had := c; c.what == lost {
		had.what = gained
		n := len(b.log)
		b.note(had, none)
		b.log = b.log[:n]
	}
	return b.note(c, none)
}

// holder is somebody with a ClusterRole in one namespace.
type holder struct {
	user    int64
	subject string
	role    string
}

func (h holder) compare(o holder) int {
	return cmp.Or(cmp.Compare(h.role, o.role), cmp.Compare(h.user, o.user), cmp.Compare(h.subject, o.subject))
}

// in reports whether a binding of a namespace gives it to them.
func (h holder) in(b *rbacsync.Binding, namespace string) bool {
	if b.Role != h.role {
		return false
	}
	if h.user != 0 {
		return slices.Contains(b.Users, h.user)
	}
	return slices.ContainsFunc(b.Others, func(s rbacv1.Subject) bool { return subjectText(s, namespace) == h.subject })
}

// holders returns who has what by the bindings of one namespace, sorted, each once.
func holders(bindings map[string]*rbacsync.Binding, namespace string) (out []holder) {
	for _, b := range bindings {
		for _, u := range b.Users {
			out = append(out, holder{user: u, role: b.Role})
		}
		for _, s := range b.Others {
			out = append(out, holder{subject: subjectText(s, namespace), role: b.Role})
		}
	}
	slices.SortFunc(out, holder.compare)
	return slices.Compact(out)
}

func subjectText(s rbacv1.Subject, namespace string) string {
	name := s.Name
	if s.Namespace != "" && s.Namespace != namespace {
		name = s.Namespace + "/" + name
	}
	return s.Kind + " " + rbacsync.Printable(name)
}

// without returns what is in the first of two sorted lists and not in the second.
func without(a, b []holder) (out []holder) {
	for _, h := range a {
		for len(b) > 0 && b[0].compare(h) < 0 {
			b = b[1:]
		}
		if len(b) == 0 || b[0] != h {
			out = append(out, h)
		}
	}
	return out
}

// recorded returns who has what in a namespace by the book.
func (b *book) recorded(roles map[uint32][]uint32) (out []holder) {
	for role, people := range roles {
		for _, n := range people {
			h := holder{role: b.roles.textOf(role)}
			if p := b.users[n-1]; p.Subject != "" {
				h.subject = p.Subject
			} else {
				h.user = p.ID
			}
			out = append(out, h)
		}
	}
	slices.SortFunc(out, holder.compare)
	return out
}

// agrees reports whether the bindings of a place are known to give exactly what is recorded. Whole passes ask for each namespace,
// and nearly all are as they were: so this makes no lists. Where it says no, lists are compared.
func (b *book) agrees(p *place, recorded map[uint32][]uint32) bool {
	var seen []uint32
	for _, x := range p.ourBindings() {
		if len(x.Users)+len(x.Others) == 0 {
			continue
		}
		role := b.roles.by[x.Role]
		if !b.gives(x, p.name, recorded[role]) {
			return false
		}
		if !slices.Contains(seen, role) {
			seen = append(seen, role)
		}
	}
	return len(seen) == len(recorded)
}

// gives reports whether a binding is known to give its role to these and to nobody else.
func (b *book) gives(x *rbacsync.Binding, namespace string, people []uint32) bool {
	if len(x.Users)+len(x.Others) != len(people) {
		return false
	}
	last := int64(0)
	for _, u := range x.Users {
		if _, ok := slices.BinarySearch(people, b.byID[u]); !ok || u <= last {
			return false
		}
		last = u
	}
	var others []uint32
	for _, s := range x.Others {
		n := b.bySubject[subjectText(s, namespace)]
		if _, ok := slices.BinarySearch(people, n); !ok || slices.Contains(others, n) {
			return false
		}
		others = append(others, n)
	}
	return true
}

// place is what is known of one namespace in a pass. It has nothing of its own that grows with it: a first pass has all of them.
type place struct {
	name    string
	source  authz.SourceID
	ours    bool
	live    []*rbacsync.Live // what was there before the pass
	changes []*rbacsync.Change
}

// ourBindings goes through our RoleBindings that were there before the pass, by name.
func (p *place) ourBindings() iter.Seq2[string, *rbacsync.Binding] {
	return func(yield func(string, *rbacsync.Binding) bool) {
		for _, l := range p.live {
			if ourBinding(l) && !yield(l.Key.Name, l.Binding) {
				return
			}
		}
	}
}

func ourBinding(l *rbacsync.Live) bool {
	return l.Binding != nil && strings.HasPrefix(l.Key.Name, bindingPrefix)
}

// before returns our bindings as they were before the pass.
func (p *place) before() map[string]*rbacsync.Binding { return maps.Collect(p.ourBindings()) }

// bindingPrefix begins the names of all our bindings: what has our mark and another name is not ours.
const bindingPrefix = "gitlab-"

// places sorts what a pass has found and written by namespace.
func places(x Written) map[string]*place {
	all := map[string]*place{}
	in := func(ns string) *place {
		p := all[ns]
		if p == nil {
			p = &place{name: ns}
			all[ns] = p
		}
		return p
	}
	issuer := x.Snapshot.Issuer
	for rest := x.Observed.Live; len(rest) > 0; { // those of a namespace follow each other
		n := 1
		for n < len(rest) && rest[n].Key.Namespace == rest[0].Key.Namespace {
			n++
		}
		here := rest[:n:n]
		rest = rest[n:]
		for _, l := range here {
			switch {
			case l.Namespace != nil:
				p := in(l.Key.Namespace)
				p.ours, p.source, p.live = l.Namespace.Issuer == issuer, l.Namespace.Source, here
			case ourBinding(l):
				in(l.Key.Namespace).live = here
			}
		}
	}
	for i := range x.Made {
		c := &x.Made[i]
		p := in(c.Key.Namespace)
		if c.New != nil && c.New.Namespace != nil {
			p.source = c.New.Namespace.Source
		}
		if p.source == (authz.SourceID{}) {
			p.source = c.Source
		}
		p.ours = true // what is not ours is not written
		p.changes = append(p.changes, c)
	}
	for ns := range x.Scope {
		in(ns)
	}
	return all
}

// after returns the bindings as they are after the changes.
func (p *place) after() map[string]*rbacsync.Binding {
	out := p.before()
	for _, c := range p.changes {
		switch {
		case c.Key.Kind == rbacsync.KindNamespace && c.Action == rbacsync.Delete:
			clear(out)
		case c.Key.Kind != rbacsync.KindRoleBinding:
		case c.New == nil:
			delete(out, c.Key.Name)
		default:
			out[c.Key.Name] = c.New.Binding
		}
	}
	return out
}

// by returns the change of a binding that gave somebody a role or took it, and that of the namespace; without the first, it is the
// second.
func (p *place) by(h holder) (made, namespace rbacsync.Change) {
	found := false
	for _, c := range p.changes {
		switch {
		case c.Key.Kind == rbacsync.KindNamespace:
			namespace = *c
		case c.Key.Kind == rbacsync.KindRoleBinding && !found:
			had := c.Old != nil && h.in(c.Old.Binding, p.name)
			if found = had != (c.New != nil && h.in(c.New.Binding, p.name)); found {
				made = *c
			}
		}
	}
	if !found {
		made = namespace
	}
	return made, namespace
}

// owner returns whose namespace it is, if it is a person's.
func owner(s *authz.Snapshot, id authz.SourceID) int64 {
	switch id.Kind {
	case authz.UserSource:
		return id.ID
	case authz.ProjectSource:
		return s.Projects[id.ID].Owner
	case authz.GroupSource:
	}
	return 0
}

// owner returns whose the namespace of a place is, as GitLab said last; what is not in GitLab any more stays whose it was.
func (b *book) owner(p *place, now, before *authz.Snapshot) int64 {
	for _, s := range []*authz.Snapshot{now, before} {
		if p.source.Kind == authz.UserSource || s != nil && s.Contains(p.source) {
			return owner(s, p.source)
		}
	}
	if n := b.namespaceNumber(p.name); n != 0 {
		return b.namespaces[n-1].Owner
	}
	return unknownOwner
}

// differ finds what of one pass is to be noted.
type differ struct {
	x     Written
	why   reasons
	owner func(*place) int64
}

// changes returns what is to be noted of one namespace, of which was is recorded: first what was found to be otherwise, then what
// was gained, and what was lost.
func (d *differ) changes(p *place, was []holder) (out []change) {
	x, own := d.x, d.owner(p)
	base := change{namespace: p.name, owner: own, cause: x.Cause}
	of := func(h holder, what uint8) change {
		c := base
		c.user, c.subject, c.role, c.what = h.user, h.subject, h.role, what
		c.name = rbacsync.Printable(x.Snapshot.Users[h.user].Username)
		return c
	}
	before, now := holders(p.before(), p.name), holders(p.after(), p.name)
	found := func(list []holder, what uint8, why string) {
		for _, h := range list {
			c := of(h, what)
			c.at, c.found, c.why = x.Began, true, why
			out = append(out, c)
		}
	}
	found(without(before, was), gained, foundThere)
	found(without(was, before), lost, foundGone)
	for _, h := range without(now, before) {
		c := of(h, gained)
		made, namespace := p.by(h)
		c.at, c.by, c.why = x.Began, namespace.ApprovedBy, d.why.gained(p, h, made) // no right is held, but a new namespace may be
		out = append(out, c)
	}
	for _, h := range without(before, now) {
		c := of(h, lost)
		made, _ := p.by(h)
		c.at, c.by, c.why = x.Ended, made.ApprovedFor[h.user], d.why.lost(p, h, made)
		out = append(out, c)
	}
	return append(out, d.objects(p, base)...)
}

// objects returns what was written beside bindings.
func (d *differ) objects(p *place, base change) (out []change) {
	for _, m := range p.changes {
		if m.Key.Kind == rbacsync.KindRoleBinding {
			continue
		}
		c := base
		c.at, c.role, c.by, c.why = d.x.Ended, m.Key.Kind.String(), m.ApprovedBy, d.why.plain(p, *m)
		switch {
		case m.Key.Kind == rbacsync.KindTemplate:
			c.role = m.Key.Name
		case m.Key.Kind != rbacsync.KindNamespace:
			c.role += "/" + m.Key.Name
		}
		c.what = map[rbacsync.Action]uint8{rbacsync.Create: created, rbacsync.Delete: deleted}[m.Action]
		if m.Action == rbacsync.Update || m.Action == rbacsync.Replace {
			c.what = changed
		}
		out = append(out, c)
	}
	return out
}
