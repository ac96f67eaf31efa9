package syncer_test

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

func loadTemplates(files map[string]string) (*rbacsync.Templates, error) {
	var kinds []rbacsync.TemplateKind
	for _, name := range rbacsync.DefaultTemplateKinds() {
		k, err := rbacsync.ParseTemplateKind(name)
		if err != nil {
			return nil, err
		}
		kinds = append(kinds, k)
	}
	folder := fstest.MapFS{}
	for name, text := range files {
		folder[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return rbacsync.LoadTemplates(folder, kinds)
}

const quotas = `apiVersion: v1
kind: ResourceQuota
metadata: {name: default}
spec: {hard: {pods: "10", requests.cpu: 1000m, requests.memory: 1024Mi}}
---
apiVersion: v1
kind: ResourceQuota
metadata:
  name: default
  annotations: {gl-k8s-integrator.io/for: "project/1340, group/99"}
spec: {hard: {pods: "50"}}
---
# only a comment
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: own-namespace
  annotations: {gl-k8s-integrator.io/for: "project"}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {}}]}]
`

const about = `apiVersion: v1
kind: ConfigMap
metadata: {name: about, labels: {team: platform}}
data:
  namespace: $(NAMESPACE)
  source: $(SOURCE_KIND)/$(SOURCE_ID)
  path: "path $(SOURCE_PATH)"
  plain: $$(NAMESPACE) costs $5
`

const pull = `apiVersion: v1
kind: Secret
metadata:
  name: gitlab-pull-secret
  annotations: {gl-k8s-integrator.io/copy-from: gl-k8s-integrator-shared-pull-secret}
type: kubernetes.io/dockerconfigjson
`

func TestTemplateFaultsAllAtOnce(t *testing.T) {
	t.Parallel()
	_, err := loadTemplates(map[string]string{
		"a.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n---\na: [\n---\napiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: x}\n",
		"b.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: $(NAMESPACE), namespace: kube-system, labels: {app.kubernetes.io/managed-by: me, gl-k8s-integrator.io/source: group-1}}\ndata: {a: $(SOURCE), b: $(NAMESPACE)}\n",
		"c.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: mine, annotations: {gl-k8s-integrator.io/copy-from: gl-k8s-integrator-snapshot}}\ntype: kubernetes.io/service-account-token\ndata: {a: Yg==}\n",
		"d.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: twice}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: twice}\n",
		"e.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: for, annotations: {gl-k8s-integrator.io/for: haw/world}}\n",
		"f.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: keys}\ndata: {a: x, a: y}\n",
		"g.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: number, annotations: {gl-k8s-integrator.io/for: project, revision: 5}}\n",
		"h.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: flag, labels: {team: platform, public: true}}\n",
		"i.yaml": "kind: ConfigMap\nmetadata: {name: i}\n",
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		"a.yaml, document 1: v1 Pod is not among", "a.yaml, document 2: not valid YAML", "a.yaml, document 3: rbac.authorization.k8s.io/v1 RoleBinding is not among",
		"b.yaml, document 1: metadata.name \"$(NAMESPACE)\"", "may not have a namespace", "\"app.kubernetes.io/managed-by\" is set by this program", "\"gl-k8s-integrator.io/source\" is set by this program",
		"$(SOURCE) is not a field", "a Secret is named gitlab-pull-secret or", "the type of a Secret is", "has no data of its own", "only one whose name starts with gl-k8s-integrator-shared-",
		"both make the ConfigMap \"twice\"", "want group, project, user, or an id such as group/7, not \"haw/world\"", "f.yaml, document 1: not valid YAML",
		"g.yaml, document 1: metadata.annotations: each value is a string", "h.yaml, document 1: metadata.labels: each value is a string",
		"i.yaml, document 1: apiVersion or kind is missing",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(err)
	}
	if _, err := loadTemplates(nil); err == nil {
		t.Error("an empty folder is accepted: is it the right one?")
	}
	for _, kind := range []string{"Pod", "Namespace", "ServiceAccount", "Role.v1.rbac.authorization.k8s.io/roles", "Deployment.v1.apps/deployments"} {
		if _, err := rbacsync.ParseTemplateKind(kind); err == nil {
			t.Errorf("%s is accepted as a kind of templates", kind)
		}
	}
	if k, err := rbacsync.ParseTemplateKind("CiliumNetworkPolicy.v2.cilium.io/ciliumnetworkpolicies"); err != nil || k.GVR().String() != "cilium.io/v2, Resource=ciliumnetworkpolicies" {
		t.Errorf("%v %v", k, err)
	}
}

// hostile is a path as nobody should be able to make it; whatever it is, it stays inside one string.
const hostile = "x\"}\n  evil: true # $(NAMESPACE)"

// templates gives the integrator the rights for templates and a Secret to copy, and returns its client for them.
func (c *testCluster) templates(t *testing.T) dynamic.Interface {
	t.Helper()
	if err := deploy.ApplyForTemplates(t.Context(), c.cp.AdminConfig()); err != nil {
		t.Fatal(err)
	}
	_, err := c.admin.CoreV1().Secrets(deploy.Namespace).Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "gl-k8s-integrator-shared-pull-secret"}, Type: corev1.SecretTypeDockerConfigJson,
		Data: map[string][]byte{".dockerconfigjson": []byte(`{"auths":{"registry.example.com":{"auth":"c2VjcmV0"}}}`)},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	cfg := c.as(c.token)
	h, err := rest.HTTPClientFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.CloseIdleConnections)
	client, err := dynamic.NewForConfigAndClient(cfg, h)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// TestClusterTemplates: made before anybody has rights, kept right, replaced, pruned; with our own ServiceAccount.
func TestClusterTemplates(t *testing.T) {
	c := realCluster(t)
	client := c.templates(t)
	newSyncer := func(g *gitlab, files map[string]string) *syncer.Syncer {
		t.Helper()
		templates, err := loadTemplates(files)
		if err != nil {
			t.Fatal(err)
		}
		return newSyncer(t, syncer.Options{Reader: g, Kube: c.own, Dynamic: client, OwnNamespace: deploy.Namespace, Settings: rbacsync.Settings{Templates: templates}})
	}
	snap := org(340, "templates")
	p := snap.Projects[1340]
	p.Path = hostile
	snap.Projects[1340] = p
	g := &gitlab{snap: snap}
	all := map[string]string{"q.yaml": quotas, "about.yaml": about, "pull.yaml": pull}
	s := newSyncer(g, all)
	r := once(t, s)
	if len(r.Report.Failed) != 0 || strings.Contains(codes(r), "template") {
		t.Fatalf("%v %v", r.Report.Failed, r.Findings)
	}
	ns := r.Names[authz.ProjectID(1340)]
	text := rbacsync.Text(r.Plan)
	if strings.Index(text, "create ResourceQuota "+ns+"/default") > strings.Index(text, "create RoleBinding "+ns+"/gitlab-edit") || !strings.Contains(text, "create ResourceQuota") {
		t.Errorf("quotas don't come before rights:\n%s", text)
	}
	core := c.admin.CoreV1()
	quota := func(ns string) string {
		t.Helper()
		q, err := core.ResourceQuotas(ns).Get(t.Context(), "default", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return q.Spec.Hard.Pods().String()
	}
	if quota(ns) != "50" || quota("templates") != "10" {
		t.Errorf("pods %s and %s, want 50 for the project named by id, 10 for the group", quota(ns), quota("templates"))
	}
	if _, err := c.admin.NetworkingV1().NetworkPolicies(ns).Get(t.Context(), "own-namespace", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := c.admin.NetworkingV1().NetworkPolicies("templates").Get(t.Context(), "own-namespace", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a template for projects in a group's namespace: %v", err)
	}
	cm, err := core.ConfigMaps(ns).Get(t.Context(), "about", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]string{"namespace": ns, "source": "project/1340", "path": "path x\"}?  evil: true # $(NAMESPACE)", "plain": "$(NAMESPACE) costs $5", "evil": ""} {
		if cm.Data[k] != want {
			t.Errorf("%s = %q, want %q", k, cm.Data[k], want)
		}
	}
	if cm.Labels["team"] != "platform" || cm.Labels[kubename.LabelManagedBy] != kubename.ManagedBy {
		t.Errorf("labels %v", cm.Labels)
	}
	sec, err := core.Secrets(ns).Get(t.Context(), "gitlab-pull-secret", metav1.GetOptions{})
	if err != nil || !strings.Contains(string(sec.Data[".dockerconfigjson"]), "registry.example.com") || len(sec.Annotations) != 1 {
		t.Errorf("the copied Secret: %v %v", err, sec.Annotations)
	}
	for name, s := range map[string]*syncer.Syncer{"the same program": s, "another one": newSyncer(g, all)} {
		if r := once(t, s); len(r.Plan) != 0 || len(r.Findings) != 0 {
			t.Errorf("%s still plans:\n%s%v", name, rbacsync.Text(r.Plan), r.Findings)
		}
	}

	// Drift: a changed field, an emptied selector filled, an added key, a deleted object.
	if _, err := core.ResourceQuotas(ns).Patch(t.Context(), "default", types.MergePatchType, []byte(`{"spec":{"hard":{"pods":"1000"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	nobody := []byte(`{"spec":{"podSelector":{"matchLabels":{"no":"body"}}}}`)
	if _, err := c.admin.NetworkingV1().NetworkPolicies(ns).Patch(t.Context(), "own-namespace", types.MergePatchType, nobody, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := core.ConfigMaps(ns).Delete(t.Context(), "about", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if r = once(t, s); len(r.Plan) != 3 {
		t.Errorf("drift:\n%s", rbacsync.Text(r.Plan))
	}
	if quota(ns) != "50" {
		t.Errorf("pods %s after the repair", quota(ns))
	}
	if np, err := c.admin.NetworkingV1().NetworkPolicies(ns).Get(t.Context(), "own-namespace", metav1.GetOptions{}); err != nil || len(np.Spec.PodSelector.MatchLabels) != 0 {
		t.Errorf("the policy still leaves pods out: %v %v", err, np.Spec.PodSelector)
	}
	if r = once(t, s); len(r.Plan) != 0 {
		t.Errorf("after the repair:\n%s", rbacsync.Text(r.Plan))
	}

	// A template that is changed, one that is taken away, a foreign object of a template's name.
	if err := core.ConfigMaps("templates").Delete(t.Context(), "about", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := core.ConfigMaps("templates").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "about"}, Data: map[string]string{"a": "theirs"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s = newSyncer(g, map[string]string{"q.yaml": strings.ReplaceAll(strings.Split(quotas, "---\napiVersion: networking")[0], `pods: "50"`, `services: "7"`), "about.yaml": about, "pull.yaml": pull})
	r = once(t, s)
	if !strings.Contains(codes(r), "foreign_object") || !strings.Contains(rbacsync.Text(r.Plan), "delete NetworkPolicy "+ns+"/own-namespace") || len(r.Plan) != 2 {
		t.Errorf("changed templates:\n%s%s", rbacsync.Text(r.Plan), codes(r))
	}
	q, err := core.ResourceQuotas(ns).Get(t.Context(), "default", metav1.GetOptions{})
	if err != nil || len(q.Spec.Hard) != 1 {
		t.Errorf("the old key stays: %v %v", err, q.Spec.Hard)
	}
	if cm, err := core.ConfigMaps("templates").Get(t.Context(), "about", metav1.GetOptions{}); err != nil || cm.Data["a"] != "theirs" {
		t.Errorf("somebody else's object was changed: %v", err)
	}

	// The source goes: what is in the namespace stays, for whoever looks into it.
	g.snap = rbacsynctest.CopySnap(snap)
	g.snap.Projects = map[int64]authz.Project{}
	once(t, s)
	if quota("templates") != "10" {
		t.Error("the group's quota")
	}
	if _, err := core.ResourceQuotas(ns).Get(t.Context(), "default", metav1.GetOptions{}); err != nil {
		t.Errorf("a retained namespace lost its quota: %v", err)
	}
}

// TestTemplatesWithoutRights: without the optional role templates are left out with a finding, and rights still follow.
func TestTemplatesWithoutRights(t *testing.T) {
	t.Parallel()
	templates, err := loadTemplates(map[string]string{"q.yaml": quotas})
	if err != nil {
		t.Fatal(err)
	}
	kube := fake.NewClientset()
	s := newSyncer(t, syncer.Options{Reader: &gitlab{snap: rbacsynctest.HawWorld()}, Kube: kube, Settings: rbacsync.Settings{Templates: templates}})
	r := once(t, s)
	if !strings.Contains(codes(r), "templates_unread") || len(r.Plan) != 10 {
		t.Errorf("%d changes, findings %s", len(r.Plan), codes(r))
	}
	wantSubjects(t, kube, "haw-world", "gitlab-view", "gitlab:3")
}

// TestClusterTemplateDriftIsPutBackAtOnce: by watches, with the real role and in its cage; the Secret is watched by name.
func TestClusterTemplateDriftIsPutBackAtOnce(t *testing.T) {
	c := realCluster(t)
	client, seen := c.templates(t), &rounds{}
	templates, err := loadTemplates(map[string]string{"q.yaml": quotas, "about.yaml": about, "pull.yaml": pull})
	if err != nil {
		t.Fatal(err)
	}
	s := newSyncer(t, syncer.Options{
		Reader: &gitlab{snap: org(345, "template-drift")}, Kube: c.own, Dynamic: client, OwnNamespace: deploy.Namespace,
		Settings: rbacsync.Settings{Templates: templates}, Interval: time.Hour, Watch: c.own, DynamicWatch: client, OnRound: seen.add,
	})
	running(t, s)
	const ns = "template-drift-world"
	eventually(t, "the first round", func() bool { return len(seen.causes()) > 0 })
	time.Sleep(500 * time.Millisecond) // what the controllers write into the status of quotas is no drift
	if got := seen.causes(); len(got) != 1 {
		t.Errorf("rounds %v, want the first alone", got)
	}
	if r := seen.taken()[0]; r.Err != nil || strings.Contains(codes(r), "template") {
		t.Errorf("the first round: %v, %v", r.Err, r.Findings)
	}
	ctx, core, net := t.Context(), c.admin.CoreV1(), c.admin.NetworkingV1()
	for _, x := range []struct {
		kind, what string
		change     func() error
		ok         func() bool
	}{
		{"ResourceQuota", "a raised quota", func() error {
			_, err := core.ResourceQuotas(ns).Patch(ctx, "default", types.MergePatchType, []byte(`{"spec":{"hard":{"pods":"1000"}}}`), metav1.PatchOptions{})
			return err
		}, func() bool {
			q, err := core.ResourceQuotas(ns).Get(ctx, "default", metav1.GetOptions{})
			return err == nil && q.Spec.Hard.Pods().String() == "10"
		}},
		{"ResourceQuota", "a deleted quota", func() error { return core.ResourceQuotas(ns).Delete(ctx, "default", metav1.DeleteOptions{}) }, func() bool {
			q, err := core.ResourceQuotas(ns).Get(ctx, "default", metav1.GetOptions{})
			return err == nil && q.Spec.Hard.Pods().String() == "10"
		}},
		{"NetworkPolicy", "a policy that leaves pods out", func() error {
			_, err := net.NetworkPolicies(ns).Patch(ctx, "own-namespace", types.MergePatchType, []byte(`{"spec":{"podSelector":{"matchLabels":{"no":"body"}}}}`), metav1.PatchOptions{})
			return err
		}, func() bool {
			p, err := net.NetworkPolicies(ns).Get(ctx, "own-namespace", metav1.GetOptions{})
			return err == nil && len(p.Spec.PodSelector.MatchLabels) == 0
		}},
		{"Secret", "a changed pull Secret", func() error {
			_, err := core.Secrets(ns).Patch(ctx, "gitlab-pull-secret", types.MergePatchType, []byte(`{"data":{".dockerconfigjson":"e30="}}`), metav1.PatchOptions{})
			return err
		}, func() bool {
			sec, err := core.Secrets(ns).Get(ctx, "gitlab-pull-secret", metav1.GetOptions{})
			return err == nil && strings.Contains(string(sec.Data[".dockerconfigjson"]), "registry.example.com")
		}},
		{"Secret", "a deleted pull Secret", func() error { return core.Secrets(ns).Delete(ctx, "gitlab-pull-secret", metav1.DeleteOptions{}) }, func() bool {
			_, err := core.Secrets(ns).Get(ctx, "gitlab-pull-secret", metav1.GetOptions{})
			return err == nil
		}},
		{"ConfigMap", "a deleted ConfigMap", func() error { return core.ConfigMaps(ns).Delete(ctx, "about", metav1.DeleteOptions{}) }, func() bool {
			cm, err := core.ConfigMaps(ns).Get(ctx, "about", metav1.GetOptions{})
			return err == nil && cm.Data["namespace"] == ns
		}},
		{"ConfigMap", "an object with our marks that no template makes", func() error {
			_, err := core.ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
				Name: "extra", Labels: map[string]string{kubename.LabelManagedBy: kubename.ManagedBy, kubename.LabelTemplate: "true"},
			}}, metav1.CreateOptions{})
			return err
		}, func() bool {
			_, err := core.ConfigMaps(ns).Get(ctx, "extra", metav1.GetOptions{})
			return apierrors.IsNotFound(err)
		}},
	} {
		if err := x.change(); err != nil {
			t.Fatalf("%s: %v", x.what, err)
		}
		t.Logf("%s: put right after %v", x.what, eventually(t, x.what+" is put right", x.ok))
		eventually(t, "an Event about "+x.what, func() bool {
			events, err := core.Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "reason=DriftRestored,involvedObject.kind=" + x.kind})
			return err == nil && len(events.Items) > 0 && strings.Contains(events.Items[0].Message, "template of the cluster's administrators")
		})
	}
	for _, cause := range seen.causes()[1:] {
		if cause != "drift" {
			t.Errorf("a round %q: nothing here should need GitLab", cause)
		}
	}

	// Somebody else's object in our place is left alone, and ours comes when it goes.
	if err := core.ConfigMaps("template-drift").Delete(ctx, "about", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for {
		_, err := core.ConfigMaps("template-drift").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "about"}}, metav1.CreateOptions{})
		if err == nil {
			break
		}
		if err := core.ConfigMaps("template-drift").Delete(ctx, "about", metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
	}
	time.Sleep(300 * time.Millisecond)
	if cm, err := core.ConfigMaps("template-drift").Get(ctx, "about", metav1.GetOptions{}); err != nil || len(cm.Labels) != 0 {
		t.Errorf("the foreign ConfigMap was touched: %v %v", err, cm.Labels)
	}
	if err := core.ConfigMaps("template-drift").Delete(ctx, "about", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "ours is back", func() bool {
		cm, err := core.ConfigMaps("template-drift").Get(ctx, "about", metav1.GetOptions{})
		return err == nil && cm.Labels[kubename.LabelManagedBy] == kubename.ManagedBy
	})
}
