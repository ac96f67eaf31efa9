package rbacsync

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// Who loses the right to change a namespace may leave something there that goes on acting for them: a ServiceAccount
// with a role, pods that run as it. The loss is noted on our RoleBinding by the same write that takes the right away, so
// that it outlives this process; what was left is looked for afterwards, beside the rounds (docs/adr/0098).

const (
	// LeftAfter is how long after a loss a binding that is made still counts as left behind: a token of a ServiceAccount,
	// made before the loss, can make it, and tenants' tokens live no longer (deploy/manifests/30-tenant-fence.yaml).
	LeftAfter = 24 * time.Hour
	maxLosers = 20  // ids that are noted of a loss
	MaxLeft   = 200 // namespaces that are looked at in one go
	MaxNamed  = 10  // bindings, and pods, that a finding names
	LookFor   = 30 * time.Second
)

// Loss is who could change a namespace and can't any more.
type Loss struct {
	At    time.Time // when the last of them lost it, in whole seconds
	Users []int64   // the last maxLosers of them, the latest at the end
}

// String returns the form in which a loss is noted: "2026-11-28T08:40:00Z 7,9".
func (l Loss) String() string {
	ids := make([]string, len(l.Users))
	for i, id := range l.Users {
		ids[i] = strconv.FormatInt(id, 10)
	}
	return l.At.UTC().Format(time.RFC3339) + " " + strings.Join(ids, ",")
}

// parseLoss reads what String returned. What cannot be read is no loss: only administrators can write there.
func parseLoss(s string) (Loss, bool) {
	at, ids, _ := strings.Cut(s, " ")
	t, err := time.Parse(time.RFC3339, at)
	if err != nil {
		return Loss{}, false
	}
	l := Loss{At: t}
	for id := range strings.SplitSeq(ids, ",") {
		n, err := strconv.ParseInt(id, 10, 64)
		if err != nil {
			return Loss{}, false
		}
		l.Users = append(l.Users, n)
	}
	return l, true
}

// and returns both losses as one.
func (l Loss) and(o Loss) Loss {
	if o.At.Before(l.At) {
		l, o = o, l
	}
	users := slices.DeleteFunc(slices.Clone(l.Users), func(id int64) bool { return slices.Contains(o.Users, id) })
	users = append(users, o.Users...)
	return Loss{o.At, users[max(0, len(users)-maxLosers):]}
}

// WeakRoles returns the roles with which nobody changes anything: those that only levels below Maintainer have.
func WeakRoles(p authz.Policy) map[string]bool {
	return RolesWithout(p, &authz.Snapshot{}, authz.SourceID{}, authz.Maintainer, authz.Owner)
}

// RolesWithout returns the base roles that none of these levels has in a source.
func RolesWithout(p authz.Policy, snap *authz.Snapshot, id authz.SourceID, levels ...authz.Level) map[string]bool {
	out := map[string]bool{}
	for _, role := range p.BaseRoles() {
		out[role] = true
	}
	for _, l := range levels {
		delete(out, p.RoleIn(snap, id, l))
	}
	return out
}

// strongIn returns who has another role than a weak one by these bindings.
func strongIn(objects []Object, weak map[string]bool) map[int64]bool {
	strong := map[int64]bool{}
	for i := range objects {
		if b := objects[i].Binding; b != nil && !weak[b.Role] {
			for _, id := range b.Users {
				strong[id] = true
			}
		}
	}
	return strong
}

// NoteLosses adds to the changes of bindings who loses by them the right to change the namespace, and keeps what was
// noted before. It changes nothing that plan and want share.
func NoteLosses(plan []Change, want *Wanted, weak map[string]bool, now time.Time) {
	strong := map[string]map[int64]bool{} // by namespace
	for i := range plan {
		c := &plan[i]
		if c.Old == nil || c.New == nil || c.Old.Binding == nil || c.New.Binding == nil {
			continue
		}
		note := c.Old.Binding.Loss
		if !weak[c.Old.Binding.Role] {
			ns := c.Key.Namespace
			if strong[ns] == nil {
				strong[ns] = strongIn(want.Inside(ns), weak)
			}
			lost := slices.DeleteFunc(slices.Clone(c.Old.Binding.Users), func(id int64) bool { return strong[ns][id] })
			if len(lost) > 0 {
				before, _ := parseLoss(note)
				note = before.and(Loss{now.Truncate(time.Second), lost}).String()
			}
		}
		if note != "" {
			o, b := *c.New, *c.New.Binding
			b.Loss, o.Binding, c.New = note, &b, &o
		}
	}
}

// LostNamespace is a namespace in which somebody lost the right to change it, and did not get it back.
type LostNamespace struct {
	Name   string
	Source authz.SourceID
	Loss   Loss
	Who    string // the people, for a finding
	Weak   map[string]bool
}

// LostNamespaces lists those among the bindings in live.
func LostNamespaces(live []*Live, want *Wanted, weak map[string]bool) map[string]LostNamespace {
	sources, losses := map[string]authz.SourceID{}, map[string]Loss{}
	for _, l := range live {
		if l.Namespace != nil && l.Namespace.Issuer == want.Issuer {
			sources[l.Key.Name] = l.Namespace.Source
		}
		if l.Binding == nil || l.Binding.Loss == "" {
			continue
		}
		if noted, ok := parseLoss(l.Binding.Loss); ok {
			losses[l.Key.Namespace] = losses[l.Key.Namespace].and(noted)
		}
	}
	bound := map[string][]Object{} // as it is, where it is not known what should be
	for _, l := range live {
		ns := l.Key.Namespace
		if _, noted := losses[ns]; noted && (want.Hold != "" || want.Untouchable[sources[ns]] != "") {
			bound[ns] = append(bound[ns], l.Object)
		}
	}
	out := map[string]LostNamespace{}
	for ns, l := range losses {
		source, ours := sources[ns]
		objects, unknown := bound[ns]
		if !unknown {
			objects = want.Inside(ns)
		}
		strong := strongIn(objects, weak)
		l.Users = slices.DeleteFunc(l.Users, func(id int64) bool { return strong[id] })
		if ours && len(l.Users) > 0 {
			out[ns] = LostNamespace{ns, source, l, userNames(l.Users, want.Users), weak}
		}
	}
	return out
}

// userNames names the last five of them.
func userNames(ids []int64, users map[int64]authz.User) string {
	var names []string
	for _, id := range ids[max(0, len(ids)-5):] {
		names = append(names, UserText(id, users))
	}
	if more := len(ids) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return strings.Join(names, ", ")
}

// actors returns the ServiceAccounts of the namespace that a binding of somebody else's gives more than a weak role.
// The account of CI jobs is not among them: what its token may do does not depend on who left, and the token is replaced.
func (s *LostNamespace) actors(rb *rbacv1.RoleBinding) []string {
	if rb.DeletionTimestamp != nil || rb.CreationTimestamp.After(s.Loss.At.Add(LeftAfter)) ||
		rb.Labels[kubename.LabelManagedBy] == kubename.ManagedBy || s.Weak[BindingOf(rb.RoleRef, nil, "").Role] {
		return nil
	}
	var names []string
	for _, sub := range rb.Subjects {
		if sub.Kind == rbacv1.ServiceAccountKind && sub.Namespace == s.Name && sub.Name != kubename.CIServiceAccount {
			names = append(names, sub.Name)
		}
	}
	return names
}

// Accounts returns the ServiceAccounts whose pods act for whoever left: that of CI jobs, whose pods the fence refuses
// and which are from before it, and those of the bindings that were left.
func (s *LostNamespace) Accounts(bindings []rbacv1.RoleBinding) []string {
	var names []string
	for i := range bindings {
		names = append(names, s.actors(&bindings[i])...)
	}
	slices.Sort(names)
	return append([]string{kubename.CIServiceAccount}, slices.Compact(names)...)
}

// LeftBehind returns what is left in a namespace of those who lost the right to change it; nil: nothing. It is pure.
// Pods count however old they are: a controller makes them anew.
func LeftBehind(s *LostNamespace, bindings []rbacv1.RoleBinding, pods []corev1.Pod) *authz.Finding {
	var bound, run []string
	for i := range bindings {
		rb := &bindings[i]
		if names := s.actors(rb); len(names) > 0 {
			bound = append(bound, fmt.Sprintf("%s (%s for %s)", rb.Name, BindingOf(rb.RoleRef, nil, "").Role, named(names, 3)))
		}
	}
	accounts := s.Accounts(bindings)
	for i := range pods {
		if account := pods[i].Spec.ServiceAccountName; slices.Contains(accounts, account) {
			run = append(run, fmt.Sprintf("%s (as %s)", pods[i].Name, account))
		}
	}
	if len(bound)+len(run) == 0 {
		return nil
	}
	slices.Sort(bound)
	slices.Sort(run)
	var what []string
	if len(bound) > 0 {
		what = append(what, "RoleBindings of ServiceAccounts: "+named(bound, MaxNamed))
	}
	if len(run) > 0 {
		what = append(what, "pods: "+named(run, MaxNamed))
	}
	return &authz.Finding{Code: "left_behind", Source: s.Source, Text: fmt.Sprintf(
		"in namespace %s, where %s lost the right to change things (the last at %s), there still are %s; Secrets with tokens can't be listed by this program: see docs/leaving.md for how to end it, or to say that it is wanted",
		s.Name, s.Who, s.Loss.At.UTC().Format(time.RFC3339), strings.Join(what, "; "))}
}

// named lists the first of the names and counts the rest.
func named(names []string, limit int) string {
	if len(names) > limit {
		names = append(slices.Clone(names[:limit]), fmt.Sprintf("%d more", len(names)-limit))
	}
	return strings.Join(names, ", ")
}
