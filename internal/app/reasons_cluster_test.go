package app

import (
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn/authntest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/authztest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/sarwebhook"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/explain/live"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/httpserver"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
)

// TestRemediesAreTheAPIServers: on random verbs, resources, people and organisations, whom a refusal names may do it, and
// exactly the levels it names would allow it.
func TestRemediesAreTheAPIServers(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: needs a control plane")
	}
	plane, err := controlplane.Start(t.Context(), controlplane.Options{Progress: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := plane.Stop(); err != nil {
			t.Error(err)
		}
	})
	cfg := plane.AdminConfig()
	cfg.QPS = -1
	admin, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	extra := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "extra"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"*"}, APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"mine"}},
		{Verbs: []string{"get", "update"}, APIGroups: []string{"*"}, Resources: []string{"*/scale"}},
		{Verbs: []string{"bind", "get"}, APIGroups: []string{rbacv1.GroupName}, Resources: []string{"*"}},
	}}
	if _, err := admin.RbacV1().ClusterRoles().Create(t.Context(), extra, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	rules := live.RulesOf(cluster.NewRoleReader(admin, "edit", "view", "extra").Look(t.Context()))
	if len(rules) != 3 {
		t.Fatalf("rules of %d roles", len(rules))
	}
	kinds := map[string]int{}
	for seed := range uint64(4) {
		newRemedies(t, admin, seed, rules).check(kinds)
	}
	t.Logf("texts: %v", kinds)
	for _, kind := range []string{"needs", "nobody", "meanwhile", "allowed", "absent", "stranger"} {
		if kinds[kind] < 10 {
			t.Errorf("only %d texts of the kind %q: nothing worth comparing", kinds[kind], kind)
		}
	}
	t.Run("explain", func(t *testing.T) { explainsAsTheAPIServer(t, plane, admin) })
}

// remedies is one random organisation, whose rights are bound in the plane.
type remedies struct {
	t       *testing.T
	admin   kubernetes.Interface
	r       *rand.Rand
	view    authz.View
	rules   map[string][]authz.Rule
	lacking []authz.Grant                            // by GitLab, and not bound
	probers map[authz.SourceID]map[authz.Level]int64 // somebody with each level
	now     time.Time
}

func newRemedies(t *testing.T, admin kubernetes.Interface, seed uint64, rules map[string][]authz.Rule) *remedies {
	e := &remedies{t: t, admin: admin, rules: rules, r: rand.New(rand.NewPCG(seed, 88)), probers: map[authz.SourceID]map[authz.Level]int64{}, now: time.Now()}
	p, err := authz.NewPolicy(authz.PolicyConfig{
		Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource},
		MarkedForDeletion: []authz.Frozen{authz.FrozenView, authz.FrozenNone}[seed%2],
		Extra:             []authz.ExtraRole{{Source: authz.GroupID(1), Below: true, ClusterRole: "extra", Levels: []authz.Level{authz.Reporter, authz.Maintainer}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := authztest.Snapshot(e.r)
	e.populate(s)
	names := map[authz.SourceID]string{}
	for _, src := range p.Sources(s) {
		names[src.ID] = fmt.Sprintf("o%d-%s", seed, src.ID.Label())
	}
	e.view = authz.NewView(s, p, names).WithRules(rules)
	e.bind()
	return e
}

// populate freezes some sources and puts somebody with each level into each.
func (e *remedies) populate(s *authz.Snapshot) {
	next := int64(1000)
	add := func(id authz.SourceID) (rows []authz.Member) {
		e.probers[id] = map[authz.Level]int64{}
		for _, l := range []authz.Level{authz.Guest, authz.Planner, authz.Reporter, authz.SecurityManager, authz.Developer, authz.Maintainer, authz.Owner} {
			next++
			s.Users[next] = authz.User{ID: next, Username: fmt.Sprintf("u%d", next), State: authz.StateActive, Human: true}
			rows, e.probers[id][l] = append(rows, authz.Member{User: next, Level: l}), next
		}
		return rows
	}
	for id, g := range s.Groups {
		g.Members = slices.Concat(g.Members, add(authz.GroupID(id)))
		g.Archived, g.MarkedForDeletion = e.r.IntN(5) == 0, e.r.IntN(5) == 0
		s.Groups[id] = g
	}
	for id, p := range s.Projects {
		p.Members = slices.Concat(p.Members, add(authz.ProjectID(id)))
		p.Archived = e.r.IntN(5) == 0
		s.Projects[id] = p
	}
}

// bind makes the namespaces and bindings, and waits until the last one counts.
func (e *remedies) bind() {
	e.t.Helper()
	for _, ns := range e.view.Namespace {
		if _, err := e.admin.CoreV1().Namespaces().Create(e.t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
			e.t.Fatal(err)
		}
	}
	known := map[string]authz.Question{
		"view": {Verb: "get", Resource: "pods"}, "edit": {Verb: "create", Resource: "pods"}, "extra": {Verb: "bind", Group: rbacv1.GroupName, Resource: "roles"},
	}
	grants, _ := e.view.Policy.Grants(e.view.Snapshot, e.view.Policy.Sources(e.view.Snapshot), e.now)
	gaps := map[authz.SourceID]authz.Gap{}
	for _, g := range grants {
		if e.r.IntN(3) == 0 { // this one the cluster lacks
			gap := gaps[g.Source]
			gap.Lacks = append(gap.Lacks, authz.Lack{ClusterRole: g.ClusterRole, Why: authz.AbsentFailed})
			gaps[g.Source] = gap
		}
	}
	e.view = e.view.WithGaps(gaps)
	grants = slices.DeleteFunc(grants, func(g authz.Grant) bool {
		if !e.lacks(g) {
			return false
		}
		e.lacking = append(e.lacking, g)
		return true
	})
	for _, g := range grants {
		rb := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: g.ClusterRole}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: g.ClusterRole}}
		for _, u := range g.Users {
			rb.Subjects = append(rb.Subjects, rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: kubename.User(u)})
		}
		if _, err := e.admin.RbacV1().RoleBindings(e.view.Namespace[g.Source]).Create(e.t.Context(), rb, metav1.CreateOptions{}); err != nil {
			e.t.Fatal(err)
		}
	}
	for _, g := range grants {
		q := known[g.ClusterRole]
		q.Namespace = e.view.Namespace[g.Source]
		for start := time.Now(); !e.may(g.Users[0], q); time.Sleep(5 * time.Millisecond) {
			if time.Since(start) > 20*time.Second {
				e.t.Fatalf("%v never counted", g)
			}
		}
	}
}

// lacks reports whether the cluster lacks a right that GitLab gives.
func (e *remedies) lacks(g authz.Grant) bool {
	return slices.ContainsFunc(e.view.Gaps()[g.Source].Lacks, func(l authz.Lack) bool { return l.ClusterRole == g.ClusterRole })
}

// should reports whether GitLab gives somebody a right that the cluster lacks and that would allow it.
func (e *remedies) should(user int64, id authz.SourceID, q authz.Question) bool {
	return slices.ContainsFunc(e.lacking, func(g authz.Grant) bool {
		return g.Source == id && slices.Contains(g.Users, user) && slices.ContainsFunc(e.rules[g.ClusterRole], func(r authz.Rule) bool { return r.Allows(q) })
	})
}

// may asks the API server.
func (e *remedies) may(user int64, q authz.Question) bool {
	e.t.Helper()
	out, err := e.admin.AuthorizationV1().SubjectAccessReviews().Create(e.t.Context(), &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{User: kubename.User(user), ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: q.Namespace, Verb: q.Verb, Group: q.Group, Resource: q.Resource, Subresource: q.Subresource, Name: q.Name,
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		e.t.Fatal(err)
	}
	return out.Status.Allowed
}

// question is a random request in a namespace.
func (e *remedies) question(ns string) authz.Question {
	pick := func(list ...string) string { return list[e.r.IntN(len(list))] }
	q := authz.Question{Namespace: ns, Verb: pick("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "bind", "impersonate", "*")}
	of := strings.Split(pick(
		"/pods", "/pods/log", "/pods/exec", "/pods/eviction", "/secrets", "/configmaps", "/serviceaccounts", "/serviceaccounts/token", "/services", "/nodes", "/namespaces",
		"/resourcequotas", "/endpoints", "/events", "apps/deployments", "apps/deployments/scale", "apps/statefulsets/status", "batch/jobs", "/deployments",
		"rbac.authorization.k8s.io/rolebindings", "rbac.authorization.k8s.io/roles", "networking.k8s.io/ingresses", "discovery.k8s.io/endpointslices",
		"metrics.k8s.io/pods", "example.com/things", "authorization.k8s.io/localsubjectaccessreviews",
	), "/")
	q.Group, q.Resource, q.Name = of[0], of[1], pick("", "", "mine", "other")
	if len(of) > 2 {
		q.Subresource = of[2]
	}
	return q
}

func (e *remedies) check(kinds map[string]int) {
	e.t.Helper()
	sources := e.view.Policy.Sources(e.view.Snapshot)
	for range 250 {
		id := sources[e.r.IntN(len(sources))].ID
		q := e.question(e.view.Namespace[id])
		user := e.r.Int64N(10) + 1
		if e.r.IntN(2) == 0 {
			user = e.probers[id][[]authz.Level{authz.Guest, authz.Reporter, authz.Developer, authz.Maintainer}[e.r.IntN(4)]]
		}
		text, may := e.view.User(user, q, e.now), e.may(user, q)
		fail := func(why string) {
			e.t.Helper()
			e.t.Errorf("user %d, %+v: %s; %s", user, q, text, why)
		}
		promised, absent := strings.Contains(text, ", which allows "), !may && e.should(user, id, q)
		if (may || absent) != promised {
			fail(fmt.Sprintf("the API server allows it: %v, GitLab gives it: %v", may, absent))
		}
		if strings.Contains(text, "it could not be written") != absent {
			fail(fmt.Sprintf("the cluster lacks it: %v", absent))
		}
		_, needs, _ := strings.Cut(text, " needs ")
		levels, helpers, _ := strings.Cut(strings.TrimRight(needs, ")."), " (ask ")
		switch {
		case absent:
			kinds["absent"]++
			continue
		case promised:
			kinds["allowed"]++
			continue
		case strings.Contains(text, "is not one you have"):
			kinds["stranger"]++
			continue
		case strings.Contains(text, "only people get rights"):
			kinds["bot"]++
			continue
		case needs != "":
			kinds["needs"]++
		case strings.Contains(text, "no GitLab role there allows"):
			kinds["nobody"]++
		case strings.Contains(text, "archived or marked for deletion"):
			kinds["meanwhile"]++
		default:
			fail("an unknown text")
		}
		named := strings.Split(strings.ReplaceAll(levels, " or ", ", "), ", ")
		for l, prober := range e.probers[id] {
			if got, want := e.may(prober, q) || e.should(prober, id, q), slices.Contains(named, l.String()); got != want {
				fail(fmt.Sprintf("%s is allowed: %v", l, got))
			}
		}
		for name := range strings.SplitSeq(helpers, ", ") {
			var helper int64
			if _, err := fmt.Sscanf(name, "u%d", &helper); err == nil && !e.may(helper, q) {
				fail(name + " is refused as well")
			}
		}
		if _, gap := e.view.Gaps()[id]; !gap && (needs != "") != (helpers != "") {
			fail("somebody to ask is named, or nobody is, where there is one")
		}
	}
}

// TestTenantsLearnNothingByAsking: somebody with gitlab-group-master in one namespace asks a real kube-apiserver about
// everybody in every way there is.
func TestTenantsLearnNothingByAsking(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: needs a control plane")
	}
	const mallory, guest, owner, blocked, nobody = 42, 9, 8, 7, 99
	issuer := authntest.New(t)
	issuer.Now = func() time.Time { return time.Now().Add(-time.Second) }
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	gl, err := authn.New(authn.Config{Issuer: issuer.URL, ClientIDs: []string{"kubelogin"}, HTTPClient: issuer.Client()})
	if err != nil {
		t.Fatal(err)
	}
	p, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.ProjectSource}})
	if err != nil {
		t.Fatal(err)
	}
	s := &authz.Snapshot{Users: map[int64]authz.User{}, Projects: map[int64]authz.Project{
		1: {ID: 1, Path: "a/mine", Members: []authz.Member{{User: mallory, Level: authz.Owner}, {User: guest, Level: authz.Guest}}},
		2: {ID: 2, Path: "b/theirs", Members: []authz.Member{{User: owner, Level: authz.Owner}, {User: blocked, Level: authz.Owner}, {User: guest, Level: authz.Owner}}},
	}}
	for id, state := range map[int64]authz.UserState{mallory: authz.StateActive, guest: authz.StateActive, owner: authz.StateActive, blocked: "blocked"} {
		s.Users[id] = authz.User{ID: id, Username: fmt.Sprintf("user%d", id), State: state, Human: true}
	}
	view := authz.NewView(s, p, map[authz.SourceID]string{authz.ProjectID(1): "mine", authz.ProjectID(2): "theirs"}).WithGaps(map[authz.SourceID]authz.Gap{})
	count := &asked{codes: map[authn.Code]int{}, versions: map[string]int{}}
	plane := startWithWebhook(t, controlplane.Options{AuthnVersion: "v1", AuthzWebhook: &controlplane.Webhook{}}, httpserver.Mux(
		httpserver.Route{Path: "/authenticate", Handler: authn.Handler(gl, log, count.observe)},
		httpserver.Route{Path: "/authorize", Handler: sarwebhook.Handler(func() (authz.View, bool) { return view, true }, "", time.Now, log)},
	), count)
	if err := deploy.Apply(t.Context(), plane.AdminConfig()); err != nil {
		t.Fatal(err)
	}
	token := issuer.UserToken(mallory, "kubelogin", nil)
	who := tenant{t, clientWith(t, plane, token).AuthorizationV1()}
	ownNamespaces(t, plane, kubename.User(mallory), "mine", "theirs")
	who.untilAllowed("mine")

	t.Run("about strangers, all sound alike", func(t *testing.T) {
		for _, names := range [][]string{
			{kubename.User(owner), kubename.User(blocked), kubename.User(nobody)},
			{kubename.CIJob(2), kubename.CIJob(nobody)},
		} {
			seen := map[string]bool{}
			for _, name := range names {
				for _, spec := range []authorizationv1.SubjectAccessReviewSpec{
					{User: name},
					{User: name, Groups: []string{kubename.GroupCI, "system:authenticated"}, UID: "1"},
					{User: name, Extra: map[string]authorizationv1.ExtraValue{kubename.ExtraProjectID: {"2"}, "gl-k8s-integrator.io/proof": {"x"}}},
				} {
					reason, err := who.local("mine", "mine", spec)
					if err != nil {
						t.Fatal(err)
					}
					seen[reason] = true
				}
			}
			if len(seen) != 1 || seen[""] {
				t.Errorf("what is said differs: %v", seen)
			}
		}
	})
	t.Run("about a member, what GitLab shows", func(t *testing.T) {
		reason, err := who.local("mine", "mine", authorizationv1.SubjectAccessReviewSpec{User: kubename.User(guest)})
		if err != nil || !strings.Contains(reason, "you are Guest in a/mine") || strings.Contains(reason, "theirs") {
			t.Errorf("%q, %v", reason, err)
		}
	})
	t.Run("in no other way", func(t *testing.T) {
		about := authorizationv1.SubjectAccessReviewSpec{User: kubename.User(guest)}
		for name, at := range map[string][2]string{"another namespace": {"mine", "theirs"}, "no namespace": {"mine", ""}, "where one has no right": {"theirs", "theirs"}} {
			if reason, err := who.local(at[0], at[1], about); err == nil {
				t.Errorf("%s: answered %q", name, reason)
			}
		}
		_, err := who.SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: kubename.User(guest), ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "list", Resource: "namespaces"},
		}}, metav1.CreateOptions{})
		if !apierrors.IsForbidden(err) || strings.Contains(err.Error(), "theirs") {
			t.Errorf("a question about the whole cluster: %v", err)
		}
		_, err = who.LocalSubjectAccessReviews("mine").Create(t.Context(), &authorizationv1.LocalSubjectAccessReview{
			ObjectMeta: metav1.ObjectMeta{Namespace: "mine"},
			Spec:       authorizationv1.SubjectAccessReviewSpec{User: kubename.User(guest), NonResourceAttributes: &authorizationv1.NonResourceAttributes{Verb: "get", Path: "/metrics"}},
		}, metav1.CreateOptions{})
		if !apierrors.IsInvalid(err) {
			t.Errorf("a question about a URL: %v", err)
		}
	})
	t.Run("about oneself", func(t *testing.T) {
		if reason := who.self("theirs", "pods"); !strings.Contains(reason, `"theirs" is not one you have a GitLab role in`) {
			t.Error(reason)
		}
		if reason := who.self("", "namespaces"); !strings.Contains(reason, "Your namespaces: mine (edit)") {
			t.Error(reason)
		}
	})
	t.Run("whoami prints what is in the token", func(t *testing.T) {
		info, err := whoAmI(t, plane, token)
		if err != nil {
			t.Fatal(err)
		}
		claims, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
		if err != nil {
			t.Fatal(err)
		}
		for key, values := range info.Extra {
			for _, v := range values {
				if !strings.Contains(string(claims), v) {
					t.Errorf("%s: %q", key, v)
				}
			}
		}
	})
}

// tenant asks kube-apiserver about access.
type tenant struct {
	t *testing.T
	authorizationclient.AuthorizationV1Interface
}

func (w tenant) local(in, about string, spec authorizationv1.SubjectAccessReviewSpec) (string, error) {
	spec.ResourceAttributes = &authorizationv1.ResourceAttributes{Namespace: about, Verb: "list", Resource: "pods"}
	out, err := w.LocalSubjectAccessReviews(in).Create(w.t.Context(), &authorizationv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: in}, Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return out.Status.Reason, nil
}

func (w tenant) self(ns, resource string) string {
	out, err := w.SelfSubjectAccessReviews().Create(w.t.Context(), &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: ns, Verb: "list", Resource: resource},
	}}, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return out.Status.Reason
}

// untilAllowed waits until the tenant's binding counts.
func (w tenant) untilAllowed(ns string) {
	w.t.Helper()
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if _, err := w.local(ns, ns, authorizationv1.SubjectAccessReviewSpec{User: "x"}); err == nil {
			return
		} else if time.Since(start) > 20*time.Second {
			w.t.Fatal(err)
		}
	}
}

// ownNamespaces makes namespaces, and binds gitlab-group-master in the first one.
func ownNamespaces(t *testing.T, plane *controlplane.Cluster, user string, names ...string) {
	t.Helper()
	admin, err := kubernetes.NewForConfig(plane.AdminConfig())
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for _, ns := range names {
		if _, err := admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = admin.RbacV1().RoleBindings(names[0]).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "master"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: kubename.CIClusterRole},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}
