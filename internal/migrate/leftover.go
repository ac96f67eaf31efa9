package migrate

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Leftover is an object of an origin, in a namespace that is or will be ours. It is left as it is.
type Leftover struct {
	Namespace string   `json:"namespace"`
	Kind      string   `json:"kind"`
	Name      string   `json:"name"`
	From      Origin   `json:"from"`
	Role      string   `json:"role,omitempty"`   // what a binding gives
	To        string   `json:"to,omitempty"`     // whom
	Person    bool     `json:"person,omitempty"` // that is a user name
	Now       []string `json:"now,omitempty"`    // what GitLab gives them there now, by the configuration
	InTheWay  bool     `json:"inTheWay,omitempty"`
}

// objects are the ServiceAccounts and RoleBindings of others by namespace.
type objects struct {
	accounts map[string]map[string]bool
	bindings map[string][]*rbacv1.RoleBinding
}

func newObjects(in *Input) objects {
	o := objects{map[string]map[string]bool{}, map[string][]*rbacv1.RoleBinding{}}
	for i := range in.Accounts {
		a := &in.Accounts[i]
		if a.Labels[kubename.LabelManagedBy] == kubename.ManagedBy {
			continue
		}
		if o.accounts[a.Namespace] == nil {
			o.accounts[a.Namespace] = map[string]bool{}
		}
		o.accounts[a.Namespace][a.Name] = true
	}
	for i := range in.Bindings {
		if b := &in.Bindings[i]; b.Labels[kubename.LabelManagedBy] != kubename.ManagedBy {
			o.bindings[b.Namespace] = append(o.bindings[b.Namespace], b)
		}
	}
	return o
}

// certificate reports whether GitLab's certificate integration has made a namespace, or somebody wants it to look so.
func (o objects) certificate(ns *corev1.Namespace) bool {
	_, labelled := ns.Labels[LabelApp]
	return labelled || o.accounts[ns.Name][certificateAccount(ns.Name)] && slices.ContainsFunc(o.bindings[ns.Name], func(b *rbacv1.RoleBinding) bool {
		return b.Name == certificateBinding(ns.Name)
	})
}

// inventory is what was read, by what it is looked up by.
type inventory struct {
	in      Input
	paths   paths
	objects objects
	at      map[string]*corev1.Namespace
}

// leftovers lists what is left of the origins in these namespaces.
func (p *inventory) leftovers(covered map[string]authz.SourceID) (out []Leftover) {
	given := p.given(covered)
	for ns, source := range covered {
		add := func(l Leftover) {
			l.Namespace = ns
			kind := map[string]rbacsync.Kind{"ServiceAccount": rbacsync.KindServiceAccount, "RoleBinding": rbacsync.KindRoleBinding}
			if k, ok := kind[l.Kind]; ok {
				l.InTheWay = p.in.Foreign[rbacsync.Key{Namespace: ns, Kind: k, Name: l.Name}]
			}
			out = append(out, l)
		}
		for _, b := range p.objects.bindings[ns] {
			if from := p.bindingOf(ns, b); from != "" {
				l := Leftover{Kind: "RoleBinding", Name: b.Name, From: from, Role: b.RoleRef.Name}
				if len(b.Subjects) == 1 {
					l.To, l.Person = b.Subjects[0].Name, b.Subjects[0].Kind == rbacv1.UserKind
					if id, ok := p.paths.byUsername[strings.ToLower(l.To)]; ok && l.Person {
						l.Now = given[rbacsync.Membership{Source: source, User: id}]
					}
				}
				add(l)
				if role := certificateBindings[b.Name]; role != "" {
					add(Leftover{Kind: "Role", Name: role, From: from})
				}
			}
		}
		for name := range p.objects.accounts[ns] {
			switch {
			case p.made2018(ns) && (name == p.account() || name == netAdminAccount):
				add(Leftover{Kind: "ServiceAccount", Name: name, From: Integrator2018})
			case name == certificateAccount(ns) && p.boundByGitLab(ns): // a tenant may have called their own so
				add(Leftover{Kind: "ServiceAccount", Name: name, From: Certificate})
			}
		}
	}
	slices.SortFunc(out, func(a, b Leftover) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Kind, b.Kind), strings.Compare(a.Name, b.Name))
	})
	return out
}

// boundByGitLab reports whether a namespace has the binding that the certificate integration gave its ServiceAccount.
func (p *inventory) boundByGitLab(ns string) bool {
	return slices.ContainsFunc(p.objects.bindings[ns], func(b *rbacv1.RoleBinding) bool {
		return b.Name == certificateBinding(ns) && slices.ContainsFunc(b.Subjects, func(s rbacv1.Subject) bool {
			return s.Kind == rbacv1.ServiceAccountKind && s.Name == certificateAccount(ns)
		})
	})
}

func (p *inventory) account() string { return cmp.Or(p.in.Account, AccountName) }

func (p *inventory) made2018(ns string) bool {
	x := p.at[ns]
	if x == nil {
		return false
	}
	_, ok := x.Labels[LabelOrigin]
	return ok
}

// bindingOf says which origin made a RoleBinding, by the rule for its name; "" if none did.
func (p *inventory) bindingOf(ns string, b *rbacv1.RoleBinding) Origin {
	if b.Name == certificateBinding(ns) && len(b.Subjects) == 1 && b.Subjects[0].Name == certificateAccount(ns) {
		return Certificate
	}
	if role := certificateBindings[b.Name]; role != "" && b.RoleRef.Name == role {
		return Certificate
	}
	if !p.made2018(ns) || len(b.Subjects) != 1 || b.RoleRef.Kind != "ClusterRole" {
		return ""
	}
	s := b.Subjects[0]
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		if b.Name == p.account() && s.Name == p.account() || b.Name == netAdminBinding {
			return Integrator2018
		}
	case rbacv1.UserKind: // username-role-namespace
		plain := counterAtEnd.ReplaceAllString(ns, "")
		spelled, _ := OldName(s.Name)
		for _, user := range []string{s.Name, spelled} {
			for _, name := range []string{ns, plain} {
				if b.Name == user+"-"+b.RoleRef.Name+"-"+name {
					return Integrator2018
				}
			}
		}
	}
	return ""
}

var counterAtEnd = regexp.MustCompile(`(-[0-9]{1,3})+$`)

// given returns the ClusterRoles that people get in these namespaces.
func (p *inventory) given(covered map[string]authz.SourceID) map[rbacsync.Membership][]string {
	var sources []authz.Source
	for _, id := range covered {
		if src, ok := p.in.Policy.Source(p.in.Snapshot, id); ok {
			sources = append(sources, src)
		}
	}
	return given(p.in.Policy, p.in.Snapshot, sources, p.in.Now)
}

// given returns the ClusterRoles that a policy gives to people in these sources.
func given(policy authz.Policy, s *authz.Snapshot, sources []authz.Source, now time.Time) map[rbacsync.Membership][]string {
	out := map[rbacsync.Membership][]string{}
	grants, _ := policy.Grants(s, sources, now)
	for _, g := range grants {
		for _, u := range g.Users {
			m := rbacsync.Membership{Source: g.Source, User: u}
			out[m] = append(out[m], g.ClusterRole)
		}
	}
	return out
}

// Remove returns the commands that delete leftovers: in each namespace those of one kind together.
func Remove(list []Leftover) (out []string) {
	for i := 0; i < len(list); {
		ns, kind := list[i].Namespace, list[i].Kind
		var names []string
		dash := false
		for ; i < len(list) && list[i].Namespace == ns && list[i].Kind == kind; i++ {
			if name := list[i].Name; rbacsync.Printable(name) == name && !strings.ContainsAny(name, "\n") {
				names = append(names, quoted(name))
				dash = dash || name[0] == '-'
			}
		}
		if len(names) == 0 {
			continue
		}
		line := fmt.Sprintf("kubectl --namespace %s delete --ignore-not-found %s ", quoted(ns), strings.ToLower(kind))
		if dash {
			line += "-- "
		}
		out = append(out, line+strings.Join(names, " "))
	}
	return out
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9._:@%+=/-]+$`)

// quoted writes a word for a shell. Names of RoleBindings may be anything, and people will run the line as administrators.
func quoted(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
