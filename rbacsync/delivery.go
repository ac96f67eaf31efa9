package rbacsync

import (
	"cmp"
	"fmt"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// CISettings say how the jobs of projects get their credentials, and where they deploy. The zero value hands over
// variables, to protected branches alone, each project in its own namespace.
type CISettings struct {
	Mode Delivery // default DeliverVariables
	// Exceptions name projects, or groups for everything below them, by id: anybody can take a path. Of several that
	// say something about a project the nearest counts.
	Exceptions []CIException
	// Unprotected holds the ids of projects whose credentials go to unprotected branches, too.
	Unprotected map[int64]bool
	// Explain gives jobs without credentials a KUBECONFIG that says why they have none.
	Explain bool
	// TokenInFile puts the token into KUBECONFIG, where else kubectl takes it from KUBE_TOKEN.
	TokenInFile bool
}

// CIException is what is different for one project, or for all projects of a group.
type CIException struct {
	Source authz.SourceID
	Path   string   // for people: another one in GitLab is a finding
	Mode   Delivery // "": no exception
	// Explain and TokenInFile: nil is no exception.
	Explain, TokenInFile *bool
	Target               Target // "": no exception; of a group it says nothing, because Developers can make projects in a group
}

// Target is the namespace that a project deploys into.
type Target string

// The targets.
const (
	TargetProject Target = "project" // its own
	TargetGroup   Target = "group"   // that of the group it is in, if that has one
)

// Deliveries answers for one round which project deploys where, and how.
type Deliveries struct {
	Settings CISettings
	snap     *authz.Snapshot
	Names    map[authz.SourceID]string
	by       map[authz.SourceID]CIException
	ReadOnly map[int64]bool    // projects in which nobody may change anything, as far as they deploy into groups
	into     map[int64][]int64 // group to the projects that deploy into its namespace, ascending
	status   DeliveryStatuses
	live     map[string][]rbacv1.Subject // namespace to the subjects of its CI binding
}

// NewDeliveries returns the Deliveries of a round.
func NewDeliveries(in *Input) *Deliveries {
	v := &Deliveries{
		Settings: in.Settings.CI, snap: in.Snapshot, Names: in.Names, by: map[authz.SourceID]CIException{},
		ReadOnly: map[int64]bool{}, into: map[int64][]int64{}, status: in.CIStatus, live: in.CILive,
	}
	v.Settings.Mode = cmp.Or(v.Settings.Mode, DefaultDelivery)
	groups := false
	for _, e := range v.Settings.Exceptions {
		v.by[e.Source] = e
		groups = groups || e.Target == TargetGroup
	}
	if !groups {
		return v
	}
	for _, src := range in.Sources {
		if _, named := v.Names[src.ID]; !named || src.ID.Kind != authz.ProjectSource {
			continue
		}
		if home := v.home(src.ID.ID); home.Kind == authz.GroupSource {
			v.into[home.ID] = append(v.into[home.ID], src.ID.ID)
			v.ReadOnly[src.ID.ID] = src.ReadOnly
		}
	}
	for _, list := range v.into {
		slices.Sort(list)
	}
	return v
}

// Mode returns how a source gets its credentials.
func (v *Deliveries) Delivery(id authz.SourceID) (mode Delivery) {
	if len(v.by) > 0 {
		for at := range v.snap.Up(id) {
			mode = cmp.Or(mode, v.by[at].Mode)
		}
	}
	return cmp.Or(mode, v.Settings.Mode)
}

// Explains reports whether jobs of a source without credentials are told why, as far as its delivery has that.
func (v *Deliveries) Explains(id authz.SourceID) bool {
	return v.nearest(id, v.Settings.Explain, func(e CIException) *bool { return e.Explain })
}

// TokenInFile reports whether KUBECONFIG of a source's jobs holds the token.
func (v *Deliveries) TokenInFile(id authz.SourceID) bool {
	return v.nearest(id, v.Settings.TokenInFile, func(e CIException) *bool { return e.TokenInFile })
}

// nearest returns what the nearest exception says, else what holds for all.
func (v *Deliveries) nearest(id authz.SourceID, all bool, says func(CIException) *bool) bool {
	if len(v.by) > 0 {
		for at := range v.snap.Up(id) {
			if s := says(v.by[at]); s != nil {
				return *s
			}
		}
	}
	return all
}

// home returns the source whose namespace a project deploys into.
func (v *Deliveries) home(project int64) authz.SourceID {
	group := authz.GroupID(v.snap.Projects[project].Group)
	if v.by[authz.ProjectID(project)].Target == TargetGroup && group.ID != 0 && v.Names[group] != "" {
		return group
	}
	return authz.ProjectID(project)
}

// Into returns the namespace that a project deploys into, "" if there is none.
func (v *Deliveries) Into(project int64) string { return v.Names[v.home(project)] }

// Shares reports whether one of these sources deploys into the namespace of another one, or has others deploy into its.
func (s CISettings) Shares(snap *authz.Snapshot, names map[authz.SourceID]string, among map[authz.SourceID]bool) bool {
	if !slices.ContainsFunc(s.Exceptions, func(e CIException) bool { return e.Target == TargetGroup }) {
		return false
	}
	v := NewDeliveries(&Input{Snapshot: snap, Names: names, Settings: Settings{CI: s}})
	for id, p := range snap.Projects {
		if (among[authz.ProjectID(id)] || among[authz.GroupID(p.Group)]) && v.home(id) != authz.ProjectID(id) {
			return true
		}
	}
	return false
}

// Deploying returns the projects that deploy into the namespace of a source.
func (v *Deliveries) Deploying(id authz.SourceID) []int64 {
	switch id.Kind {
	case authz.ProjectSource:
		if v.home(id.ID) == id {
			return []int64{id.ID}
		}
	case authz.GroupSource:
		return v.into[id.ID]
	case authz.UserSource: // nobody deploys there
	}
	return nil
}

// Subject returns by what a project's jobs get their rights in its mode, besides the ServiceAccount; false when there is
// nothing, or when it is not known yet.
func (v *Deliveries) Subject(ns string, project int64, mode Delivery) (rbacv1.Subject, bool) {
	switch mode {
	case DeliverIDToken:
		return userSubject(kubename.CIJob(project)), true
	case DeliverAgent:
		if st := v.status.Of(ns, project); st.Slug != "" && !st.Refused {
			group, ok := kubename.JobEnvironment(project, st.Slug)
			return rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: group}, ok
		}
	case DeliverVariables, DeliverCertificate, DeliverNone:
	}
	return rbacv1.Subject{}, false
}

// binding is what the CI binding of a namespace should say. A subject of a mode before stays as long as jobs run that
// got their credentials in it: it is never added, only kept.
func (v *Deliveries) binding(src authz.Source, ns string) *Binding {
	b := &Binding{Role: kubename.CIClusterRole}
	if src.ReadOnly {
		return b
	}
	b.Others = []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: ns, Name: kubename.CIServiceAccount}}
	for _, id := range v.Deploying(src.ID) {
		if v.ReadOnly[id] {
			continue
		}
		mode := v.Delivery(authz.ProjectID(id))
		want, ok := v.Subject(ns, id, mode)
		if ok {
			b.Others = append(b.Others, want)
		}
		st := v.status.Of(ns, id)
		if st.Settled && st.Delivery == mode && st.Known {
			continue
		}
		for _, s := range v.live[ns] {
			project, viaAgent := jobsOf(s)
			if project == id && s != want && (!viaAgent || !st.Refused) {
				b.Others = append(b.Others, s)
			}
		}
	}
	sortSubjects(b.Others)
	return b
}

// jobsOf returns the project whose jobs a subject stands for, 0 for any other subject.
func jobsOf(s rbacv1.Subject) (project int64, viaAgent bool) {
	switch {
	case s.Kind == rbacv1.UserKind && s == userSubject(s.Name):
		project, _ = kubename.ParseCIJob(s.Name)
	case s == rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: s.Name}:
		project, _, viaAgent = kubename.ParseJobEnvironment(s.Name)
	}
	return project, viaAgent
}

// Findings tells which exceptions name something that is not there, or that has another path.
func (v *Deliveries) Findings() []authz.Finding {
	var out []authz.Finding
	for _, e := range v.Settings.Exceptions {
		if v.snap.MissingAll != "" || v.snap.Missing[e.Source] != "" {
			continue
		}
		path, ok := v.snap.Path(e.Source)
		switch {
		case !ok:
			out = append(out, authz.Finding{Code: "ci_exception_unknown", Source: e.Source, Text: fmt.Sprintf("ci.projects names %s, which GitLab does not have: it says nothing", e.Source)})
		case e.Path != "" && e.Path != path:
			out = append(out, authz.Finding{Code: "ci_exception_path", Source: e.Source, Text: fmt.Sprintf(
				"ci.projects says that %s is %q, in GitLab it is %q: the id counts; correct the path, or the id if it is the wrong one", e.Source, Printable(e.Path), Printable(path))})
		}
	}
	return out
}

// DeliverySubjects returns the subjects of the CI bindings that name more than the ServiceAccount.
func DeliverySubjects(have *Observed) map[string][]rbacv1.Subject {
	out := map[string][]rbacv1.Subject{}
	for _, l := range have.Live {
		if l.Binding != nil && l.Key.Name == kubename.CIRoleBinding && len(l.Binding.Others) > 1 {
			out[l.Key.Namespace] = l.Binding.Others
		}
	}
	return out
}

// JobsIn returns the projects whose jobs CI bindings give rights by their ID tokens, each with the namespace. Beside those
// whose delivery is that, they are those that had it before, as long as jobs of that time may run.
func JobsIn(objects []Object) map[int64]string {
	out := map[int64]string{}
	for i := range objects {
		o := &objects[i]
		if o.Binding == nil || o.Key.Name != kubename.CIRoleBinding {
			continue
		}
		for _, s := range o.Binding.Others {
			if project, viaAgent := jobsOf(s); project != 0 && !viaAgent {
				out[project] = o.Key.Namespace
			}
		}
	}
	return out
}

// Modes returns how the jobs of each project get their credentials, for those of these sources whose jobs have rights.
func (s CISettings) Modes(snap *authz.Snapshot, sources []authz.Source) map[int64]Delivery {
	v := NewDeliveries(&Input{Snapshot: snap, Settings: Settings{CI: s}})
	out := map[int64]Delivery{}
	for _, src := range sources {
		if src.ID.Kind == authz.ProjectSource && !src.ReadOnly {
			out[src.ID.ID] = v.Delivery(src.ID)
		}
	}
	return out
}

// ProjectsIn returns the projects of these sources whose jobs get their credentials in a mode.
func (s CISettings) ProjectsIn(mode Delivery, snap *authz.Snapshot, sources []authz.Source) []authz.Project {
	modes := s.Modes(snap, sources)
	var out []authz.Project
	for _, src := range sources {
		if src.ID.Kind == authz.ProjectSource && modes[src.ID.ID] == mode {
			out = append(out, snap.Projects[src.ID.ID])
		}
	}
	return out
}
