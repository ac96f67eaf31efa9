package syncer_test

import (
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// leaving returns the blocks of docs/leaving.md for a namespace, by their names.
func leaving(t *testing.T, ns string) map[string]string {
	t.Helper()
	page, err := os.ReadFile("../../docs/leaving.md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, b := range regexp.MustCompile("(?s)```([^\n]*)\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		out[b[1]] = strings.ReplaceAll(b[2], "haw-world", ns)
	}
	return out
}

func (c *testCluster) impersonate(t *testing.T, user string, groups ...string) kubernetes.Interface {
	t.Helper()
	cfg := c.cp.AdminConfig()
	cfg.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: append(groups, "system:authenticated")}
	client, err := c.client(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// TestClusterWhatIsLeftBehind: alice lets their CI job make a ServiceAccount that may do everything in the namespace, runs a
// pod as it, and leaves. That is a finding, after a restart too, and the commands of docs/leaving.md end all of it.
func TestClusterWhatIsLeftBehind(t *testing.T) {
	c := realCluster(t)
	const ns = "left-world"
	ctx := t.Context()
	docs := leaving(t, ns)
	if len(docs) != 4 {
		t.Fatalf("docs/leaving.md has the blocks %v, want four that are run here", docs)
	}
	do := func(block string) string {
		t.Helper()
		cmd := exec.CommandContext(ctx, "/bin/sh", "-ec", strings.ReplaceAll(docs[block], "kubectl ", c.cp.Kubectl()+" "))
		cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=/usr/bin:/bin", "KUBECONFIG=" + c.cp.AdminKubeconfig()}
		out, err := cmd.CombinedOutput()
		if docs[block] == "" || err != nil {
			t.Fatalf("the block %q: %v\n%s", block, err, out)
		}
		return string(out)
	}
	snap := org(320, "left")
	full, seen := snap, &rounds{}
	g := &gitlab{snap: snap}
	s := newSyncer(t, syncer.Options{Reader: g, Kube: c.own, Watch: c.own, Interval: time.Hour, OnRound: seen.add})
	c.oldPod(t, ns, snap.Issuer, 1320)
	running(t, s)
	eventually(t, "the first round", func() bool { return len(seen.causes()) > 0 })
	c.may(t, true, "gitlab:2", ns, "create", "", "pods")
	c.may(t, true, kubename.ServiceAccountUser(ns), ns, "create", "", "pods")
	bot := c.leaveThings(t, ns)
	open, err := c.impersonate(t, "gitlab:2").CoreV1().ConfigMaps(ns).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer open.Stop()
	left := func() string {
		var texts []string
		if st := s.State(); st != nil {
			for _, f := range st.Round.Findings {
				if f.Code == "left_behind" {
					texts = append(texts, f.Text)
				}
			}
		}
		return strings.Join(texts, "\n")
	}
	if left() != "" {
		t.Errorf("before anybody left: %s", left())
	}

	g.set(func(g *gitlab) {
		g.snap = rbacsynctest.CopySnap(full)
		group := g.snap.Groups[320]
		group.Members = nil
		g.snap.Groups[320] = group
	})
	s.Trigger([]authz.SourceID{authz.GroupID(320)}, "hook")
	c.may(t, false, "gitlab:2", ns, "create", "", "pods")
	eventually(t, "the finding, without another reading of GitLab", func() bool { return left() != "" })
	for _, part := range []string{"namespace " + ns, "gitlab:2 (alice)", "bot (gitlab-group-master for bot)", "worker (as bot)", "old (as gitlab-serviceaccount)"} {
		if !strings.Contains(left(), part) {
			t.Errorf("the finding lacks %q: %s", part, left())
		}
	}
	if strings.Contains(left(), "plain") || strings.Contains(left(), "could not") {
		t.Errorf("the finding has too much: %s", left())
	}

	// What docs/leaving.md says of watches.
	if _, err := c.impersonate(t, "gitlab:2").CoreV1().ConfigMaps(ns).List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a new request: %v", err)
	}
	if _, err := c.admin.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "later"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(10 * time.Second)
	for shown := false; !shown; {
		select {
		case e := <-open.ResultChan():
			m, _ := e.Object.(*corev1.ConfigMap)
			shown = m != nil && m.Name == "later"
		case <-deadline:
			t.Fatal("an open watch shows nothing of what is written later: docs/leaving.md says it does")
		}
	}

	again := newSyncer(t, syncer.Options{Reader: g, Kube: c.own})
	if r := once(t, again); len(r.Plan) != 0 || codes(r) != "left_behind" || r.Findings[0].Text != left() {
		t.Errorf("after a restart: %s%v", rbacsync.Text(r.Plan), r.Findings)
	}
	g.set(func(g *gitlab) { g.snap = full })
	s.Trigger(nil, "test")
	eventually(t, "no finding while alice is back", func() bool { return left() == "" })
	g.set(func(g *gitlab) { g.snap = rbacsynctest.CopySnap(full); delete(g.snap.Users, 2) })
	s.Trigger(nil, "test")
	eventually(t, "the finding when alice's account is gone", func() bool { return strings.Contains(left(), "where gitlab:2 lost") })

	for _, part := range []string{"bot", "worker", "forever"} {
		if out := do("sh look"); !strings.Contains(out, part) {
			t.Errorf("%q is not seen by the commands of docs/leaving.md:\n%s", part, out)
		}
	}
	do("sh end bot")
	s.Trigger(nil, "test")
	eventually(t, "the finding to name what is left alone", func() bool { return !strings.Contains(left(), "bot") })
	if !strings.Contains(left(), "there still are pods: old (as gitlab-serviceaccount);") {
		t.Errorf("of what is left: %s", left())
	}
	do("sh end gitlab-serviceaccount")
	s.Trigger(nil, "test")
	eventually(t, "the finding to go away", func() bool { return left() == "" })
	eventuallyWithin(t, 20*time.Second, "the tokens of the account to be void", func() bool {
		_, err := bot.CoreV1().ConfigMaps(ns).List(ctx, metav1.ListOptions{})
		return apierrors.IsUnauthorized(err)
	})

	c.leaveThings(t, ns)
	s.Trigger(nil, "test")
	eventually(t, "the finding of what was made anew within a day, by what was left", func() bool { return strings.Contains(left(), "bot (gitlab-group-master for bot)") })
	do("sh wanted")
	s.Trigger(nil, "test")
	eventually(t, "the finding to go away when it is wanted", func() bool { return left() == "" })
}

// noPods lets no list of pods through until its channel is closed.
type noPods struct {
	next http.RoundTripper
	open chan struct{}
	seen atomic.Bool
}

func (h *noPods) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasSuffix(r.URL.Path, "/pods") {
		h.seen.Store(true)
		select {
		case <-h.open:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	return h.next.RoundTrip(r)
}

// TestClusterNothingWaitsForWhatIsLeft: while pods can't be listed, the next right is taken all the same.
func TestClusterNothingWaitsForWhatIsLeft(t *testing.T) {
	c := realCluster(t)
	h := &noPods{open: make(chan struct{})}
	cfg := c.as(c.token)
	cfg.Wrap(func(rt http.RoundTripper) http.RoundTripper { h.next = rt; return h })
	kube, err := c.client(cfg)
	if err != nil {
		t.Fatal(err)
	}
	full, seen := org(330, "hangs"), &rounds{}
	g := &gitlab{snap: full}
	s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Watch: kube, Interval: time.Hour, OnRound: seen.add})
	running(t, s)
	eventually(t, "the first round", func() bool { return len(seen.causes()) > 0 })
	c.leaveThings(t, "hangs-world")
	leaves := func(user int64) {
		g.set(func(g *gitlab) { g.snap = rbacsynctest.CopySnap(g.snap); delete(g.snap.Users, user) })
		s.Trigger([]authz.SourceID{authz.GroupID(330), authz.ProjectID(1330)}, "hook")
	}
	leaves(2)
	eventually(t, "a list of pods", h.seen.Load)
	c.may(t, true, "gitlab:3", "hangs-world", "get", "", "pods")
	leaves(3)
	c.may(t, false, "gitlab:3", "hangs-world", "get", "", "pods")
	s.Trigger(nil, "interval")
	eventually(t, "a full round", func() bool { return slices.Contains(seen.causes(), "interval") })
	close(h.open)
	eventually(t, "the finding", func() bool {
		return slices.ContainsFunc(s.State().Round.Findings, func(f authz.Finding) bool { return f.Code == "left_behind" && strings.Contains(f.Text, "worker") })
	})
}

func eventuallyWithin(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Since(start) > limit {
			t.Fatalf("never: %s", what)
		}
	}
}

// oldPod makes a namespace of the project as it was before the fence: with a pod that runs as gitlab-serviceaccount.
func (c *testCluster) oldPod(t *testing.T, ns, issuer string, project int64) {
	t.Helper()
	ctx, mark := t.Context(), map[string]string{kubename.LabelManagedBy: kubename.ManagedBy}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: ns, Labels: map[string]string{kubename.LabelSource: authz.ProjectID(project).Label(), "pod-security.kubernetes.io/enforce": "baseline"},
		Annotations: map[string]string{kubename.AnnotationIssuer: issuer},
	}}, metav1.CreateOptions{})
	must(err)
	_, err = c.admin.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: kubename.CIServiceAccount, Labels: mark}}, metav1.CreateOptions{})
	must(err)
	_, err = c.admin.CoreV1().Pods(ns).Create(ctx, podOf("old", kubename.CIServiceAccount), metav1.CreateOptions{})
	must(err)
	_, err = c.admin.CoreV1().Namespaces().Patch(ctx, ns, types.MergePatchType, []byte(`{"metadata":{"labels":{"`+kubename.LabelManagedBy+`":"`+kubename.ManagedBy+`"}}}`), metav1.PatchOptions{})
	must(err)
}

func podOf(name, account string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{ServiceAccountName: account, Containers: []corev1.Container{{Name: "c", Image: "none"}}},
	}
}

// leaveThings makes what a Maintainer can leave in a namespace: a ServiceAccount bot with all rights, and a pod; and a
// Secret with a token of it, which is from before the fence. It returns a client with a token of bot.
func (c *testCluster) leaveThings(t *testing.T, ns string) kubernetes.Interface {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	job := c.impersonate(t, kubename.ServiceAccountUser(ns), "system:serviceaccounts", "system:serviceaccounts:"+ns)
	_, err := job.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "bot"}}, metav1.CreateOptions{})
	must(err)
	for name, role := range map[string]string{"bot": kubename.CIClusterRole, "bot-looks": "view"} {
		_, err = job.RbacV1().RoleBindings(ns).Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: ns, Name: "bot"}},
		}, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			must(err)
		}
	}
	for name, account := range map[string]string{"worker": "bot", "plain": "default"} {
		_, err = job.CoreV1().Pods(ns).Create(ctx, podOf(name, account), metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			must(err)
		}
	}
	_, err = c.admin.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "forever", Annotations: map[string]string{corev1.ServiceAccountNameKey: "bot"}}, Type: corev1.SecretTypeServiceAccountToken,
	}, metav1.CreateOptions{})
	must(err)
	hour := int64(3600)
	tr, err := c.admin.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "bot", &authnv1.TokenRequest{Spec: authnv1.TokenRequestSpec{ExpirationSeconds: &hour}}, metav1.CreateOptions{})
	must(err)
	bot, err := c.client(c.as(tr.Status.Token))
	must(err)
	eventually(t, "bot to have rights", func() bool {
		_, err := bot.CoreV1().ConfigMaps(ns).List(ctx, metav1.ListOptions{})
		return err == nil
	})
	return bot
}
