package explain

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Who is everybody with a right in a namespace.
type Who struct {
	Namespace string `json:"namespace"`
	Source    string `json:"source,omitempty"` // empty: it belongs to nothing in GitLab
	Path      string `json:"path,omitempty"`
	Basis
	People        []Holder `json:"people"`           // by GitLab
	Others        []Other  `json:"others,omitempty"` // by RoleBindings, whatever GitLab gives
	BindingsError string   `json:"bindingsError,omitempty"`
}

// Holder is a person to whom GitLab gives a right there.
type Holder struct {
	UserID       int64         `json:"userID"`
	Username     string        `json:"username"`
	ClusterRoles []string      `json:"clusterRoles"` // strongest first
	Trail        authz.Trail   `json:"trail"`
	Lacks        []string      `json:"lacks,omitempty"`  // of ClusterRoles those that are not in the cluster
	Absent       authz.Absence `json:"absent,omitempty"` // why none of them is there
	// Bound says that RoleBindings have them in it, in all roles that are not lacking.
	Bound bool `json:"bound"`
}

// Other is a subject of a RoleBinding that GitLab does not give the role.
type Other struct {
	Binding string `json:"binding"`
	Role    string `json:"role"` // "ClusterRole view"
	Subject string `json:"subject"`
	Ours    bool   `json:"ours"` // this program wrote the binding
	Why     string `json:"why,omitempty"`
}

// NewWho joins those to whom GitLab gives a right in a namespace with its RoleBindings.
func NewWho(v authz.View, ns string, now time.Time, on Basis, live Live) Who {
	w := Who{Namespace: ns, Basis: on, People: []Holder{}, BindingsError: live.Error}
	id, managed := v.Source[ns]
	if managed {
		w.Source = id.String()
		w.Path, _ = v.Snapshot.Path(id)
	}
	gives := map[string]bool{}
	key := func(user int64, role string) string { return kubename.User(user) + " " + role }
	has := bound(live.Bindings)
	for _, h := range v.Who(ns, now) {
		x := Holder{UserID: h.User.ID, Username: h.User.Username, ClusterRoles: h.ClusterRoles, Trail: h.Trail, Lacks: h.Lacks, Absent: h.Absent, Bound: true}
		for _, role := range h.ClusterRoles {
			gives[key(h.User.ID, role)] = true
			if !slices.Contains(h.Lacks, role) || h.Absent == authz.AbsentUnknown {
				x.Bound = x.Bound && has[key(h.User.ID, role)]
			}
		}
		x.Bound = x.Bound && (h.Absent == "" || h.Absent == authz.AbsentUnknown)
		w.People = append(w.People, x)
	}
	kept := map[string]string{}
	for _, k := range v.Gaps()[id].Keeps {
		for _, u := range k.Users {
			kept[key(u, k.ClusterRole)] = k.Why.Stays()
		}
	}
	for i := range live.Bindings {
		b := &live.Bindings[i]
		for _, s := range b.Subjects {
			if s.Kind == rbacv1.UserKind && ours(b) && gives[s.Name+" "+b.RoleRef.Name] {
				continue
			}
			o := Other{Binding: b.Name, Role: b.RoleRef.Kind + " " + b.RoleRef.Name, Ours: ours(b), Subject: subject(v, s), Why: why(b, kept[s.Name+" "+b.RoleRef.Name])}
			w.Others = append(w.Others, o)
		}
	}
	slices.SortFunc(w.Others, func(a, b Other) int {
		return cmp.Or(cmp.Compare(a.Binding, b.Binding), cmp.Compare(a.Subject, b.Subject))
	})
	return w
}

// bound returns who is in which role by a RoleBinding of this program, as "gitlab:42 view".
func bound(bindings []rbacv1.RoleBinding) map[string]bool {
	has := map[string]bool{}
	for i := range bindings {
		b := &bindings[i]
		for _, s := range b.Subjects {
			if s.Kind == rbacv1.UserKind && ours(b) {
				has[s.Name+" "+b.RoleRef.Name] = true
			}
		}
	}
	return has
}

// subject names a subject of a RoleBinding, with the user name of a person.
func subject(v authz.View, s rbacv1.Subject) string {
	if user, ok := kubename.ParseUser(s.Name); ok && s.Kind == rbacv1.UserKind {
		return rbacsync.UserText(user, v.Snapshot.Users)
	}
	name := s.Name
	if s.Namespace != "" {
		name = s.Namespace + "/" + name
	}
	return s.Kind + " " + rbacsync.Printable(name)
}

// why says what a subject is to whom GitLab does not give the role.
func why(b *rbacv1.RoleBinding, kept string) string {
	switch {
	case !ours(b):
		return "the binding is not from GitLab"
	case b.Name == kubename.CIRoleBinding:
		return "CI jobs that deploy here"
	case kept != "":
		return "GitLab does not give it: " + kept
	}
	return "GitLab does not give it"
}

// Text is the list for people.
func (w *Who) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s by GitLab, as it was read at %s (rbacsync.mode %s)\n", place(w.Namespace, w.Source, w.Path), counted(len(w.People), "person", "people"), w.when(), w.Mode)
	if w.Source == "" {
		b.WriteString("It belongs to no group, project or person in GitLab that is known here.\n")
	}
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, h := range w.People {
		fmt.Fprintf(t, "  %s\t%s\t%s%s\n", person(h.UserID, h.Username), strings.Join(h.ClusterRoles, ", "), h.Trail.Text, h.missing())
	}
	_ = t.Flush() // to a strings.Builder
	if w.BindingsError != "" {
		fmt.Fprintf(&b, "The RoleBindings could not be read: %s\n", w.BindingsError)
	}
	if len(w.Others) > 0 {
		b.WriteString("Besides these, RoleBindings there have\n")
	}
	t = tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, o := range w.Others {
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\n", o.Subject, o.Role, o.Binding, o.Why)
	}
	_ = t.Flush()
	return b.String()
}

// missing says what of the rights is not in the cluster.
func (h *Holder) missing() string {
	switch {
	case h.Absent != "" && h.Absent != authz.AbsentUnknown:
		return fmt.Sprintf("; not in the cluster (%s)", h.Absent)
	case h.Absent == "" && len(h.Lacks) > 0:
		return fmt.Sprintf("; not in the cluster: %s", strings.Join(h.Lacks, ", "))
	case !h.Bound:
		return "; no RoleBinding has them in it"
	}
	return ""
}

func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
