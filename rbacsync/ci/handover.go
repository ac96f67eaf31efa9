package ci

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Terms are what Handovers has to know besides the namespaces.
type Terms struct {
	Scope    string   // the environment
	Cluster  string   // id of this cluster, "" if it is not known
	Replaces []string // see Config
	// Shown is the environment whose variables GitLab showed.
	Shown string
	// CA and AgentCA say that jobs are given the CA of the API server, and of GitLab's agent.
	CA, AgentCA bool
	// Known, optional, tells also of values that change, and of cluster integrations. It needs Cluster, and what follows.
	Known    *Known
	Name     string // of the cluster, for people
	Audience string
	Agent    *Agent // its ID and URL; nil: there is none
	Now      time.Time
}

func (t Terms) now() time.Time { return t.Now }

// Handover is what is changed in one project, or would be: which variables, never a value.
type Handover struct {
	Namespace   string
	Project     int64
	Delivery    rbacsync.Delivery
	Protected   bool     // only jobs on protected branches and tags get them
	Write       []string // keys of variables that are not there
	Change      []string // keys of variables of ours whose value, or whatever else is known of them, becomes another one
	Remove      []string // keys of variables of ours that are not wanted any more
	Scope       string   // the environment of Remove, where it is not that of Terms
	Integration Part     // GitLab's cluster integration
	Explanation Part     // what tells jobs without credentials why: KUBECONFIG, for all environments
	Why         string   // of Change, and of an integration that is changed
	Foreign     []string // keys that variables without our mark have: they are left alone, unless an older version wrote them
	Other       string   // the cluster that has its own variables there, so that no more than Explanation is changed; Unnamed if it has no name
	Unread      bool     // GitLab did not show the variables
}

// Part is what becomes of a thing that has no parts.
type Part string

// What becomes of it; "": it stays as it is, or is not known.
const (
	Written Part = "write"
	Changed Part = "change"
	Removed Part = "remove"
)

func (h Handover) empty() bool {
	return len(h.Write)+len(h.Change)+len(h.Remove)+len(h.Foreign) == 0 && h.Integration == "" && h.Explanation == "" && h.Other == ""
}

// Handovers returns what Provision would change in GitLab for these namespaces, by project. Without Terms.Known it goes by what
// GitLab showed alone, and tells neither of values that change nor of projects whose variables were not read; but a
// namespace whose ServiceAccount is yet to be made gets everything anew.
func Handovers(namespaces []Namespace, snap *authz.Snapshot, t Terms) []Handover {
	if t.Known != nil && t.Cluster != "" {
		return t.byRecords(namespaces, snap)
	}
	var out []Handover
	for _, n := range namespaces {
		if p := snap.Projects[n.Source.ID]; n.Gone && n.Exists { // what it was given is taken back
			variables, read := p.CIVariables()
			n.Projects = []Project{{ID: p.ID, Delivery: rbacsync.DeliverNone, Frozen: p.Archived || p.MarkedForDeletion, Variables: variables, VariablesRead: read}}
		}
		for _, p := range n.Projects {
			if h := t.handover(n, p); !h.empty() {
				out = append(out, h)
			}
		}
	}
	slices.SortFunc(out, func(a, b Handover) int { return int(a.Project - b.Project) })
	return out
}

func (t Terms) handover(n Namespace, p Project) Handover {
	h := Handover{Namespace: n.Name, Project: p.ID, Delivery: p.Delivery, Protected: !p.Unprotected, Unread: !p.VariablesRead}
	if p.Frozen {
		return h
	}
	want := t.keys(p.Delivery)
	fresh := n.Account == ""
	if h.Unread && !fresh && t.Shown == t.Scope {
		return h // it has them, for all that is known
	}
	if fresh && p.Delivery == rbacsync.DeliverCertificate {
		h.Integration = Written
	}
	for _, key := range want {
		i := slices.IndexFunc(p.Variables, func(v authz.CIVariable) bool { return v.Key == key && v.Scope == t.Scope })
		if i < 0 || t.owner(p.Variables[i]) == ours && (fresh || p.Variables[i].Protected != h.Protected) {
			h.Write = append(h.Write, key)
		}
	}
	for _, v := range p.Variables {
		wanted := slices.Contains(want, v.Key)
		switch who := t.owner(v); {
		case v.Scope != t.Scope:
		case who == ours && !wanted && !n.Undecided:
			h.Remove = append(h.Remove, v.Key)
		case who == others && len(want) > 0:
			h.Other = Unnamed
			if v.Cluster != "" {
				h.Other = v.Cluster
			}
		case who == nobody && wanted:
			h.Foreign = append(h.Foreign, v.Key)
		}
	}
	if h.Other != "" {
		h.Write, h.Remove, h.Foreign = nil, nil, nil
	}
	slices.Sort(h.Remove)
	slices.Sort(h.Foreign)
	return h
}

// byRecords is Handovers by what is kept of what projects were given, and by what Provision itself goes by.
func (t Terms) byRecords(namespaces []Namespace, snap *authz.Snapshot) (out []Handover) {
	homes := map[int64]bool{}
	for _, n := range namespaces {
		for _, p := range n.Projects {
			homes[p.ID] = homes[p.ID] || !n.Gone
		}
	}
	for _, n := range namespaces {
		if _, ok := t.Known.Kept[n.Name]; !ok {
			continue
		}
		w := t.forecast(n)
		if !n.Gone {
			for _, p := range n.Projects {
				if h := t.delivery(w, p); !h.empty() {
					out = append(out, h)
				}
			}
		}
		for _, id := range slices.Sorted(maps.Keys(w.recs)) {
			p, there := snap.Projects[id]
			stays := !n.Gone && slices.ContainsFunc(n.Projects, func(p Project) bool { return p.ID == id })
			if stays || n.Undecided || !there || p.Archived || p.MarkedForDeletion {
				continue
			}
			variables, _ := p.CIVariables()
			h := w.departure(id, variables)
			if homes[id] { // there its variables are written over
				h.Remove, h.Explanation = nil, ""
			}
			if !h.empty() {
				out = append(out, h)
			}
		}
	}
	slices.SortFunc(out, func(a, b Handover) int { return int(a.Project - b.Project) })
	return out
}

// delivery tells what becomes of one project.
func (t Terms) delivery(w *work, p Project) Handover {
	d := delivery{work: w, project: p, rec: w.recs[p.ID].clone(), context: t.Known.Agent.Context}
	mode := p.Delivery
	switch {
	case p.Frozen, w.n.Undecided && d.rec.Delivery != "" && d.rec.Delivery != mode, t.Known.TooOld[mode] != "",
		mode == rbacsync.DeliverAgent && (t.Agent == nil || t.Known.Agent.Refused != ""):
		return Handover{}
	}
	if p.VariablesRead && t.Shown == t.Scope {
		d.has, d.hasAt = p.Variables, w.n.Read
	}
	why := w.whyNew(d.rec.Token)
	vars, err := d.variables(d.tokenID(d.rec.Token))
	if err != nil {
		return Handover{} // nothing is delivered that no job can be given
	}
	x, err := explainer{&d}.find()
	if err != nil {
		return Handover{}
	}
	return handoverOf{&d}.handover(vars, d.compare(vars), x, why)
}

// handoverOf is a delivery, as far as its Handover is concerned: what it does to the project.
type handoverOf struct{ *delivery }

// handover says what a difference leads to.
func (d handoverOf) handover(vars []Variable, diff difference, x explaining, why string) Handover {
	h := Handover{Namespace: d.n.Name, Project: d.project.ID, Delivery: d.project.Delivery, Protected: !d.project.Unprotected, Unread: diff.known == nil && !diff.taken}
	if diff.taken {
		h.Other = cmp.Or(d.rec.Other.Cluster, Unnamed)
		if x.remove {
			h.Explanation = x.outcome
		}
		return h
	}
	h.Foreign = slices.Clone(d.rec.Foreign)
	was, scope := &d.rec, d.p.c.Scope
	newToken := slices.ContainsFunc(diff.write, d.holdsToken) // it goes into all that have one
	for _, v := range vars {
		if !contains(diff.write, v.Key) && (!newToken || !d.holdsToken(v)) {
			continue
		}
		i := slices.IndexFunc(d.has, func(x authz.CIVariable) bool { return x.Key == v.Key && x.Scope == scope })
		switch {
		case slices.Contains(h.Foreign, v.Key):
		case h.Unread && (was.Scope != scope || was.Sums[v.Key] == ""), !h.Unread && i < 0:
			h.Write = append(h.Write, v.Key)
		case !h.Unread && d.isThere(d.has[i], v): // it is written, because it is not known any more that it was
		case !h.Unread && d.has[i].Cluster == "" && was.Scope == scope && was.Delivery == d.project.Delivery && d.sameValue(v): // it is looked at, because the mark does not tell
		default:
			h.Change = append(h.Change, v.Key)
		}
	}
	if diff.cluster {
		if h.Integration = Written; !diff.moved && was.Sums[clusterPart] != "" {
			h.Integration = Changed
		}
	}
	h.Explanation = x.outcome
	d.leftBehind(diff, &h)
	if len(h.Change) > 0 || h.Integration == Changed {
		h.Why = cmp.Or(why, "what jobs are given has changed, or GitLab has something else")
		if diff.moved {
			h.Why = "jobs get their credentials in another way"
		}
	}
	return h
}

// isThere reports whether GitLab has a variable just so, by what its mark says.
func (d handoverOf) isThere(x authz.CIVariable, v Variable) bool {
	return x.Cluster == d.facts.id && x.Delivery == sumOf(v) && x.File == v.File && x.Masked == v.Masked && x.Protected == v.Protected && x.Raw && !x.Hidden
}

// sameValue reports whether a variable is what was delivered last.
func (d handoverOf) sameValue(v Variable) bool {
	if d.holdsToken(v) {
		t := d.rec.Token
		return t != nil && d.tokenID(t) == t.ID && t.Parts[v.Key] == sumOf(v)
	}
	return d.rec.Sums[v.Key] == sumOf(v)
}

// leftBehind adds to a Handover what of earlier deliveries goes.
func (d handoverOf) leftBehind(diff difference, h *Handover) {
	scope, was := d.p.c.Scope, &d.rec
	ours := func(x authz.CIVariable) bool {
		return x.Marked && x.Scope == scope && (x.Cluster != "" && d.claim(was).names(x.Cluster) || len(was.sums(x.Key)) > 0)
	}
	switch {
	case was.Scope != scope && was.Scope != "":
		h.Scope = was.Scope
		for key := range was.Sums {
			h.Remove = append(h.Remove, key)
		}
	case diff.known != nil && !d.n.Undecided:
		for _, x := range d.has {
			if _, wanted := diff.sums[x.Key]; !wanted && ours(x) {
				h.Remove = append(h.Remove, x.Key)
			}
		}
	case diff.moved:
		for key := range was.Sums {
			if _, wanted := diff.sums[key]; !wanted {
				h.Remove = append(h.Remove, key)
			}
		}
	}
	h.Remove = slices.DeleteFunc(h.Remove, func(key string) bool { return key == clusterPart })
	slices.Sort(h.Remove)
	left := slices.ContainsFunc(was.Former, func(f former) bool { return f.Delivery == rbacsync.DeliverCertificate })
	if h.Integration == "" && (left || diff.moved && was.Delivery == rbacsync.DeliverCertificate) {
		h.Integration = Removed
	}
}

// departure returns what is taken back from a project that deploys here no longer. variables are those that GitLab showed.
func (w *work) departure(id int64, variables []authz.CIVariable) Handover {
	rec := w.recs[id]
	h := Handover{Namespace: w.n.Name, Project: id, Delivery: rbacsync.DeliverNone, Protected: true, Unread: variables == nil}
	for key := range rec.Sums {
		switch {
		case key == clusterPart:
			h.Integration = Removed
		case !slices.Contains(rec.Foreign, key) && (h.Unread || slices.ContainsFunc(variables, func(v authz.CIVariable) bool { return v.Key == key && v.Scope == rec.Scope })):
			h.Remove = append(h.Remove, key)
		}
	}
	if rec.Explained.there() && (h.Unread || slices.ContainsFunc(variables, func(v authz.CIVariable) bool { return v.Key == kubeconfigKey && v.Scope == everywhere && v.Marked })) {
		h.Explanation = Removed
	}
	slices.Sort(h.Remove)
	return h
}

type owner uint8

const (
	nobody owner = iota // nobody that we know
	ours
	others // another integrator
)

// owner says whose a variable is. While it is not known which cluster this is, what is marked counts as ours.
func (t Terms) owner(v authz.CIVariable) owner {
	claim := Claim{Cluster: t.Cluster, Replaces: t.Replaces}
	switch {
	case !v.Marked:
		return nobody
	case v.Cluster == "" && !slices.Contains(t.Replaces, Unnamed):
		return others
	case v.Cluster == "" || t.Cluster == "" || claim.names(v.Cluster):
		return ours
	}
	return others
}

// keys returns the keys of what unchecked gives to a job, sorted.
func (t Terms) keys(m rbacsync.Delivery) []string {
	if !m.WritesVariables() {
		return nil
	}
	hasCA := t.CA
	if m == rbacsync.DeliverAgent {
		hasCA = t.AgentCA
	}
	return slices.DeleteFunc(Keys(), func(key string) bool {
		switch key {
		case "KUBE_CA_PEM", "KUBE_CA_PEM_FILE":
			return !hasCA
		case "KUBE_TOKEN":
			return !m.HandsToken()
		}
		return false
	})
}
