package replicas_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// harm is what somebody does to an object, and what has to follow.
type harm struct {
	do func(*thing)
	// finding is the code of the finding that has to follow; "": the object is to be as it was.
	finding string
	// then, if set, is what has to be true instead of the object being as it was.
	then func(*thing) bool
	// repair is what the administrator does after the finding; nil: nothing is to be done.
	repair func(*thing)
}

// thing is an object that we write or depend on.
type thing struct {
	*ruin
	row                  string // its row in docs/drift.md
	group, version, kind string // kind: the plural
	namespace, name      string
	deleted, changed     harm
	slow                 bool // it is looked at each 15 seconds
	last                 bool // the process ends with it
	before               *unstructured.Unstructured
}

// ruin is the world in which all of it happens, while one process serves.
type ruin struct {
	*world
	r       *replica
	objects dynamic.Interface
	cfg     *config.Config
	carol   bool // has a right
}

func (x *thing) client() dynamic.ResourceInterface {
	return x.objects.Resource(schema.GroupVersionResource{Group: x.group, Version: x.version, Resource: x.kind}).Namespace(x.namespace)
}

func (x *thing) get() *unstructured.Unstructured {
	o, err := x.client().Get(x.t.Context(), x.name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return o
}

// content is what the object says, without what the API server adds.
func content(o *unstructured.Unstructured) map[string]any {
	c := o.DeepCopy()
	out := map[string]any{"labels": c.GetLabels(), "annotations": c.GetAnnotations()}
	for k, v := range c.Object {
		if k != "metadata" && k != "status" {
			out[k] = v
		}
	}
	return out
}

// restored reports whether the object is as it was before.
func (x *thing) restored() bool {
	o := x.get()
	return o != nil && o.GetDeletionTimestamp() == nil && equality.Semantic.DeepEqual(content(o), content(x.before))
}

func remove(x *thing) {
	x.t.Helper()
	if err := x.client().Delete(x.t.Context(), x.name, metav1.DeleteOptions{}); err != nil {
		x.t.Fatalf("deleting %s: %v", x.row, err)
	}
}

// set returns a change of one field; nil takes it out.
func set(value any, path ...string) func(*thing) {
	return func(x *thing) {
		x.t.Helper()
		for range 10 { // we may be writing it too
			o := x.get()
			if o == nil {
				x.t.Fatalf("%s is not there", x.row)
			}
			if value == nil {
				unstructured.RemoveNestedField(o.Object, path...)
			} else if err := unstructured.SetNestedField(o.Object, value, path...); err != nil {
				x.t.Fatal(err)
			}
			_, err := x.client().Update(x.t.Context(), o, metav1.UpdateOptions{})
			if err == nil {
				return
			}
			if !apierrors.IsConflict(err) {
				x.t.Fatalf("changing %s: %v", x.row, err)
			}
		}
		x.t.Fatalf("changing %s: it changes too fast", x.row)
	}
}

// apply is what the docs tell the administrator to do.
func apply(x *thing) {
	x.t.Helper()
	if err := deploy.Apply(x.t.Context(), x.cluster.AdminConfig()); err != nil {
		x.t.Fatal(err)
	}
}

// metric returns what the process says of one metric.
func (u *ruin) metric(name string) string {
	res, err := http.Get("http://" + u.r.metrics + "/metrics")
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "gl_k8s_integrator_"+name+" "); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

func (u *ruin) finds(code string) bool { return u.metric(`findings{code="`+code+`"}`) != "" }

func leads(x *thing) bool {
	o := x.get()
	if o == nil || x.metric("leader") != "1" {
		return false
	}
	holder, _, _ := unstructured.NestedString(o.Object, "spec", "holderIdentity")
	return x.kind != "leases" || strings.Contains(x.r.log.String(), holder)
}

// drift has something put back, which the history tells.
func drift(x *thing) {
	x.t.Helper()
	if err := x.admin.RbacV1().RoleBindings("haw-world").Delete(x.t.Context(), "gitlab-view", metav1.DeleteOptions{}); err != nil {
		x.t.Fatal(err)
	}
}

// change gives carol a right by a hook, or takes it; arrived reports whether the cluster has followed.
func (u *ruin) change() {
	u.t.Helper()
	if u.carol = !u.carol; u.carol {
		u.set("carol", gitlabsim.Developer)
	} else {
		u.remove("carol")
	}
}

func (u *ruin) arrived() bool { return u.has("gitlab-view", "carol") == u.carol }

func nobodyLeads(x *thing) bool { return x.metric("leader") == "0" }

// bound is how long what follows may take. A full round is due each ten seconds; our keys each 15.
const bound = 90 * time.Second

// await waits, and says so when it was in vain.
func (x *thing) await(what string, ok func() bool) {
	x.t.Helper()
	within := bound
	if !x.slow {
		within = 30 * time.Second
	}
	for start := time.Now(); time.Since(start) < within; time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	x.t.Errorf("not within %v: %s %s", within, x.row, what)
}

// look asks for a full round, as rbacsync.interval does later.
func (u *ruin) look() {
	u.t.Helper()
	box := &store.Inbox{Client: u.admin, Watch: u.admin, Namespace: deploy.Namespace, Logger: slog.New(slog.DiscardHandler), Now: time.Now}
	_ = box.Put(u.t.Context(), nil, "test") // where even that is gone, the time comes
}

// suffer waits for what has to follow.
func (x *thing) suffer(how string, h harm, began time.Time) {
	x.t.Helper()
	switch {
	case h.finding != "":
		x.await(how+": finding "+h.finding, func() bool { return x.finds(h.finding) })
	case h.then != nil:
		x.await(how+": what has to follow", func() bool { return h.then(x) })
	default:
		x.await(how+": it is put back", x.restored)
	}
	x.t.Logf("%s %s: after %v", x.row, how, time.Since(began).Round(100*time.Millisecond))
	if h.repair == nil {
		return
	}
	h.repair(x)
	x.look()
	x.await(how+": all is well again", func() bool {
		return x.metric("leader") == "1" && (h.finding == "" || !x.finds(h.finding))
	})
}

// do does harm to an object.
func (x *thing) do(h harm) time.Time {
	x.t.Helper()
	if x.before = x.get(); x.before == nil {
		x.t.Fatalf("%s: there is no %s %s/%s", x.row, x.kind, x.namespace, x.name)
	}
	if h.finding != "" && x.finds(h.finding) {
		x.t.Fatalf("%s: the finding %s is there already", x.row, h.finding)
	}
	began := time.Now()
	h.do(x)
	x.look()
	return began
}

// ruined returns a world in which everything that we write is there: changes that are held, and CI credentials.
func ruined(t *testing.T) *ruin {
	w := newWorld(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(deploy.ApplyForTemplates(t.Context(), w.cluster.AdminConfig()))
	must(os.Mkdir(filepath.Join(w.dir, "templates"), 0o700))
	must(os.WriteFile(filepath.Join(w.dir, "templates", "all.yaml"), []byte(templates), 0o600))
	_, err := w.admin.CoreV1().Secrets(deploy.Namespace).Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: sharedSecret}, Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{"auths":{}}`)},
	}, metav1.CreateOptions{})
	must(err)
	w.rbacsync = ", limits: {creationsPerHour: 2}, templates: {folder: " + filepath.Join(w.dir, "templates") + "}"
	w.delivery = "variables"
	u := &ruin{world: w, r: w.start("a", 10*time.Second)}
	u.objects, err = dynamic.NewForConfig(w.cluster.AdminConfig())
	must(err)
	u.cfg, err = config.Load(filepath.Join(w.dir, "a.yaml"))
	must(err)
	w.eventually("the first round", 60*time.Second, u.rights)
	var group int64
	w.gitlab.World().View(func(v *gitlabsim.View) { group = v.ProjectByPath("haw/world").NamespaceID })
	add := func(names ...string) {
		for _, name := range names {
			_, err := w.gitlab.World().AddProject(gitlabsim.Project{
				NamespaceID: group, Path: name, Name: name, Members: []gitlabsim.Member{{UserID: w.user("alice"), Level: gitlabsim.Maintainer}},
			})
			must(err)
		}
		u.look()
	}
	w.sendHooks(u.r)
	add("other", "second", "third")
	var items []rbacsync.Item
	w.eventually("changes are held", bound, func() bool {
		items, err = store.Held{Client: w.admin, Namespace: deploy.Namespace}.Load(t.Context())
		return err == nil && len(items) == 3
	})
	must(app.Approve(t.Context(), u.cfg, rbacsync.HashOf(items), io.Discard)) // leaves the ConfigMap with approvals
	u.look()
	w.eventually("nothing is held", bound, func() bool { return !u.finds("held") && u.metric("held_changes") == "0" })
	add("fourth", "fifth", "sixth")
	w.eventually("changes are held again", bound, func() bool { return u.metric("held_changes") == "3" })
	w.eventually("GitLab has a token", bound, func() bool { return u.token() != "" })
	w.eventually("the keys are stored", bound, func() bool {
		_, err := w.admin.CoreV1().Secrets(deploy.Namespace).Get(t.Context(), "gl-k8s-integrator-keys", metav1.GetOptions{})
		return err == nil
	})
	w.eventually("the history and the status are stored", bound, func() bool {
		return app.History(t.Context(), u.cfg, app.HistoryView{Namespace: "haw-world"}, io.Discard) == nil && app.Status(t.Context(), u.cfg, io.Discard) == nil && u.snapshot() && u.history(" ")
	})
	return u
}

// rights reports whether those who should have rights in haw-world have them.
func (u *ruin) rights() bool { return u.has("gitlab-edit", "alice") && u.has("gitlab-view", "bob") }

// token returns what GitLab gives to the jobs of haw/world.
func (u *ruin) token() (token string) {
	u.gitlab.World().View(func(v *gitlabsim.View) {
		for _, x := range v.ProjectByPath("haw/world").Variables {
			if x.Key == "KUBE_TOKEN" {
				token = x.Value
			}
		}
	})
	return token
}

// snapshot reports whether a process that starts now could read the stored Snapshot.
func (u *ruin) snapshot() bool {
	s := store.Snapshots{Blob: store.Blob{Client: u.admin, Namespace: deploy.Namespace, Name: store.NameSnapshot}}
	st, _, err := s.Load(u.t.Context(), "")
	return err == nil && st != nil && len(st.Marks) > 0
}

func (u *ruin) history(want string) bool {
	var out bytes.Buffer
	return app.History(u.t.Context(), u.cfg, app.HistoryView{Namespace: "haw-world"}, &out) == nil && strings.Contains(out.String(), want) && !strings.Contains(out.String(), "no change")
}

func (u *ruin) login() error {
	token, err := u.gitlab.MintUserIDToken(u.user("alice"), "kubelogin", gitlabsim.TokenOptions{})
	if err != nil {
		return err
	}
	return login(&u.client, "https://"+u.r.webhooks+"/authenticate", token)
}

// watch looks until ctx ends whether somebody loses a login, or a right for longer than it takes to put a binding back.
func (u *ruin) watch(ctx context.Context) {
	var lost time.Time
	for logins := 0; ctx.Err() == nil; {
		logins++
		if err := u.login(); err != nil {
			u.t.Errorf("login %d: %v", logins, err)
			return
		}
		rb, err := u.admin.RbacV1().RoleBindings("haw-world").List(context.Background(), metav1.ListOptions{})
		people := map[string]bool{}
		for _, b := range rb.Items {
			for _, s := range b.Subjects {
				people[b.Name+" "+s.Name] = true
			}
		}
		switch {
		case err != nil || people[fmt.Sprintf("gitlab-edit gitlab:%d", u.user("alice"))] && people[fmt.Sprintf("gitlab-view gitlab:%d", u.user("bob"))]:
			lost = time.Time{}
		case lost.IsZero():
			lost = time.Now()
		case time.Since(lost) > 5*time.Second:
			u.t.Errorf("somebody has no right any more: %v", people)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// again starts another process, as a pod that is made anew, after deploy/manifests were applied.
func again(x *thing) {
	apply(x)
	if err := deploy.ApplyForTemplates(x.t.Context(), x.cluster.AdminConfig()); err != nil {
		x.t.Fatal(err)
	}
	x.credentials()
	x.r.kill()
	x.r = x.start(x.r.name+"a", 10*time.Second)
	x.r.leads(60 * time.Second)
	x.eventually("the rights are there", 60*time.Second, x.rights)
}

const sharedSecret = "gl-k8s-integrator-shared-pull-secret"

const templates = `apiVersion: v1
kind: ConfigMap
metadata: {name: welcome}
data: {text: hello}
---
apiVersion: v1
kind: Secret
metadata:
  name: gitlab-pull-secret
  annotations: {gl-k8s-integrator.io/copy-from: ` + sharedSecret + `}
type: kubernetes.io/dockerconfigjson
`

// rows are the objects that we write or depend on. Those of one row are alike.
func rows() []*thing {
	const own = deploy.Namespace
	garbage := "bm9uc2Vuc2U=" // base64
	secret := func(row, ns, name string) *thing {
		return &thing{row: row, version: "v1", kind: "secrets", namespace: ns, name: name}
	}
	cm := func(row, ns, name string) *thing {
		return &thing{row: row, version: "v1", kind: "configmaps", namespace: ns, name: name}
	}
	rbac := func(row, kind, ns, name string) *thing {
		return &thing{row: row, group: "rbac.authorization.k8s.io", version: "v1", kind: kind, namespace: ns, name: name}
	}
	with := func(x *thing, deleted, changed harm) *thing {
		if x.deleted = deleted; x.deleted.do == nil {
			x.deleted.do = remove
		}
		x.changed = changed
		return x
	}
	slow := func(x *thing) *thing { x.slow = true; return x }
	put := func(do func(*thing)) harm { return harm{do: do} }
	finding := func(code string, do func(*thing)) harm { return harm{do: do, finding: code, repair: apply} }
	recreate := func(x *thing) {
		o := x.before.DeepCopy()
		o.SetResourceVersion("")
		o.SetUID("")
		if _, err := x.client().Create(x.t.Context(), o, metav1.CreateOptions{}); err != nil {
			x.t.Fatal(err)
		}
	}
	undo := func(x *thing) {
		o := x.get()
		o.SetLabels(x.before.GetLabels())
		for _, k := range []string{"data", "binaryData"} {
			delete(o.Object, k)
			if v, ok := x.before.Object[k]; ok {
				o.Object[k] = v
			}
		}
		if _, err := x.client().Update(x.t.Context(), o, metav1.UpdateOptions{}); err != nil {
			x.t.Fatal(err)
		}
	}
	immutable := func(do func(*thing)) func(*thing) { return func(x *thing) { do(x); set(true, "immutable")(x) } }

	token := func(x *thing) bool { // another one, in the Secret
		o := x.get()
		if o == nil {
			return false
		}
		now, _, _ := unstructured.NestedString(o.Object, "data", "token")
		old, _, _ := unstructured.NestedString(x.before.Object, "data", "token")
		return now != "" && now != old && now != garbage
	}
	var gitlabs string // the token that GitLab had before
	redelivered := func(x *thing) bool { return x.get() != nil && x.token() != "" && x.token() != gitlabs }
	noted := func(do func(*thing)) func(*thing) { return func(x *thing) { gitlabs = x.token(); do(x) } }

	out := []*thing{
		with(&thing{row: "namespace of a group, project or person", version: "v1", kind: "namespaces", name: "haw-second"},
			harm{then: func(x *thing) bool {
				o := x.get()
				return o != nil && o.GetUID() != x.before.GetUID() && x.hasIn("haw-second", "gitlab-edit", "alice")
			}},
			put(set("project-999999", "metadata", "labels", "gl-k8s-integrator.io/source"))),
		with(rbac("RoleBinding `gitlab-…` in it", "rolebindings", "haw-world", "gitlab-edit"), harm{}, put(set(nil, "subjects"))),
		with(rbac("RoleBinding `gitlab-…` in it", "rolebindings", "haw-world", "gitlab-view"), harm{}, harm{do: set(nil, "metadata", "labels"), finding: "foreign_object", repair: undo}),
		with(&thing{row: "ServiceAccount `gitlab-serviceaccount` in it", version: "v1", kind: "serviceaccounts", namespace: "haw-world", name: "gitlab-serviceaccount"},
			harm{do: noted(remove), then: redelivered}, harm{do: set(nil, "metadata", "labels"), finding: "foreign_object", repair: undo}),
		with(secret("Secret `gitlab-serviceaccount-token` in it", "haw-world", "gitlab-serviceaccount-token"),
			harm{then: token}, harm{do: set(garbage, "data", "token"), then: token}),
		with(secret("Secret `gitlab-serviceaccount-anchor` in it", "haw-world", "gitlab-serviceaccount-anchor"),
			harm{do: noted(remove), then: redelivered}, harm{do: set(garbage, "data", "x"), then: func(x *thing) bool { return x.token() != "" }}),
		with(cm("object from a template", "haw-world", "welcome"), harm{}, put(set("changed", "data", "text"))),
		with(secret("pull Secret from a template", "haw-world", "gitlab-pull-secret"), harm{}, put(set("eyJhdXRocyI6eyJhIjp7fX19", "data", ".dockerconfigjson"))),
		with(secret("Secret `gl-k8s-integrator-shared-…` that a template copies", own, sharedSecret),
			harm{finding: "template_secret_missing", repair: recreate},
			harm{do: set("eyJhdXRocyI6eyJhIjp7fX19", "data", ".dockerconfigjson"), then: func(x *thing) bool {
				s, err := x.admin.CoreV1().Secrets("haw-world").Get(x.t.Context(), "gitlab-pull-secret", metav1.GetOptions{})
				return err == nil && string(s.Data[corev1.DockerConfigJsonKey]) == `{"auths":{"a":{}}}`
			}}),
		with(secret("Secrets `gl-k8s-integrator-snapshot…`", own, store.NameSnapshot),
			harm{then: func(x *thing) bool { return x.snapshot() }},
			harm{do: immutable(set(garbage, "data", "content.gz")), then: func(x *thing) bool { return x.snapshot() }}),
		with(secret("Secrets `gl-k8s-integrator-audit…`", own, store.NameAudit),
			harm{do: func(x *thing) { remove(x); drift(x) }, then: func(x *thing) bool { return x.history("[drift;") }},
			harm{do: func(x *thing) { immutable(set(garbage, "data", "open.gz"))(x); drift(x) }, then: func(x *thing) bool { return x.history("[drift;") }}),
		with(cm("ConfigMap `gl-k8s-integrator-inbox`", own, store.NameInbox),
			harm{do: func(x *thing) { remove(x); x.change() }, then: func(x *thing) bool { return x.arrived() }},
			harm{do: func(x *thing) { immutable(set("", "data", "any_thing"))(x); x.change() }, then: func(x *thing) bool { return x.arrived() && len(x.inbox()) == 0 }}),
		with(cm("ConfigMap `gl-k8s-integrator-plan`", own, store.NameHeld), harm{}, put(set("", "data", "plan"))),
		with(cm("ConfigMap `gl-k8s-integrator-approvals`", own, store.NameApprovals),
			harm{then: func(x *thing) bool { return x.finds("held") && x.metric("held_changes") == "3" }, repair: recreate},
			harm{do: set(map[string]any{"items.json.gz": garbage}, "binaryData"), finding: "approvals_unreadable", repair: undo}),
		with(cm("ConfigMap `gl-k8s-integrator-status`", own, store.NameStatus),
			harm{then: func(x *thing) bool { return app.Status(x.t.Context(), x.cfg, io.Discard) == nil }},
			harm{do: immutable(set("x", "data", "status.json")), then: func(x *thing) bool { return app.Status(x.t.Context(), x.cfg, io.Discard) == nil }}),
		with(&thing{row: "Lease `gl-k8s-integrator`", group: "coordination.k8s.io", version: "v1", kind: "leases", namespace: own, name: store.NameLease},
			harm{then: leads}, harm{do: set("somebody", "spec", "holderIdentity"), then: leads}),
		with(slow(secret("Secret `gl-k8s-integrator-keys`", own, "gl-k8s-integrator-keys")),
			harm{}, harm{do: immutable(set(garbage, "data", "jwks.json")), then: func(x *thing) bool {
				o := x.get()
				return o != nil && equality.Semantic.DeepEqual(o.Object["data"], x.before.Object["data"])
			}}),
		with(rbac("ClusterRole `gitlab-group-master`", "clusterroles", "", "gitlab-group-master"),
			finding("cluster_role", nil), finding("cluster_role", set([]any{}, "rules"))),
		with(rbac("ClusterRoles `edit`, `view` and others that the configuration names", "clusterroles", "", "view"),
			harm{finding: "cluster_role", repair: recreate}, put(set([]any{}, "rules"))),
		with(rbac("ClusterRole and ClusterRoleBinding `gl-k8s-integrator`", "clusterroles", "", "gl-k8s-integrator"),
			finding("cluster_role", nil), finding("cluster_role", set([]any{}, "rules"))),
		with(rbac("ClusterRole and ClusterRoleBinding `gl-k8s-integrator`", "clusterrolebindings", "", "gl-k8s-integrator"),
			finding("cluster_role", nil), finding("cluster_role", set([]any{}, "subjects"))),
		with(rbac("Role and RoleBinding `gl-k8s-integrator`", "roles", own, "gl-k8s-integrator"),
			harm{then: nobodyLeads, repair: apply}, harm{do: set([]any{}, "rules"), then: nobodyLeads, repair: apply}),
		with(rbac("Role and RoleBinding `gl-k8s-integrator`", "rolebindings", own, "gl-k8s-integrator"),
			harm{then: nobodyLeads, repair: apply}, harm{do: set([]any{}, "subjects"), then: nobodyLeads, repair: apply}),
	}
	const policies = "ValidatingAdmissionPolicies and their bindings"
	for _, name := range deploy.Policies() {
		policy := func(kind string) *thing {
			return &thing{row: policies, group: "admissionregistration.k8s.io", version: "v1", kind: kind, name: name}
		}
		out = append(out,
			with(policy("validatingadmissionpolicies"), finding("fence", nil), finding("fence", set("Ignore", "spec", "failurePolicy"))),
			with(policy("validatingadmissionpolicybindings"), finding("fence", nil), finding("fence", set([]any{"Audit"}, "spec", "validationActions"))))
	}
	return append(out,
		with(&thing{row: "ServiceAccount `gl-k8s-integrator`", version: "v1", kind: "serviceaccounts", namespace: own, name: deploy.ServiceAccount, last: true},
			harm{then: nobodyLeads, repair: again}, harm{do: set(nil, "metadata", "labels"), then: leads}),
		with(&thing{row: "namespace `gl-k8s-integrator`", version: "v1", kind: "namespaces", name: own, last: true},
			harm{then: func(x *thing) bool { return x.get() == nil && nobodyLeads(x) }, repair: again}, harm{do: set(nil, "metadata", "labels", "pod-security.kubernetes.io/enforce"), then: leads}))
}

// TestWhatIfSomebodyDeletesOrChanges does harm to each object that we write or depend on, while a process serves. What is
// ours is put back, the rest is a finding or a metric; nobody loses a login or a right by it. docs/drift.md has a row for
// each, and says the same.
func TestWhatIfSomebodyDeletesOrChanges(t *testing.T) {
	u := ruined(t)
	ctx, stop := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { u.watch(ctx) })
	t.Cleanup(func() { stop(); watching.Wait() })
	all, harmed := rows(), 0
	suffer := func(x *thing, how string, h harm, began time.Time) {
		x.suffer(how, h, began)
		if err := u.login(); err != nil {
			t.Errorf("%s %s: %v", x.row, how, err)
		}
		if !u.rights() {
			t.Errorf("%s %s: somebody has lost a right", x.row, how)
		}
	}
	// What is looked at more rarely is harmed first, then half way, and waited for while the others have their turn.
	slow := all[slices.IndexFunc(all, func(x *thing) bool { return x.slow })]
	slow.ruin = u
	since := slow.do(slow.deleted)
	for _, x := range all {
		if x.ruin = u; x.slow {
			continue
		}
		if harmed++; harmed == len(all)/2 {
			suffer(slow, "deleted", slow.deleted, since)
			since = slow.do(slow.changed)
		}
		if x.last && ctx.Err() == nil {
			suffer(slow, "changed", slow.changed, since)
			stop()
			watching.Wait()
		}
		suffer(x, "deleted", x.deleted, x.do(x.deleted))
		suffer(x, "changed", x.changed, x.do(x.changed))
	}
	if n := strings.Count(u.r.log.String(), "panic"); n > 0 {
		t.Error("a panic")
	}
}

// TestTheDocsSayWhatIfSomebodyDeletesOrChanges: a row for each object, with the finding that follows.
func TestTheDocsSayWhatIfSomebodyDeletesOrChanges(t *testing.T) {
	text, err := os.ReadFile("../../docs/drift.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## What if somebody deletes or changes it\n")
	section, _, _ = strings.Cut(section, "\n## ")
	docs := map[string][]string{}
	for _, row := range regexp.MustCompile(`(?m)^\| (.+?) \| (.+?) \| (.+?) \|$`).FindAllStringSubmatch(section, -1) {
		if row[1] != "object" {
			docs[row[1]] = row[2:]
		}
	}
	seen := map[string]bool{}
	for _, x := range rows() {
		seen[x.row] = true
		cells := docs[x.row]
		if cells == nil {
			t.Errorf("the docs have no row %q", x.row)
			continue
		}
		for i, h := range []harm{x.deleted, x.changed} {
			if h.finding != "" && !strings.Contains(cells[i], "`"+h.finding+"`") {
				t.Errorf("%s: the docs don't name %s: %s", x.row, h.finding, cells[i])
			}
			if h.finding == "" && h.then == nil && !strings.Contains(cells[i], "put back") {
				t.Errorf("%s: the docs don't say that it is put back: %s", x.row, cells[i])
			}
			if h.repair != nil && !regexp.MustCompile("apply deploy/manifests|make it|delete it|approve it").MatchString(cells[i]) {
				t.Errorf("%s: the docs don't say what to do: %s", x.row, cells[i])
			}
		}
	}
	for row := range docs {
		if !seen[row] {
			t.Errorf("the docs have the row %q, and nothing tries it", row)
		}
	}
}
