package syncer

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/wait"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
)

// credentials keeps CI credentials in order through a ci.Provisioner.
type credentials struct {
	o      *Options
	look   func(look)
	busy   func() bool // see Syncer.busy
	urgent urgentCount
	// large is true while a pass writes largePlan changes or more. The pass sets it.
	large atomic.Bool
	found atomic.Pointer[[]authz.Finding] // by what runs beside the passes
}

// input adds what Desired has to know of CI credentials.
func (c *credentials) input(in *rbacsync.Input, p *pass) {
	if c.o.CI != nil {
		in.CIStatus = c.o.CI.Statuses(p.scope)
	}
	in.CILive = rbacsync.DeliverySubjects(p.have)
}

func (c *credentials) findings() []authz.Finding {
	if f := c.found.Load(); f != nil {
		return *f
	}
	return nil
}

// list lists the namespaces in the scope that have, or lose, CI credentials: those of ours that stand or were just
// made, and those whose source is gone, by name. What can't be judged keeps what it has.
func (c *credentials) list(p *pass) []ci.Namespace {
	in := rbacsync.Input{Snapshot: p.Snapshot, Sources: p.sources, Names: p.Names, Settings: c.o.Settings}
	c.input(&in, p)
	s := &ciNamespaces{
		view: rbacsync.NewDeliveries(&in), policy: c.o.Policy, have: p.have, want: p.want, snap: p.Snapshot,
		live: map[rbacsync.Key]*rbacsync.Live{}, bindings: map[string][]*rbacsync.Live{}, failed: map[rbacsync.Key]bool{}, unsure: map[string]bool{},
	}
	for _, l := range p.have.Live {
		if l.Key.Kind == rbacsync.KindRoleBinding {
			s.bindings[l.Key.Namespace] = append(s.bindings[l.Key.Namespace], l)
		} else {
			s.live[l.Key] = l
		}
	}
	for _, f := range p.Report.Failed {
		s.failed[f.Change.Key] = true
		if f.Change.Key.Kind == rbacsync.KindRoleBinding {
			s.unsure[f.Change.Key.Namespace] = true
		}
	}
	out := s.list()
	slices.SortFunc(out, func(a, b ci.Namespace) int { return strings.Compare(a.Name, b.Name) })
	return out
}

type ciNamespaces struct {
	view   *rbacsync.Deliveries
	policy authz.Policy
	have   *rbacsync.Observed
	want   *rbacsync.Wanted
	snap   *authz.Snapshot

	live     map[rbacsync.Key]*rbacsync.Live // without bindings
	bindings map[string][]*rbacsync.Live     // by namespace
	failed   map[rbacsync.Key]bool
	unsure   map[string]bool // namespaces in which a binding could not be written
}

func (c *ciNamespaces) list() []ci.Namespace {
	out := []ci.Namespace{}
	wanted := map[string]bool{}
	for i := range c.want.Objects {
		o := &c.want.Objects[i]
		if o.Namespace == nil {
			continue
		}
		wanted[o.Key.Name] = true
		switch l := c.live[o.Key]; {
		case l != nil:
			if !l.Deleting && c.want.Owns(l, o.Namespace) {
				out = append(out, c.namespace(o.Key.Name, o.Namespace.Source))
			}
		case !c.have.Foreign[o.Key] && !c.failed[o.Key] && c.want.Hold == "" && c.want.Untouchable[o.Namespace.Source] == "":
			out = append(out, c.namespace(o.Key.Name, o.Namespace.Source))
		}
	}
	if c.want.Hold != "" {
		return out
	}
	for _, l := range c.have.Live {
		if l.Namespace == nil || wanted[l.Key.Name] || l.Deleting || l.Namespace.Issuer != c.want.Issuer ||
			l.Namespace.Source == (authz.SourceID{}) || c.want.Untouchable[l.Namespace.Source] != "" || c.want.Keep[l.Namespace.Source] {
			continue
		}
		n := ci.Namespace{Name: l.Key.Name, Source: l.Namespace.Source, Gone: true}
		_, n.Exists = c.snap.Projects[l.Namespace.Source.ID]
		n.Exists = n.Exists && l.Namespace.Source.Kind == authz.ProjectSource && c.want.Paths[l.Namespace.Source] == "" // else it has another namespace, and its variables
		out = append(out, n)
	}
	return out
}

func (c *ciNamespaces) namespace(name string, id authz.SourceID) ci.Namespace {
	n := ci.Namespace{Name: name, Source: id, Read: c.snap.Taken, Undecided: c.want.Hold != "" || c.want.Untouchable[id] != "" || c.unsure[name]}
	if sa := c.live[rbacsync.AccountKey(name)]; sa != nil {
		n.Account = sa.UID
	}
	n.Delivery = c.view.Delivery(id)
	open := false // somebody below Maintainer can read the token
	for _, project := range c.view.Deploying(id) {
		variables, read := c.snap.Projects[project].CIVariables()
		mode := c.view.Delivery(authz.ProjectID(project))
		_, bound := c.bound(name, project, mode)
		n.Projects = append(n.Projects, ci.Project{
			ID: project, Delivery: mode, Unprotected: c.view.Settings.Unprotected[project], Bound: bound,
			Explain: c.view.Explains(authz.ProjectID(project)), TokenInFile: c.view.TokenInFile(authz.ProjectID(project)),
			Frozen: c.frozen(id, project), Variables: variables, VariablesRead: read,
		})
		// GitLab hands a cluster integration to unprotected branches, too.
		open = open || c.view.Settings.Unprotected[project] || mode == rbacsync.DeliverCertificate
	}
	n.Readers, n.Lost = c.readers(name, id, open)
	for _, project := range n.Projects {
		own := authz.ProjectID(project.ID)
		if own == id {
			continue
		}
		if c.want.Untouchable[own] != "" || c.unsure[c.view.Names[own]] {
			n.Undecided = true
		}
		readers, lost := c.readers(c.view.Names[own], own, project.Unprotected || project.Delivery == rbacsync.DeliverCertificate)
		n.Readers, n.Lost = append(n.Readers, readers...), append(n.Lost, lost...)
	}
	n.Readers = ascending(n.Readers)
	n.Lost = slices.DeleteFunc(ascending(n.Lost), func(u int64) bool {
		_, reads := slices.BinarySearch(n.Readers, u)
		return reads
	})
	if n.Undecided {
		n.Readers, n.Lost = ascending(append(n.Readers, n.Lost...)), nil
	}
	return n
}

func ascending(ids []int64) []int64 {
	slices.Sort(ids)
	return slices.Compact(ids)
}

// frozen reports whether GitLab lets nobody write into the project.
func (c *ciNamespaces) frozen(home authz.SourceID, project int64) bool {
	if home != authz.ProjectID(project) {
		return c.view.ReadOnly[project]
	}
	p := c.snap.Projects[project]
	return p.Archived || p.MarkedForDeletion
}

// bound reports whether the subject that a project's jobs need is in the CI binding as it was written.
func (c *ciNamespaces) bound(ns string, project int64, mode rbacsync.Delivery) (subject string, bound bool) {
	s, needed := c.view.Subject(ns, project, mode)
	key := rbacsync.Key{Namespace: ns, Kind: rbacsync.KindRoleBinding, Name: kubename.CIRoleBinding}
	if !needed {
		return "", !mode.Secretless()
	}
	for _, o := range c.want.Inside(ns) {
		if o.Key == key && o.Binding != nil && !c.failed[key] {
			return s.Name, slices.Contains(o.Binding.Others, s)
		}
	}
	return s.Name, false
}

// readers returns the people who can read the token of a namespace, or the variables of the project it belongs to,
// and those who could until now: the people of every role but those of the levels below Maintainer; with open, of
// Developer, too. They are read from the bindings, so who is held back from losing a right is among them still.
func (c *ciNamespaces) readers(ns string, id authz.SourceID, open bool) (now, lost []int64) {
	strong := []authz.Level{authz.Maintainer, authz.Owner}
	if open {
		strong = append(strong, authz.Developer)
	}
	weak := rbacsync.RolesWithout(c.policy, c.snap, id, strong...)
	for _, o := range c.want.Inside(ns) {
		if o.Binding != nil && !weak[o.Binding.Role] {
			now = append(now, o.Binding.Users...)
		}
	}
	for _, l := range c.bindings[ns] {
		if !weak[l.Binding.Role] {
			lost = append(lost, l.Binding.Users...)
		}
	}
	return now, lost
}

// urgentCount counts the news of a run by which a token may have to die. Nothing in it is taken back meanwhile, so no order of the two
// who use it loses one.
type urgentCount struct{ offered, taken atomic.Int64 }

// begin forgets the news of another run.
func (h *urgentCount) begin() {
	h.offered.Store(0)
	h.taken.Store(0)
}

// waits reports whether such news waits to be taken.
func (h *urgentCount) waits() bool { return h.offered.Load() > h.taken.Load() }

// yieldDying is how long tokens that have to die wait for the rights of people, all those of one news together.
const yieldDying = time.Second

// destroy hands news on to run after it has destroyed the tokens that have to die: run may be waiting for GitLab. The last news is
// dealt with also when ctx has ended: by the next process alone a look at each Secret would find out.
func (c *credentials) destroy(ctx context.Context, in <-chan ciNews, next chan ciNews) {
	before := noCINews()
	for {
		var news ciNews
		select {
		case news = <-in:
			wait.While(ctx, yieldDying, c.busy)
			news.takeWaiting(in)
		case <-ctx.Done():
			select {
			case news = <-in:
			default:
				return
			}
		}
		destroyed := c.destroyLost(ctx, news.list)
		if urgent(news.list, before.list, destroyed) {
			news.urgent = c.urgent.offered.Add(1)
		}
		before.take(news.readers())
		news.offer(next)
	}
}

// destroyLost destroys tokens that people could read who have lost that right, and returns the namespaces in which it did.
func (c *credentials) destroyLost(ctx context.Context, list []ci.Namespace) map[string]bool {
	if c.o.Apply.May != nil && c.o.Apply.May() != nil {
		return nil
	}
	if ctx.Err() != nil {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		ctx = last
	}
	var had []*ci.Namespace
	for i := range list {
		if len(list[i].Lost) > 0 {
			had = append(had, &list[i])
		}
	}
	c.o.CI.DestroyLost(ctx, list)
	destroyed := map[string]bool{}
	for _, n := range had {
		destroyed[n.Name] = len(n.Lost) == 0
	}
	return destroyed
}

// tokensAfter is backgroundAfter for new tokens, for which jobs may wait. It is not waited for where a token may have to die, and not
// twice for the same work.
const tokensAfter = 300 * time.Millisecond

// urgent reports whether a token may have to die by a list that did not by what was known before, and was not destroyed: destroy has
// left it, GitLab has the namespace no more, that was not clear, or fewer people can read it. Both are in the order of the names.
func urgent(list, before []ci.Namespace, destroyed map[string]bool) bool {
	for i := range list {
		n := &list[i]
		old := &ci.Namespace{}
		if at, known := ci.Find(before, n.Name); known {
			old = &before[at]
		}
		switch {
		case len(n.Lost) > 0, n.Gone && !old.Gone, old.Undecided && !n.Undecided:
			return true
		case !n.Undecided && !destroyed[n.Name] && !slices.Equal(old.Readers, n.Readers) && slices.ContainsFunc(old.Readers, func(u int64) bool {
			_, reads := slices.BinarySearch(n.Readers, u)
			return !reads
		}):
			return true
		}
	}
	return false
}

// run keeps CI credentials in order beside the rounds, so that a slow GitLab does not hold up a revocation.
func (c *credentials) run(ctx context.Context, in <-chan ciNews, disturbed <-chan map[string]bool) {
	all := noCINews()
	changed := rbacsync.Scope{} // what may be different since the last call of ProvisionBeside
	var again <-chan time.Time
	var touched map[string]bool // namespaces whose Secret somebody else changed; true: deleted
	var since time.Time         // of what is not done; zero: all is
	var held time.Duration      // for how long of that time it waited for the end of a large plan
	dying := false              // a token may have to die
	for {
		before := all.urgent
		select {
		case <-ctx.Done():
			return
		case next := <-in:
			if since.IsZero() && next.urgent <= c.urgent.taken.Load() {
				wait.While(ctx, tokensAfter, func() bool { return !c.urgent.waits() })
				c.yield(ctx, ci.YieldNew)
			}
			next.takeWaiting(in)
			changed = changed.Union(next.scope)
			all.take(next)
			c.urgent.taken.Store(all.urgent)
			dying = dying || all.urgent > before
		case more := <-disturbed:
			if touched == nil {
				touched = map[string]bool{}
			}
			where := rbacsync.Scope{}
			for ns, deleted := range more {
				touched[ns] = touched[ns] || deleted
				where[ns] = true
			}
			changed = changed.Union(where)
		case <-again:
		}
		again = nil
		if all.scope != nil { // nobody knows all yet
			continue
		}
		if since.IsZero() {
			since, held = time.Now(), 0
		}
		last, begun := since.Add(yieldLarge), time.Now()
		if !dying { // else these tokens alone are dealt with
			wait.While(ctx, time.Until(last), func() bool { return c.large.Load() && !c.urgent.waits() })
			held += time.Since(begun)
		}
		if c.o.Apply.May != nil && c.o.Apply.May() != nil {
			again = time.After(time.Second) // it is another one's to do now, or ctx ends soon
			continue
		}
		report := c.o.CI.ProvisionBeside(ctx, all.list, ci.Beside{
			Stop: func() bool { return len(in) > 0 || c.large.Load() && time.Now().Before(last) }, Changed: func(authz.SourceID) { c.look(look{"ci", true}) }, Yield: c.yield, Since: since.Add(held), Scope: changed,
		})
		changed = rbacsync.Scope{}
		if dying = report.Dying; !report.Stopped {
			since = time.Time{}
		}
		if before := c.found.Swap(&report.Findings); before == nil && len(report.Findings) > 0 || before != nil && !sameFindings(*before, report.Findings) {
			c.look(look{"ci", false}) // else they would be shown as they were until the next reading of GitLab
		}
		if report.Issued > 0 {
			c.report(ctx, touched, all.list)
		}
		if !report.Stopped || report.Issued > 0 { // else it was not dealt with
			touched = nil
		}
		for i := range all.list {
			all.list[i].Lost = nil // the Provisioner knows
		}
		switch {
		case report.Stopped: // news come, or a large plan ends
			again = time.After(time.Second)
		case !report.Next.IsZero():
			again = time.After(max(report.Next.Sub(c.o.Now()), 100*time.Millisecond))
		}
	}
}

// While a pass writes a large plan, as the first one does, new tokens wait for its end, but not longer than yieldLarge: made beside it
// they would take a third of what kube-apiserver gives. See docs/adr/0145.
const (
	largePlan  = 1000
	yieldLarge = 10 * time.Minute
)

// yield waits while the rights of people are being written, for patience at most, or until news comes by which a token may have
// to die.
func (c *credentials) yield(ctx context.Context, patience time.Duration) {
	wait.While(ctx, patience, func() bool { return c.busy() && !c.urgent.waits() })
}

// sameFindings compares what findings are about; a text may differ each time.
func sameFindings(a, b []authz.Finding) bool {
	return slices.EqualFunc(a, b, func(a, b authz.Finding) bool { return a.Code == b.Code && a.Source == b.Source })
}

// follow watches the Secrets of CI tokens until ctx ends; the channel tells of those that somebody else has changed.
func (c *credentials) follow(ctx context.Context, start func(func())) <-chan map[string]bool {
	disturbed := make(chan map[string]bool, 1)
	if c.o.Watch != nil {
		var mu sync.Mutex // two watches call it
		start(func() {
			c.o.CI.Follow(ctx, c.o.Watch, func(ns string, deleted bool) {
				mu.Lock()
				defer mu.Unlock()
				now := map[string]bool{}
				select { // with what nobody has taken yet
				case now = <-disturbed:
				default:
				}
				now[ns] = now[ns] || deleted
				disturbed <- now
			})
		})
	}
	return disturbed
}

// report says in an Event that a Secret which somebody deleted was made anew.
func (c *credentials) report(ctx context.Context, touched map[string]bool, list []ci.Namespace) {
	for _, n := range list {
		if touched[n.Name] && !n.Gone {
			ref := corev1.ObjectReference{APIVersion: "v1", Kind: "Secret", Namespace: n.Name, Name: kubename.CISecret}
			cluster.ReportEvent(ctx, c.o.Kube, c.o.Logger, c.o.Now(), ref, "Secret "+n.Name+"/"+kubename.CISecret+
				" was deleted by somebody else and is made anew with another token: the token before died with it")
		}
	}
}

// slugs returns what is known of the environments of projects in mode agent.
func (c *credentials) slugs(namespaces []ci.Namespace) map[int64]rbacsync.DeliveryStatus {
	out := map[int64]rbacsync.DeliveryStatus{}
	known := c.o.CI.Statuses(nil)
	for _, n := range namespaces {
		for _, p := range n.Projects {
			if p.Delivery == rbacsync.DeliverAgent {
				st := known.Of(n.Name, p.ID)
				out[p.ID] = rbacsync.DeliveryStatus{Slug: st.Slug, Refused: st.Refused}
			}
		}
	}
	return out
}
