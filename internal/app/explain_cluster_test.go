package app

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn/authntest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/sarwebhook"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/httpserver"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// TestRefusalsSayWhatIsInTheCluster: a Maintainer is refused by a real kube-apiserver in mode plan, while their namespace is held, and
// after that is not any more. The integrator writes with its own ServiceAccount.
func TestRefusalsSayWhatIsInTheCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: needs a control plane")
	}
	const alice = 42
	issuer := authntest.New(t)
	issuer.Now = func() time.Time { return time.Now().Add(-time.Second) }
	gl, err := authn.New(authn.Config{Issuer: issuer.URL, ClientIDs: []string{"kubelogin"}, HTTPClient: issuer.Client()})
	if err != nil {
		t.Fatal(err)
	}
	var now atomic.Pointer[func() (authz.View, bool)]
	count := &asked{codes: map[authn.Code]int{}, versions: map[string]int{}}
	log := slog.New(slog.DiscardHandler)
	plane := startWithWebhook(t, controlplane.Options{AuthnVersion: "v1", AuthzWebhook: &controlplane.Webhook{}}, httpserver.Mux(
		httpserver.Route{Path: "/authenticate", Handler: authn.Handler(gl, log, count.observe)},
		httpserver.Route{Path: "/authorize", Handler: sarwebhook.Handler(func() (authz.View, bool) { return (*now.Load())() }, "", time.Now, log)},
	), count)
	if err := deploy.Apply(t.Context(), plane.AdminConfig()); err != nil {
		t.Fatal(err)
	}
	admin, err := kubernetes.NewForConfig(plane.AdminConfig())
	if err != nil {
		t.Fatal(err)
	}
	token, err := admin.CoreV1().ServiceAccounts(deploy.Namespace).CreateToken(t.Context(), deploy.ServiceAccount, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	own := clientWith(t, plane, token.Status.Token)
	p, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource}})
	if err != nil {
		t.Fatal(err)
	}
	created := time.Now().Add(-time.Minute).Truncate(time.Second)
	reader := fixedReader{&authz.Snapshot{
		Issuer: issuer.URL, Users: map[int64]authz.User{alice: {ID: alice, Username: "alice", State: authz.StateActive, Human: true}},
		Groups:   map[int64]authz.Group{7: {ID: 7, Path: "haw", CreatedAt: created, Members: []authz.Member{{User: alice, Level: authz.Owner}}}},
		Projects: map[int64]authz.Project{9: {ID: 9, Group: 7, Path: "haw/world", CreatedAt: created.Add(time.Second)}},
	}}
	roles := cluster.NewRoleReader(own, append(p.ClusterRoles(), kubename.CIClusterRole)...)
	round := func(mode syncer.Mode, creations int) {
		t.Helper()
		s, err := syncer.New(syncer.Options{
			Reader: reader, Kube: own, Policy: p, Mode: mode, Roles: roles, Limits: &rbacsync.Limits{Creations: creations},
			Held: store.Held{Client: own, Namespace: deploy.Namespace},
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Once(t.Context(), "test"); err != nil {
			t.Fatal(err)
		}
		explain := view(s.State, roles)
		now.Store(&explain)
	}
	// kube-apiserver remembers a refusal for a while (unauthorizedTTL): each step asks something else.
	user := clientWith(t, plane, issuer.UserToken(alice, "kubelogin", nil))
	refusal := func(ns, verb, resource string) string {
		t.Helper()
		out, err := user.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: ns, Verb: verb, Resource: resource},
		}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if out.Status.Allowed {
			return "allowed"
		}
		return out.Status.Reason
	}
	says := func(what, got, want string) {
		t.Helper()
		if !strings.HasSuffix(got, want) {
			t.Errorf("%s:\ngot  %s\nwant %s", what, got, want)
		}
	}

	round(syncer.ModePlan, 0)
	_, err = user.CoreV1().Pods("haw-world").List(t.Context(), metav1.ListOptions{})
	if !apierrors.IsForbidden(err) {
		t.Fatalf("in mode plan: %v", err)
	}
	const inPlan = "the integrator is in mode plan, in which it writes nothing. Ask the cluster's administrators."
	const gives = `GitLab gives you ClusterRole "edit" here (you are Owner in haw/world), which allows list `
	says("in mode plan", err.Error(), gives+`pods, but namespace "haw-world" is not in the cluster yet: `+inPlan)
	says("all namespaces in mode plan", refusal("", "list", "namespaces"), "You have no namespaces in the cluster yet. GitLab gives you 2 rights that are not in the cluster yet: "+inPlan)

	round(syncer.ModeEnforce, 1)
	const held = "it waits for its turn, because many namespaces were new at once, or for an approval of the cluster's administrators."
	says("held", refusal("haw-world", "list", "services"), gives+`services, but namespace "haw-world" is not in the cluster yet: `+held)
	says("all namespaces while one is held", refusal("", "watch", "namespaces"), "Your namespaces: haw (edit). GitLab gives you 1 right that is not in the cluster yet: "+held)

	round(syncer.ModeEnforce, 0)
	for start := time.Now(); refusal("haw-world", "list", "configmaps") != "allowed"; time.Sleep(20 * time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			t.Fatal("it is never allowed")
		}
	}
	says("beyond the role", refusal("haw-world", "create", "nodes"), `you are Owner in haw/world (ClusterRole "edit"); no GitLab role there allows create nodes. Ask the cluster's administrators.`)
	says("all namespaces when all are there", refusal("", "deletecollection", "namespaces"), "nobody can list all namespaces. Your namespaces: haw, haw-world (edit).")

	// An administrator takes the binding out, and back in mode plan nobody puts it back.
	if err := admin.RbacV1().RoleBindings("haw-world").Delete(t.Context(), kubename.RoleBinding("edit", 0), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	round(syncer.ModePlan, 0)
	for start := time.Now(); refusal("haw-world", "list", "pods") == "allowed"; time.Sleep(20 * time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			t.Fatal("it is allowed for ever")
		}
	}
	says("back in mode plan", refusal("haw-world", "list", "secrets"), gives+"secrets, but it is not in the cluster yet: "+inPlan)
	says("all namespaces back in mode plan", refusal("", "patch", "namespaces"), "Your namespaces: haw (edit). GitLab gives you 1 right that is not in the cluster yet: "+inPlan)
}

// fixedReader is a GitLab that always says the same.
type fixedReader struct{ snap *authz.Snapshot }

func (f fixedReader) Snapshot(context.Context) (*authz.Snapshot, error) { return f.snap, nil }

func (f fixedReader) Refresh(context.Context, *authz.Snapshot, []authz.SourceID) (*authz.Snapshot, error) {
	return f.snap, nil
}
