package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// maxExcess is how many bindings of others get a finding of their own.
const maxExcess = 100

// weaker lists which of Kubernetes' own roles are contained in another one.
var weaker = map[string][]string{"edit": {"view"}, "admin": {"edit", "view"}, kubename.CIClusterRole: {"edit", "view"}}

// ForeignBindings looks for RoleBindings of others, in namespaces of ours, that give people or CI jobs of GitLab more than
// GitLab does.
func ForeignBindings(ctx context.Context, kube kubernetes.Interface, want *rbacsync.Wanted) ([]authz.Finding, error) {
	home := map[string]authz.SourceID{}
	given := map[string]map[string][]int64{} // by namespace and role
	for i := range want.Objects {
		o := &want.Objects[i]
		if o.Namespace != nil && want.Untouchable[o.Namespace.Source] == "" { // else it is not known what GitLab gives there
			home[o.Key.Name], given[o.Key.Name] = o.Namespace.Source, map[string][]int64{}
		}
		if roles := given[o.Key.Namespace]; o.Binding != nil && roles != nil {
			roles[o.Binding.Role] = append(roles[o.Binding.Role], o.Binding.Users...)
		}
	}
	var found []authz.Finding
	more := 0
	o := metav1.ListOptions{LabelSelector: notOurs, Limit: pageSize}
	for {
		list, err := kube.RbacV1().RoleBindings(metav1.NamespaceAll).List(ctx, o)
		if err != nil {
			return nil, fmt.Errorf("listing role bindings without our mark: %w", err)
		}
		for i := range list.Items {
			rb := &list.Items[i]
			id, ok := home[rb.Namespace]
			if !ok {
				continue
			}
			who := tooMuch(rb, id, given[rb.Namespace], want.Users)
			switch {
			case len(who) == 0:
			case len(found) == maxExcess:
				more++
			default:
				found = append(found, authz.Finding{Code: "foreign_binding", Source: id, Text: fmt.Sprintf(
					"RoleBinding %s/%s, which is not ours, gives %s %s; GitLab does not: delete it if nobody knows why it is there",
					rb.Namespace, rb.Name, strings.Join(who, ", "), rbacsync.BindingOf(rb.RoleRef, nil, "").Role)})
			}
		}
		if o.Continue = list.Continue; o.Continue == "" {
			break
		}
	}
	if more > 0 {
		found = append(found, authz.Finding{Code: "foreign_binding", Text: fmt.Sprintf("and %d more bindings of others give more than GitLab does", more)})
	}
	return found, nil
}

// tooMuch lists whom of GitLab a binding of somebody else's gives a role that GitLab does not give there.
func tooMuch(rb *rbacv1.RoleBinding, id authz.SourceID, given map[string][]int64, users map[int64]authz.User) []string {
	role := rbacsync.BindingOf(rb.RoleRef, nil, "").Role
	has := func(user int64) bool {
		if slices.Contains(given[role], user) {
			return true
		}
		for strong, weak := range weaker {
			if slices.Contains(weak, role) && slices.Contains(given[strong], user) {
				return true
			}
		}
		return false
	}
	ci := func() bool {
		return role == kubename.CIClusterRole || slices.Contains(weaker[kubename.CIClusterRole], role)
	}
	var out []string
	for _, s := range rb.Subjects {
		user, isUser := kubename.ParseUser(s.Name)
		project, isJob := kubename.ParseCIJob(s.Name)
		text := ""
		switch {
		case s.Kind == rbacv1.UserKind && isUser && !has(user):
			text = rbacsync.UserText(user, users)
		case s.Kind == rbacv1.UserKind && isJob && (id != authz.ProjectID(project) || !ci()):
			text = s.Name
		case s.Kind == rbacv1.GroupKind && slices.Contains([]string{kubename.GroupUsers, kubename.GroupCI, "system:authenticated", "system:unauthenticated", "system:serviceaccounts"}, s.Name):
			text = "the group " + s.Name
		case s.Kind == rbacv1.ServiceAccountKind && s.Name == kubename.CIServiceAccount && (s.Namespace != rb.Namespace || !ci()):
			text = "the CI of namespace " + rbacsync.Printable(s.Namespace)
		default:
			continue
		}
		if len(out) == 5 {
			return append(out, fmt.Sprintf("and %d more", len(rb.Subjects)-5))
		}
		if text != "" {
			out = append(out, text)
		}
	}
	return out
}
