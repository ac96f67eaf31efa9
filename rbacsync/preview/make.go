package preview

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// New makes a Document. It depends on its input alone.
func New(in Input) Document {
	m := &maker{in: in, why: newReasons(in), before: objects{}, after: objects{}, namespaces: map[string]*Namespace{}}
	for _, l := range in.Observed.Live {
		m.before.put(&l.Object)
		m.after.put(&l.Object)
	}
	for _, c := range in.Plan {
		m.write(c)
	}
	d := Document{APIVersion: APIVersion, Kind: Kind, GitLab: in.Snapshot.Issuer, Made: in.Now.UTC(), Namespaces: []Namespace{}, Findings: []Finding{}}
	for name, ns := range m.namespaces {
		m.rights(name, ns)
	}
	m.held()
	for _, x := range in.Deliveries {
		ns := m.namespace(x.Namespace)
		ns.Deliveries = append(ns.Deliveries, x)
	}
	for _, name := range slices.Sorted(maps.Keys(m.namespaces)) {
		ns := m.namespaces[name]
		if m.describe(ns); ns.Action != Change || len(ns.People)+len(ns.Jobs)+len(ns.Deliveries)+len(ns.Held)+len(ns.Writes) > 0 {
			d.Namespaces = append(d.Namespaces, *ns)
		}
	}
	for _, f := range in.Findings {
		var x Finding
		x.Code, x.Text = f.Code, f.Text
		if f.Source != (authz.SourceID{}) {
			x.Source = f.Source.String()
		}
		d.Findings = append(d.Findings, x)
	}
	d.Summary = m.summary(d.Namespaces)
	return d
}

// objects are those of each namespace.
type objects map[string]map[rbacsync.Key]*rbacsync.Object

func (o objects) put(x *rbacsync.Object) {
	if o[x.Key.Namespace] == nil {
		o[x.Key.Namespace] = map[rbacsync.Key]*rbacsync.Object{}
	}
	o[x.Key.Namespace][x.Key] = x
}

// given is who has which ClusterRole in a namespace.
type given struct {
	people map[int64]map[string]bool
	others map[JobRight]bool // with Subject and Role alone
}

func (o objects) given(ns string) given {
	g := given{map[int64]map[string]bool{}, map[JobRight]bool{}}
	for _, x := range o[ns] {
		if x.Binding == nil {
			continue
		}
		for _, u := range x.Binding.Users {
			if g.people[u] == nil {
				g.people[u] = map[string]bool{}
			}
			g.people[u][x.Binding.Role] = true
		}
		for _, s := range x.Binding.Others {
			g.others[JobRight{Subject: subjectOf(s), Role: x.Binding.Role}] = true
		}
	}
	return g
}

func subjectOf(s rbacv1.Subject) Subject {
	return Subject{s.Kind, rbacsync.Printable(s.Namespace), rbacsync.Printable(s.Name)}
}

type maker struct {
	in            Input
	why           *reasons
	before, after objects
	namespaces    map[string]*Namespace
	empty         int
}

func (m *maker) namespace(name string) *Namespace {
	if m.namespaces[name] == nil {
		m.namespaces[name] = &Namespace{Name: name, Action: Keep}
	}
	return m.namespaces[name]
}

// write takes in one change, in the order of the plan.
func (m *maker) write(c rbacsync.Change) {
	ns := m.namespace(c.Key.Namespace)
	if c.New == nil {
		delete(m.after[c.Key.Namespace], c.Key)
	} else {
		m.after.put(c.New)
	}
	if c.Source != (authz.SourceID{}) {
		ns.Source = c.Source.String()
	}
	switch {
	case c.Key.Kind == rbacsync.KindNamespace && c.Action == rbacsync.Create:
		ns.Action = Create
	case c.Key.Kind == rbacsync.KindNamespace && c.Action == rbacsync.Delete:
		ns.Action, ns.Why = Delete, c.Why
		delete(m.after, c.Key.Namespace)
	case ns.Action == Keep:
		ns.Action = Change
	}
	added, lost := c.Subjects()
	if c.Key.Kind == rbacsync.KindRoleBinding && c.Action == rbacsync.Create && len(added) == 0 {
		m.empty++
		return
	}
	kind, name := c.Key.Kind.String(), c.Key.Name
	if c.Key.Kind == rbacsync.KindTemplate {
		kind, name, _ = strings.Cut(name, "/")
	}
	ns.Writes = append(ns.Writes, Write{
		Action: c.Action.String(), Kind: kind, Name: name, Details: c.Details(1 << 30), Takes: c.Revokes, Why: c.Reason(),
		plain: len(added)+len(lost) == 0 && (ns.Action != Create || c.Key.Kind == rbacsync.KindTemplate),
	})
}

// rights compares who has what before and after.
func (m *maker) rights(name string, ns *Namespace) {
	before, after := m.before.given(name), m.after.given(name)
	people := maps.Clone(before.people)
	maps.Copy(people, after.people)
	id := m.source(ns)
	home, there := m.in.Names[id]
	elsewhere := there && home != name
	for _, u := range slices.Sorted(maps.Keys(people)) {
		r := Right{User: m.user(u), From: beyond(before.people[u], after.people[u]), To: beyond(after.people[u], before.people[u])}
		switch {
		case len(r.From)+len(r.To) == 0:
			continue
		case elsewhere && len(r.To) == 0:
			r.Action, r.Reason = Lose, Reason{Elsewhere, fmt.Sprintf("the namespace of %s is %s", id, home)}
		case len(r.To) == 0:
			r.Action, r.Reason = Lose, m.why.lost(id, u, r.From[0])
		case len(r.From) == 0:
			r.Action, r.Reason = Gain, m.why.gained(id, u, r.To[0])
		default:
			r.Action, r.Reason = Change, m.why.gained(id, u, r.To[0])
		}
		ns.People = append(ns.People, r)
	}
	for x := range after.others {
		if !before.others[x] {
			x.Action, x.Reason = Gain, m.why.job(id, x.Subject, true)
			ns.Jobs = append(ns.Jobs, x)
		}
	}
	for x := range before.others {
		if !after.others[x] {
			x.Action, x.Reason = Lose, m.why.job(id, x.Subject, false)
			ns.Jobs = append(ns.Jobs, x)
		}
	}
	slices.SortFunc(ns.Jobs, func(a, b JobRight) int {
		return cmp.Or(strings.Compare(a.Subject.Kind, b.Subject.Kind), strings.Compare(a.Subject.Name, b.Subject.Name), strings.Compare(a.Role, b.Role),
			strings.Compare(string(a.Action), string(b.Action)))
	})
}

// beyond returns what is in the first set alone, sorted.
func beyond(set, other map[string]bool) (out []string) {
	for role := range set {
		if !other[role] {
			out = append(out, role)
		}
	}
	slices.Sort(out)
	return out
}

func (m *maker) user(id int64) User {
	return User{ID: id, Username: rbacsync.Printable(m.why.username(id)), Subject: kubename.User(id)}
}

// source returns whose a namespace is.
func (m *maker) source(ns *Namespace) authz.SourceID {
	for _, of := range []objects{m.after, m.before} {
		if o := of[ns.Name][rbacsync.NamespaceKey(ns.Name)]; o != nil && o.Namespace != nil && o.Namespace.Source != (authz.SourceID{}) {
			return o.Namespace.Source
		}
	}
	for id, name := range m.in.Names {
		if name == ns.Name {
			return id
		}
	}
	return authz.SourceID{}
}

// describe says whose a namespace is.
func (m *maker) describe(ns *Namespace) {
	id := m.source(ns)
	if id == (authz.SourceID{}) {
		return
	}
	ns.Source, ns.Path = id.String(), rbacsync.Printable(m.why.path(id))
	if ns.Why == "" && m.in.Names[id] != ns.Name {
		for _, w := range ns.Writes {
			ns.Why = w.Why
		}
	}
}

// held puts what is held where it would be made.
func (m *maker) held() {
	if len(m.in.Held) == 0 {
		return
	}
	where := map[string]string{}
	for name := range m.before {
		if id := m.source(&Namespace{Name: name}); id != (authz.SourceID{}) {
			where[id.String()] = name
		}
	}
	for id, name := range m.in.Names {
		where[id.String()] = name
	}
	for _, section := range rbacsync.Sections(m.in.Held) {
		for _, i := range section.Items {
			h := Held{Action: Lose, Source: i.Source.String(), Role: i.Role, Cause: i.Cause.String(), Text: i.Why, Approval: section.Hash}
			switch {
			case i.Role == "":
				h.Action = Create
			case i.User != 0:
				u := m.user(i.User)
				h.User = &u
			}
			if i.Change != "" {
				h.Cause = "the configuration"
			}
			name := where[h.Source]
			if name == "" {
				name = i.Source.Label()
			}
			ns := m.namespace(name)
			if ns.Source == "" {
				ns.Source = h.Source
			}
			ns.Held = append(ns.Held, h)
		}
	}
}

func (m *maker) summary(namespaces []Namespace) Summary {
	s := Summary{Held: len(m.in.Held), Writes: len(m.in.Plan), EmptyBindings: m.empty, Deliveries: len(m.in.Deliveries)}
	people := map[int64]bool{}
	fresh := map[authz.SourceKind]int{}
	for i := range namespaces {
		switch ns := &namespaces[i]; ns.Action {
		case Create:
			s.Created++
			fresh[m.source(ns).Kind]++
		case Change:
			s.Changed++
		case Delete:
			s.Deleted++
		case Keep, Gain, Lose: // nothing becomes of it
		}
		for _, r := range namespaces[i].People {
			people[r.User.ID] = true
			switch r.Action {
			case Gain:
				s.Gained++
			case Lose:
				s.Lost++
			default:
				s.Exchanged++
			}
		}
	}
	s.People = len(people)
	all := map[authz.SourceKind]int{}
	for _, of := range m.after {
		for _, o := range of {
			if o.Namespace != nil && o.Namespace.Issuer == m.in.Snapshot.Issuer {
				all[o.Namespace.Source.Kind]++
			}
		}
	}
	for _, kind := range []authz.SourceKind{authz.GroupSource, authz.ProjectSource, authz.UserSource} {
		if all[kind] > 0 {
			key := "authz.kinds: " + string(kind)
			if !slices.Contains(m.in.Policy.Config().Kinds, kind) {
				key = "" // they are kept, and nothing makes them
			}
			s.Sources = append(s.Sources, Sources{kind, all[kind], fresh[kind], key})
		}
	}
	return s
}
