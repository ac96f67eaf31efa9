package ci

import (
	"slices"

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
}

// Handover is what would be changed in one project, as far as GitLab showed its variables: which of them, never a value.
type Handover struct {
	Namespace   string
	Project     int64
	Mode        rbacsync.Delivery
	Protected   bool     // only jobs on protected branches and tags get them
	Write       []string // keys of variables
	Remove      []string // keys of variables of ours that are not wanted any more
	Integration bool     // GitLab's cluster integration would be written: nothing tells what it has
	Foreign     []string // keys that variables without our mark have: they are left alone, unless an older version wrote them
	Other       string   // the cluster that has its own variables there, so that nothing is written; Unnamed if it has no name
	Unread      bool     // GitLab did not show the variables: all that there should be is in Write
}

func (h Handover) empty() bool {
	return len(h.Write)+len(h.Remove)+len(h.Foreign) == 0 && !h.Integration && h.Other == ""
}

// Handovers returns what Provision would change in GitLab for these namespaces, by project. Values that change, because
// a token is replaced or a CA is another one, it can't tell: GitLab does not show them. A namespace whose ServiceAccount is yet to
// be made gets everything anew. Of a project whose variables were not read it says nothing else.
func Handovers(namespaces []Namespace, snap *authz.Snapshot, t Terms) []Handover {
	var out []Handover
	for _, n := range namespaces {
		if p := snap.Projects[n.Source.ID]; n.Gone && n.Exists { // what it was given is taken back
			n.Projects = []Project{{ID: p.ID, Mode: rbacsync.DeliverNone, Frozen: p.Archived || p.MarkedForDeletion, Variables: p.Variables, VariablesRead: p.VariablesRead}}
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
	h := Handover{Namespace: n.Name, Project: p.ID, Mode: p.Mode, Protected: !p.Unprotected, Unread: !p.VariablesRead}
	if p.Frozen {
		return h
	}
	want := t.keys(p.Mode)
	fresh := n.Account == ""
	if h.Unread && !fresh && t.Shown == t.Scope {
		return h // it has them, for all that is known
	}
	h.Integration = fresh && p.Mode == rbacsync.DeliverCertificate
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
