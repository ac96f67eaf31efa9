package rbacsync

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// Action is what a Change does to its object.
type Action uint8

// The actions. Replace is a delete and a create, because a RoleBinding's roleRef can't be changed.
const (
	Delete Action = iota
	Replace
	Update
	Create
)

// String returns the action in lower case.
func (a Action) String() string { return [...]string{"delete", "replace", "update", "create"}[a] }

// Change is one write to the cluster. Old is nil for Create, New for Delete.
type Change struct {
	Action  Action
	Key     Key
	Source  authz.SourceID // what the namespace belongs to
	Old     *Live
	New     *Object
	Revokes bool   // somebody loses a right by it
	Why     string // the GitLab object behind it, and what became of it
	// ApprovedBy is the user of Kubernetes whose approval lets a namespace be made, "an administrator" if it is not known who that
	// is, and "" if it needed none.
	ApprovedBy string
	// ApprovedFor is the same of each one who loses the role of a binding because it was approved; 0 is the CI of the namespace.
	ApprovedFor map[int64]string

	Step  Step
	users map[int64]authz.User
	// chained changes of one namespace are written one after the other, in this order: see link.
	Chained bool
	order   int
	// instead holds, of the people who leave the binding, in which others they get at least the same right by this plan.
	instead map[int64][]Key
}

// Step is when a change is written; each step is finished before the next one starts.
type Step uint8

const (
	StepRevoke    Step = iota // whatever takes a right away
	StepPromote               // gives more to people, and then takes the less
	StepNamespace             // namespaces before their content
	StepTemplate              // quotas and policies before somebody gets rights
	StepGrant
	StepMove // takes a subject out of one shard that another one got in StepGrant
	StepDelete
)

// Plan returns what has to be written so that have becomes want, sorted: revocations first, then by step, action
// and key; and what an administrator should know. Where people move from one binding to another Apply has a better
// order, see link. Plan is pure, does not depend on the order of its input, and is
// empty when it was applied.
//
//	namespace in the cluster                 source in GitLab      what is planned
//	none                                     there                 created, with its content
//	ours                                     there                 brought in line
//	ours                                     gone                  bindings emptied, all else kept (see afterwards)
//	our mark alone, to be adopted            there                 brought in line
//	ours                                     can't be judged       nothing
//	ours, since names were given             there, without one    nothing, until names are given again
//	without our mark                         there                 nothing, finding foreign_namespace
//	of another GitLab or another created_at  any                   nothing, finding other_issuer, other_created_at
//	of another source of this GitLab         there                 bindings emptied, finding other_source
//	a second one of the same source          there                 bindings emptied, finding duplicate_namespace
//	whose marks disagree                     any                   nothing, finding mark_unclear (see Identify)
//	marked by a later version                any                   nothing, finding mark_newer
//
// In a namespace of ours, an object of our name without our mark is the finding foreign_object, never a change.
func Plan(have *Observed, want *Wanted) ([]Change, []authz.Finding) {
	if have.NoTemplates {
		want = want.bare()
	}
	p := planner{have: have, want: want, home: map[authz.SourceID]string{}, others: map[string][]string{}}
	if want.Hold != "" {
		return nil, []authz.Finding{{Code: "held", Text: "nothing is changed: " + want.Hold}}
	}
	if missing := len(want.Objects) - len(have.Live); missing > 0 {
		p.changes = make([]Change, 0, missing)
	}
	for i := range want.Objects {
		if s := want.Objects[i].Namespace; s != nil {
			p.home[s.Source] = want.Objects[i].Key.Name
		}
	}
	byNamespace(have.Live, want.Objects, p.namespace)
	for _, issuer := range sortedKeys(p.others) {
		names := p.others[issuer]
		p.find("other_issuer", authz.SourceID{}, "%d namespaces belong to the GitLab %q (the first is %q) and gitlab.url is %q: left alone; write the URL as GitLab itself does (its external_url)",
			len(names), issuer, names[0], p.want.Issuer)
	}
	p.changes = sortChanges(p.changes)
	slices.SortFunc(p.findings, func(a, b authz.Finding) int {
		return cmp.Or(strings.Compare(a.Code, b.Code), a.Source.Compare(b.Source), strings.Compare(a.Text, b.Text))
	})
	return p.changes, p.findings
}

// turns is how many turns there are: see turn.
const turns = 64

// turn is the place of a change in a plan, before its key: what takes a right comes first, then it is the step and the action.
func (c *Change) turn() int {
	turn := int(c.Step)<<2 | int(c.Action)
	if !c.Revokes {
		turn += turns / 2
	}
	return turn
}

// sortChanges returns changes by turn and key. A first round has tens of thousands, which come by key, so they are dealt out
// and only sorted where that is not so.
func sortChanges(changes []Change) []Change {
	var begin [turns + 1]int
	for i := range changes {
		begin[changes[i].turn()+1]++
	}
	for turn := range turns {
		begin[turn+1] += begin[turn]
	}
	out, next := make([]Change, len(changes)), begin
	for i := range changes {
		at := &next[changes[i].turn()]
		out[*at] = changes[i]
		*at++
	}
	for turn := range turns {
		same := out[begin[turn]:begin[turn+1]]
		copy(same, sorted(same, func(a, b Change) int { return a.Key.Compare(b.Key) }))
	}
	return out
}

// bindingPrefix starts the names of all bindings of ours (kubename.RoleBinding, kubename.CIRoleBinding).
const bindingPrefix = "gitlab-"

type planner struct {
	have     *Observed
	want     *Wanted
	home     map[authz.SourceID]string // where a source's namespace should be
	others   map[string][]string       // namespaces of other GitLabs, by issuer
	source   authz.SourceID            // of the namespace that is being planned
	changes  []Change
	findings []authz.Finding
}

func (p *planner) find(code string, id authz.SourceID, format string, args ...any) {
	p.findings = append(p.findings, authz.Finding{Code: code, Source: id, Text: fmt.Sprintf(format, args...)})
}

// namespace plans one namespace: h is what it holds with our mark, w what it should hold; both may be empty.
func (p *planner) namespace(ns string, h []*Live, w []Object) {
	var live *Live
	var namespace *Namespace
	if len(h) > 0 && h[0].Namespace != nil {
		live = h[0]
	}
	if len(w) > 0 {
		namespace = w[0].Namespace
	}
	switch {
	case len(h) == 0 && namespace == nil: // what was held there is gone
	case live == nil && namespace == nil:
		p.find("mark_outside", authz.SourceID{}, "namespace %q is not ours, but %s in it has our owner mark: left alone", ns, h[0].Key)
	case live == nil && p.have.Foreign[NamespaceKey(ns)]:
		p.find("foreign_namespace", namespace.Source, "namespace %q exists without our owner mark: %s gets none of its rights there", ns, namespace.Source)
	case live == nil:
		if p.want.Untouchable[namespace.Source] == "" {
			p.content(namespace.Source, nil, h, w)
		}
	case namespace != nil && p.want.Adopt[ns] == namespace.Source && adoptable(live):
		p.content(namespace.Source, live, h, w)
	case len(live.Doubt) > 0 || live.Namespace.Later != "": // assign says so
	case live.Namespace.Source == authz.SourceID{} && (live.Namespace.Issuer == p.want.Issuer || live.Namespace.Issuer == ""):
		p.find("bad_mark", live.Namespace.Source, "namespace %q has our owner mark, but no readable label %s: left alone", ns, kubename.LabelSource)
	case live.Namespace.Issuer != p.want.Issuer:
		p.others[live.Namespace.Issuer] = append(p.others[live.Namespace.Issuer], ns)
	case p.want.Untouchable[live.Namespace.Source] != "":
		p.find("unread", live.Namespace.Source, "namespace %q is left as it is: %s", ns, p.want.Untouchable[live.Namespace.Source])
	case namespace == nil && p.want.Nameless[live.Namespace.Source]:
	case namespace == nil:
		p.orphan(ns, live, h, w)
	case namespace.Source != live.Namespace.Source:
		p.find("other_source", namespace.Source, "namespace %q belongs to %s: %s gets no right there", ns, live.Namespace.Source, namespace.Source)
		p.orphan(ns, live, h, w)
	case !sameCreation(live.Namespace, namespace):
		p.find("other_created_at", namespace.Source, "namespace %q belongs to a %s created at %s, GitLab's was created at %s: the id was handed out again, left alone",
			ns, namespace.Source, live.Namespace.CreatedAt, namespace.CreatedAt)
	default:
		p.content(namespace.Source, live, h, w)
	}
}

// sameCreation compares GitLab's created_at as far as both are known: after a restore GitLab can hand out an id
// again, and then the namespace belongs to something else.
func sameCreation(live, namespace *Namespace) bool {
	return namespace.CreatedAt == "" || live.CreatedAt == "" || namespace.CreatedAt == live.CreatedAt
}

// Owns reports whether a namespace is the one that belongs to the wanted source.
func (w *Wanted) Owns(l *Live, namespace *Namespace) bool {
	return l.Namespace.Issuer == w.Issuer && l.Namespace.Source == namespace.Source && sameCreation(l.Namespace, namespace)
}

// orphan takes the rights out of a namespace that no source should have (any more), and keeps everything else. Of
// the bindings in w, which are held, it leaves what they say.
func (p *planner) orphan(ns string, live *Live, h []*Live, w []Object) {
	id := live.Namespace.Source
	p.source = id
	why := fmt.Sprintf("%s (%s) is gone from GitLab or left out", id, Printable(live.Namespace.Path))
	if home, ok := p.home[id]; ok {
		why = fmt.Sprintf("the namespace of %s is %s", id, home)
		p.find("duplicate_namespace", id, "namespace %q is marked as belonging to %s, whose namespace is %q: its bindings are emptied", ns, id, home)
	}
	rights := false
	for _, l := range h {
		if !p.surplus(id, l) {
			continue
		}
		rights = true
		left := emptied(l)
		if i := slices.IndexFunc(w, func(o Object) bool { return o.Key == l.Key }); i >= 0 && w[0].Namespace == nil {
			left = &w[i]
		}
		if !left.Binding.Same(l.Binding) {
			p.change(Change{Action: Update, Key: l.Key, Old: l, New: left, Revokes: true, Why: why, Step: StepRevoke})
		}
	}
	if p.home[id] == "" {
		p.afterwards(ns, live, why, rights)
	}
}

// content plans the objects of one namespace that is, or is about to be, ours. Both lists are sorted.
func (p *planner) content(id authz.SourceID, ns *Live, h []*Live, w []Object) {
	p.source = id
	why := fmt.Sprintf("%s %s", id, Printable(p.want.Paths[id]))
	w = p.cede(ns, h, w)
	all, first := w, len(p.changes)
	var stuck bool
	for len(h) > 0 || len(w) > 0 {
		c := -1
		switch {
		case len(h) == 0:
			c = 1
		case len(w) > 0:
			c = h[0].Key.Compare(w[0].Key)
		}
		switch {
		case c < 0: // a shard that is no longer needed, or a role that is no longer configured
			if l := h[0]; l.FromTemplate != nil {
				if ns == nil || !ns.Deleting {
					p.change(Change{Action: Delete, Key: l.Key, Old: l, Why: why + ": no template of it any more", Step: StepMove})
				}
			} else if p.surplus(id, l) {
				p.update(l, emptied(l), all, why)
			}
		case c > 0:
			o := &w[0]
			switch {
			case ns != nil && ns.Deleting:
				stuck = true
			case p.have.Foreign[o.Key]:
				p.find("foreign_object", id, "%s exists without our owner mark: left alone", o.Key)
			default:
				p.create(o, why)
			}
		default:
			p.compare(h[0], &w[0], all, why)
		}
		if c <= 0 {
			h = h[1:]
		}
		if c >= 0 {
			w = w[1:]
		}
	}
	p.link(p.changes[first:], all)
	if stuck {
		p.find("namespace_terminating", id, "namespace %q is being deleted: what is missing in it is made when it is gone", ns.Key.Name)
	}
}

// surplus reports whether the object is a binding that gives something though it should not be there. Somebody
// else's binding that was given our mark is not ours: we never make one with such a name.
func (p *planner) surplus(id authz.SourceID, l *Live) bool {
	if l.Binding == nil || l.Binding.empty() {
		return false
	}
	if !strings.HasPrefix(l.Key.Name, bindingPrefix) {
		p.find("foreign_object", id, "%s has our owner mark, but not a name of ours: left alone", l.Key)
		return false
	}
	return true
}

func (p *planner) create(o *Object, why string) {
	at := StepGrant
	switch {
	case o.Namespace != nil:
		at = StepNamespace
		namespace := *o.Namespace
		p.loosened(o.Key.Name, &namespace, "")
		o = &Object{Key: o.Key, Namespace: &namespace}
	case o.FromTemplate != nil:
		at = StepTemplate
	}
	p.change(Change{Action: Create, Key: o.Key, New: o, Why: why, Step: at})
}

// loosened keeps a namespace from being made privileged by us, which our own cage (docs/adr/0073) refuses: an
// administrator sets that label. Until then the level that is there stays, live, or baseline.
func (p *planner) loosened(ns string, want *Namespace, live string) {
	if want.PodSecurity.Enforce != levelPrivileged || live == levelPrivileged {
		return
	}
	if live != levelRestricted {
		live = levelBaseline
	}
	want.PodSecurity = podSecurity(live)
	p.find("pod_security_waits", want.Source, "namespace %q stays at the Pod Security level %s: only an administrator can set what rbacsync.podSecurityExceptions says for %s: kubectl label namespace %s %senforce=%s --overwrite",
		ns, live, want.Source, ns, podSecurityLabel, levelPrivileged)
}

// compare plans one object that is there and should be. all is everything that should be in the namespace.
func (p *planner) compare(l *Live, o *Object, all []Object, why string) {
	switch {
	case o.Namespace != nil:
		want := *o.Namespace
		if want.CreatedAt == "" { // GitLab did not say: keep what it said before
			want.CreatedAt = l.Namespace.CreatedAt
		}
		p.loosened(o.Key.Name, &want, l.Namespace.PodSecurity.Enforce)
		if want != *l.Namespace {
			p.change(Change{Action: Update, Key: o.Key, Old: l, New: &Object{Key: o.Key, Namespace: &want}, Why: why, Step: StepNamespace})
		}
	case o.FromTemplate != nil:
		if !o.FromTemplate.madeBy(l.FromTemplate) {
			p.change(Change{Action: Update, Key: o.Key, Old: l, New: o, Why: why, Step: StepTemplate})
		}
	case o.Binding != nil && o.Binding.Role != l.Binding.Role:
		p.change(Change{Action: Replace, Key: o.Key, Old: l, New: o, Revokes: !l.Binding.empty(), Why: why, Step: StepRevoke})
	case o.Binding != nil && !o.Binding.Same(l.Binding):
		p.update(l, o, all, why)
	}
}

// update plans a changed binding. Somebody who leaves it for another shard of the same role loses nothing, so
// that update waits until the other shard has them.
func (p *planner) update(l *Live, o *Object, all []Object, why string) {
	c := Change{Action: Update, Key: l.Key, Old: l, New: o, Why: why, Step: StepGrant}
	lost, others := l.Binding.beyond(o.Binding)
	c.Revokes = len(others) > 0 || slices.ContainsFunc(lost, func(id int64) bool { return !elsewhere(all, l.Binding.Role, id) })
	switch {
	case c.Revokes:
		c.Step = StepRevoke
	case len(lost) > 0:
		c.Step = StepMove
	}
	p.change(c)
}

// elsewhere reports whether a binding of the role among all has the user.
func elsewhere(all []Object, role string, user int64) bool {
	for i := range all {
		if b := all[i].Binding; b != nil && b.Role == role && b.has(user) {
			return true
		}
	}
	return false
}

func (p *planner) change(c Change) {
	c.users, c.Source = p.want.Users, p.source
	p.changes = append(p.changes, c)
}

// emptied returns a binding without subjects. It is kept because a write to it conflicts with a stale writer,
// which a deleted and re-created binding would not.
func emptied(l *Live) *Object {
	return &Object{Key: l.Key, Binding: &Binding{Role: l.Binding.Role}}
}

// byNamespace calls f for each namespace, in order, with what it holds with our mark and what it should hold; one of them may
// be empty, and both are sorted.
func byNamespace(live []*Live, objects []Object, f func(ns string, h []*Live, w []Object)) {
	live = sorted(live, func(a, b *Live) int { return a.Key.Compare(b.Key) })
	objects = sorted(objects, func(a, b Object) int { return a.Key.Compare(b.Key) })
	for len(live)+len(objects) > 0 {
		var ns string
		if len(live) > 0 {
			ns = live[0].Key.Namespace
		}
		if len(live) == 0 || len(objects) > 0 && objects[0].Key.Namespace < ns {
			ns = objects[0].Key.Namespace
		}
		var h []*Live
		var w []Object
		h, live = cut(live, func(l *Live) bool { return l.Key.Namespace == ns })
		w, objects = cut(objects, func(o Object) bool { return o.Key.Namespace == ns })
		f(ns, h, w)
	}
}

// sorted returns the list in order, copied only where it has to be: the caller's slice is not changed.
func sorted[T any](list []T, compare func(a, b T) int) []T {
	if slices.IsSortedFunc(list, compare) {
		return list
	}
	list = slices.Clone(list)
	slices.SortFunc(list, compare)
	return list
}

// cut splits off the leading elements for which keep holds.
func cut[T any](list []T, keep func(T) bool) (head, rest []T) {
	i := 0
	for i < len(list) && keep(list[i]) {
		i++
	}
	return list[:i:i], list[i:]
}
