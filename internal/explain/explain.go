// Package explain joins, for administrators, what GitLab gives somebody in a namespace with the RoleBindings there and with
// kube-apiserver's own verdict, and says where they differ and why. It computes from values: who asks the cluster hands it what
// was found.
package explain

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Groups are the Kubernetes groups of everybody who logs in through GitLab.
func Groups() []string { return []string{kubename.GroupUsers, "system:authenticated"} }

// Basis is what a Report is made on.
type Basis struct {
	Read time.Time `json:"gitlabRead"` // when what is known of GitLab was read
	Mode string    `json:"mode"`       // rbacsync.mode
}

func (b Basis) when() string { return b.Read.UTC().Format(time.RFC3339) }

// Live is what the cluster holds of one namespace, and what it says.
type Live struct {
	Bindings []rbacv1.RoleBinding
	Error    string // why Bindings are not known
	// Rules returns what a role allows; known is false if it could not be read. One that does not exist allows nothing.
	Rules func(ref rbacv1.RoleRef) (rules []authz.Rule, known bool)
	Asked *Asked // nil: it was not asked
}

// Asked is what kube-apiserver says to a SubjectAccessReview.
type Asked struct {
	Allowed authz.Verdict `json:"allowed"` // unknown: Error says why
	Reason  string        `json:"reason,omitempty"`
	Error   string        `json:"error,omitempty"`
}

// Binding is a RoleBinding that names somebody, or one of their groups.
type Binding struct {
	Name    string        `json:"name"`
	Role    string        `json:"role"` // "ClusterRole view"
	Ours    bool          `json:"ours"` // this program wrote it
	Subject string        `json:"subject"`
	Allows  authz.Verdict `json:"allows"` // the request
}

// Report is all that is known of one request.
type Report struct {
	authz.Explanation
	Basis
	Bindings      []Binding `json:"bindings,omitempty"`
	BindingsError string    `json:"bindingsError,omitempty"`
	Asked         *Asked    `json:"apiServer,omitempty"`
	// Differs says where what is known here is not what the cluster has or says, and why that can be.
	Differs []string `json:"differs,omitempty"`
}

// New joins an Explanation of a question with what the cluster holds and says.
func New(e authz.Explanation, q authz.Question, on Basis, live Live) Report {
	r := Report{Explanation: e, Basis: on, BindingsError: live.Error, Asked: live.Asked}
	for i := range live.Bindings {
		b := &live.Bindings[i]
		s, ok := subjectOf(b, e.UserID)
		if !ok {
			continue
		}
		r.Bindings = append(r.Bindings, Binding{
			Name: b.Name, Role: b.RoleRef.Kind + " " + b.RoleRef.Name, Ours: ours(b), Subject: s.Kind + " " + s.Name, Allows: allows(live.Rules, b.RoleRef, q),
		})
	}
	slices.SortFunc(r.Bindings, func(a, b Binding) int { return cmp.Compare(a.Name, b.Name) })
	r.compareBindings()
	r.compareVerdicts()
	return r
}

func ours(b *rbacv1.RoleBinding) bool {
	return b.Labels[kubename.LabelManagedBy] == kubename.ManagedBy
}

// subjectOf returns by which subject somebody is in a binding.
func subjectOf(b *rbacv1.RoleBinding, user int64) (rbacv1.Subject, bool) {
	for _, s := range b.Subjects {
		if (s.Kind == rbacv1.UserKind && s.Name == kubename.User(user)) || (s.Kind == rbacv1.GroupKind && slices.Contains(Groups(), s.Name)) {
			return s, true
		}
	}
	return rbacv1.Subject{}, false
}

// allows returns whether a role allows a request. Without a verb any role is a right.
func allows(rules func(rbacv1.RoleRef) ([]authz.Rule, bool), ref rbacv1.RoleRef, q authz.Question) authz.Verdict {
	list, known := rules(ref)
	switch {
	case !known:
		return authz.Unknown
	case q.Verb == "" && len(list) > 0, slices.ContainsFunc(list, func(r authz.Rule) bool { return r.Allows(q) }):
		return authz.Yes
	}
	return authz.No
}

// ByBindings is whether the RoleBindings of the namespace allow the request.
func (r *Report) ByBindings() authz.Verdict {
	out := authz.No
	if r.BindingsError != "" {
		out = authz.Unknown
	}
	for _, b := range r.Bindings {
		out = max(out, b.Allows)
	}
	return out
}

func (r *Report) differs(format string, args ...any) {
	r.Differs = append(r.Differs, fmt.Sprintf(format, args...))
}

// compareBindings compares what should be in the cluster with the bindings that are.
func (r *Report) compareBindings() {
	if r.BindingsError != "" {
		r.differs("the RoleBindings could not be read: %s", r.BindingsError)
		return
	}
	bound := func(role string) bool {
		return slices.ContainsFunc(r.Bindings, func(b Binding) bool { return b.Ours && b.Role == "ClusterRole "+role })
	}
	for _, g := range r.Roles {
		switch has := bound(g.ClusterRole); {
		case !has && g.Absent == "":
			r.differs("GitLab gives ClusterRole %s, and no RoleBinding of the integrator has them in it: somebody changed it, or it was written after GitLab was read at %s; %s", g.ClusterRole, r.when(), r.next("puts it back"))
		case has && g.Absent == authz.AbsentUnknown, !has:
		case g.Absent != "":
			r.differs("ClusterRole %s is in the cluster by now: the leader's last word on it is of before", g.ClusterRole)
		}
	}
	for _, b := range r.Bindings {
		named := func(g authz.GivenRole) bool { return b.Role == "ClusterRole "+g.ClusterRole }
		if b.Ours && !slices.ContainsFunc(r.Roles, named) && !slices.ContainsFunc(r.Kept, named) {
			r.differs("RoleBinding %s of the integrator has them in it, and GitLab gives them no %s: %s", b.Name, b.Role, r.next("takes it away, or holds that back (`gl-k8s-integrator plan --held`)"))
		}
	}
	for _, k := range r.Kept {
		if !bound(k.ClusterRole) {
			r.differs("ClusterRole %s, which GitLab does not give, is not in the cluster any more: the leader's last word on it is of before", k.ClusterRole)
		}
	}
}

// next says what the next round does.
func (r *Report) next(does string) string {
	if r.Mode == "plan" {
		return "in mode plan nobody changes that"
	}
	return "the next round " + does
}

// compareVerdicts compares the verdict by what is known here with that of kube-apiserver.
func (r *Report) compareVerdicts() {
	a := r.Asked
	switch {
	case a == nil:
	case a.Allowed == authz.Unknown:
		r.differs("kube-apiserver's own verdict is not known: %s", a.Error)
	case r.Allowed == authz.Unknown:
		r.differs("whether it is allowed is not known here, because the rules of a ClusterRole or what the cluster holds were not read: kube-apiserver's verdict counts")
	case a.Allowed == r.Allowed:
	case a.Allowed == authz.Yes:
		r.differs("kube-apiserver allows it, and by what is known of GitLab it is not given: %s", r.whyAllowed())
	case r.ByBindings() == authz.Yes:
		r.differs("kube-apiserver refuses it, and a RoleBinding gives it: the binding was written in this moment, or another authorizer denies it (%s)", cmp.Or(rbacsync.Printable(a.Reason), "no reason was given"))
	default:
		r.differs("kube-apiserver refuses it, because the RoleBinding is not there: %s", r.next("puts it back"))
	}
}

// whyAllowed says which right that does not come from GitLab allows the request.
func (r *Report) whyAllowed() string {
	for _, b := range r.Bindings {
		switch {
		case b.Allows != authz.Yes:
		case b.Ours:
			return fmt.Sprintf("RoleBinding %s still has them in it", b.Name)
		default:
			return fmt.Sprintf("RoleBinding %s, which is not from GitLab, gives it to %s", b.Name, b.Subject)
		}
	}
	return "a right in the whole cluster (ClusterRoleBinding), or another authorizer than RBAC: " + cmp.Or(rbacsync.Printable(r.Asked.Reason), "no reason was given")
}
