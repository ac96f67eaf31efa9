package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/restmapper"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/clusterroles"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/explain"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeerror"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// Asking is what `explain` and `who` are asked.
type Asking struct {
	User      string // user name, id or gitlab:ID; empty: `who`
	Namespace string
	// Verb, Resource ("deployments.apps/scale", short names too) and Name are the request; Verb is empty where no request is meant.
	Verb, Resource, Name string
	Output               string // text or json
}

// Explain prints what somebody may do in a namespace, and why.
func Explain(ctx context.Context, cfg *config.Config, log io.Writer, out io.Writer, a Asking) error {
	x, err := newExplainer(ctx, cfg)
	if err != nil {
		return err
	}
	user, err := userNamed(a.User, x.view.Snapshot)
	if err != nil {
		return err
	}
	q := authz.Question{Namespace: a.Namespace, Verb: a.Verb, Name: a.Name}
	if a.Verb != "" {
		var warning string
		q.Group, q.Resource, q.Subresource, warning = resourceOf(x.kube, a.Resource)
		if warning != "" {
			fmt.Fprintln(log, warning)
		}
	}
	r := x.Explain(ctx, user, q, time.Now())
	return printed(out, a.Output, r, r.Text)
}

// Who prints everybody with a right in a namespace.
func Who(ctx context.Context, cfg *config.Config, out io.Writer, a Asking) error {
	x, err := newExplainer(ctx, cfg)
	if err != nil {
		return err
	}
	w := x.Who(ctx, a.Namespace, time.Now())
	return printed(out, a.Output, w, w.Text)
}

func printed(out io.Writer, form string, v any, text func() string) error {
	if form == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	_, err := io.WriteString(out, text())
	return err
}

// explainer answers from what the leader has stored and from what the cluster holds now.
type explainer struct {
	kube  kubernetes.Interface
	view  authz.View
	basis explain.Basis
	roles clusterroles.Roles
}

// newExplainer reads what the leader has stored, and the ClusterRoles.
func newExplainer(ctx context.Context, cfg *config.Config) (*explainer, error) {
	c, err := connect(cfg)
	if err != nil {
		return nil, err
	}
	policy, err := cfg.Authz.Policy()
	if err != nil {
		return nil, err
	}
	st, _, err := snapshotsOf(c).Load(ctx, "")
	switch {
	case err != nil:
		return nil, kubeerror.Explain(fmt.Errorf("reading what the integrator has stored of GitLab: %w", err))
	case st == nil:
		return nil, errors.New("the integrator has stored nothing of GitLab in this cluster yet: start serve, and see `gl-k8s-integrator status`")
	}
	reader, err := newRoles(cfg, c)
	if err != nil {
		return nil, err
	}
	roles := reader.Look(ctx)
	return &explainer{
		kube: c.kube, roles: roles, basis: explain.Basis{Read: st.Snapshot.Taken, Mode: cfg.RBACSync.Mode},
		view: withRoles(authz.NewView(st.Snapshot, policy, st.Names).WithGaps(st.Gaps), roles),
	}, nil
}

// Explain joins what is known of one request with what the cluster holds and says.
func (x *explainer) Explain(ctx context.Context, user int64, q authz.Question, now time.Time) explain.Report {
	live := x.live(ctx, q.Namespace)
	if q.Verb != "" {
		live.Asked = x.ask(ctx, user, q)
	}
	return explain.New(x.view.Explain(user, q, now), q, x.basis, live)
}

// Who joins those to whom GitLab gives a right in a namespace with what the cluster holds.
func (x *explainer) Who(ctx context.Context, ns string, now time.Time) explain.Who {
	return explain.NewWho(x.view, ns, now, x.basis, x.live(ctx, ns))
}

// live reads the RoleBindings of a namespace.
func (x *explainer) live(ctx context.Context, ns string) explain.Live {
	out := explain.Live{Rules: x.rules(ctx, ns)}
	list, err := x.kube.RbacV1().RoleBindings(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		out.Error = kubeerror.Explain(err).Error()
		return out
	}
	out.Bindings = list.Items
	return out
}

// rules returns what reads the rules of roles, each once.
func (x *explainer) rules(ctx context.Context, ns string) func(rbacv1.RoleRef) ([]authz.Rule, bool) {
	type answer struct {
		rules []authz.Rule
		known bool
	}
	read := map[rbacv1.RoleRef]answer{}
	return func(ref rbacv1.RoleRef) ([]authz.Rule, bool) {
		a, ok := read[ref]
		if !ok {
			a.rules, a.known = x.read(ctx, ns, ref)
			read[ref] = a
		}
		return a.rules, a.known
	}
}

func (x *explainer) read(ctx context.Context, ns string, ref rbacv1.RoleRef) ([]authz.Rule, bool) {
	if r, ok := x.roles[ref.Name]; ok && ref.Kind == "ClusterRole" && r.Exists.Verdict != clusterroles.Unknown {
		return authzRules(r.Rules), true
	}
	var rules []rbacv1.PolicyRule
	var err error
	if ref.Kind == "ClusterRole" {
		var role *rbacv1.ClusterRole
		if role, err = x.kube.RbacV1().ClusterRoles().Get(ctx, ref.Name, metav1.GetOptions{}); err == nil {
			rules = role.Rules
		}
	} else {
		var role *rbacv1.Role
		if role, err = x.kube.RbacV1().Roles(ns).Get(ctx, ref.Name, metav1.GetOptions{}); err == nil {
			rules = role.Rules
		}
	}
	return authzRules(rules), err == nil || apierrors.IsNotFound(err)
}

// ask asks kube-apiserver itself.
func (x *explainer) ask(ctx context.Context, user int64, q authz.Question) *explain.Asked {
	review, err := x.kube.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: kubename.User(user), UID: strconv.FormatInt(user, 10), Groups: explain.Groups(),
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: q.Namespace, Verb: q.Verb, Group: q.Group, Resource: q.Resource, Subresource: q.Subresource, Name: q.Name,
		},
	}}, metav1.CreateOptions{})
	switch {
	case apierrors.IsForbidden(err):
		return &explain.Asked{Allowed: authz.Unknown, Error: "who asks may not create SubjectAccessReviews: use an administrator's kubeconfig in cluster.kubeconfig"}
	case err != nil:
		return &explain.Asked{Allowed: authz.Unknown, Error: kubeerror.Explain(err).Error()}
	case review.Status.Allowed:
		return &explain.Asked{Allowed: authz.Yes, Reason: review.Status.Reason}
	}
	return &explain.Asked{Allowed: authz.No, Reason: review.Status.Reason, Error: review.Status.EvaluationError}
}

// userNamed finds the person that is meant: by the name in Kubernetes, by id, or by the user name. One whom GitLab does not show
// can be asked for by id.
func userNamed(text string, s *authz.Snapshot) (int64, error) {
	if id, ok := kubename.ParseUser(text); ok {
		return id, nil
	}
	if id, err := strconv.ParseInt(text, 10, 64); err == nil && id > 0 {
		return id, nil
	}
	for id, u := range s.Users {
		if strings.EqualFold(u.Username, text) {
			return id, nil
		}
	}
	return 0, fmt.Errorf("of GitLab, as it was read at %s, no account with the user name %q is known: give its id, or gitlab:ID", s.Taken.UTC().Format(time.RFC3339), text)
}

// resourceOf reads "pods", "deploy", "deployments.apps/scale" as kubectl does: kube-apiserver knows short names and groups. What
// it does not know is taken as it is written, with a warning.
func resourceOf(kube kubernetes.Interface, text string) (group, resource, subresource, warning string) {
	text, subresource, _ = strings.Cut(strings.ToLower(text), "/")
	as := schema.ParseGroupResource(text)
	groups, err := restmapper.GetAPIGroupResources(kube.Discovery())
	if err != nil {
		return as.Group, as.Resource, subresource, fmt.Sprintf("which resources there are could not be read (%v): %q is taken as it is written", err, text)
	}
	mapper := restmapper.NewShortcutExpander(restmapper.NewDiscoveryRESTMapper(groups), kube.Discovery(), nil)
	got, err := mapper.ResourceFor(as.WithVersion(""))
	if err != nil {
		return as.Group, as.Resource, subresource, fmt.Sprintf("kube-apiserver has no resource %q: it is taken as it is written", text)
	}
	return got.Group, got.Resource, subresource, ""
}
