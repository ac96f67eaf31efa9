package drills_test

import (
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/setup"
)

const year = 365 * 24 * time.Hour

// TestDrills tells one story: each drill begins where the last one ended. Who does what docs/break-glass.md says has mended it.
func TestDrills(t *testing.T) {
	e := newEnv(t, time.Now().Add(-year-time.Minute))
	for _, d := range []struct {
		name  string
		drill func(e *env)
	}{
		{"a certificate has ended", certificateEnded},
		{"the integrator is down", integratorDown},
		{"GitLab is away", gitlabAway},
		{"a token of GitLab has ended", tokenEnded},
		{"GitLab was restored", gitlabRestored},
		{"etcd was restored", etcdRestored},
		{"our namespace is gone", namespaceGone},
		{"an authority has ended", authorityEnded},
		{"the integrator is a Deployment", deployment},
	} {
		if !t.Run(d.name, func(t *testing.T) {
			e.t = t
			begin := time.Now()
			d.drill(e)
			t.Logf("%.1f s", time.Since(begin).Seconds())
		}) {
			t.FailNow()
		}
		e.t = t
	}
	for key := range e.pages {
		if !e.ran[key] {
			t.Errorf("no drill runs the commands of %q", key)
		}
	}
}

// certificateEnded: both the webhooks' certificate and kube-apiserver's own have ended. Nothing is started again.
func certificateEnded(e *env) {
	e.shutOut("alice")
	if out, _ := e.try("break-glass: What is broken: look"); !strings.Contains(out, "certificate: listeners.webhooks.certFile") {
		e.t.Errorf("doctor does not name the certificate:\n%s", out)
	}
	for _, what := range []string{"listeners.webhooks.certFile", "listeners.hooks.certFile"} {
		m := regexp.MustCompile(`expires_timestamp_seconds\{what="` + regexp.QuoteMeta(what) + `"\} (\S+)`).FindStringSubmatch(e.metrics())
		if m == nil {
			e.t.Fatalf("no metric tells of %s", what)
		}
		if at, err := strconv.ParseFloat(m[1], 64); err != nil || at > float64(time.Now().Unix()) {
			e.t.Errorf("%s ends at %s, %v", what, m[1], err)
		}
	}
	if !e.works(e.token()) {
		e.t.Error("a job's token does not work")
	}
	if out := e.run("break-glass: A certificate has ended: renew"); strings.Contains(out, "warning") {
		e.t.Errorf("an authority is still good:\n%s", out)
	}
	e.run("break-glass: A certificate has ended: renewed")
	took := e.await("alice logs in", func() bool { return e.login("alice") == nil })
	e.t.Logf("alice logs in %.1f s after the new files", took.Seconds())
	e.run("break-glass: GitLab was restored: again") // from now on there is a hook
}

func integratorDown(e *env) {
	e.run("break-glass: GitLab was restored: stop")
	e.shutOut("alice")
	job := e.token()
	if !e.works(job) {
		e.t.Error("a job's token does not work")
	}
	if err := e.with(job, "default"); !apierrors.IsInternalError(err) {
		e.t.Errorf("what is not allowed: %v, want HTTP 500", err)
	}
	if err := e.login("alice"); !apierrors.IsUnauthorized(err) {
		e.t.Errorf("alice logs in: %v", err)
	}
	e.run("break-glass: The integrator is down: no reasons")
	e.await("refusals are HTTP 403 again", func() bool { return apierrors.IsForbidden(e.with(job, "default")) })
	e.remove("bob") // nobody hears of it
	e.run("break-glass: The integrator is down: start")
	e.run("break-glass: The integrator is down: reasons")
	e.await("refusals are explained", func() bool {
		err := e.with(job, "default")
		return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "gitlab: ")
	})
	e.await("alice logs in", func() bool { return e.login("alice") == nil })
	e.await("bob's right is gone", func() bool { return !e.has("gitlab-view", "bob") })
	e.set("bob", gitlabsim.Developer)
	e.await("bob's right is back", func() bool { return e.has("gitlab-view", "bob") })
}

// gitlabAway: the integrator is even started again meanwhile. What ends by its date is tested in rbacsync/syncer:
// TestRunTakesExpiredRightsWithoutGitLab.
func gitlabAway(e *env) {
	e.gitlab.SetFaults(gitlabsim.Faults{Down: true})
	e.set("carol", gitlabsim.Maintainer)
	e.remove("bob")
	e.await("status says so", func() bool { return strings.Contains(e.status(), "FAILING") })
	e.run("break-glass: A certificate has ended: restart")
	e.await("alice is let in with a token that GitLab made before", func() bool { return e.login("alice") == nil })
	if !e.works(e.token()) || !e.has("gitlab-view", "bob") || e.has("gitlab-edit", "carol") {
		e.t.Error("rights have changed while GitLab is away")
	}

	e.run("break-glass: Let somebody in: let in")
	e.run("break-glass: Let somebody in: file")
	as := func(command string) (string, error) {
		return e.shell(e.root, "kubectl --kubeconfig bob.kubeconfig "+command)
	}
	if out, err := as("create configmap work"); err != nil {
		e.t.Errorf("who was let in can't work: %v\n%s", err, out)
	}
	if out, err := as("get pods --namespace default"); err == nil || !strings.Contains(out, "Forbidden") {
		e.t.Errorf("who was let in gets everywhere: %v\n%s", err, out)
	}
	if st, err := os.Stat(e.path("bob.kubeconfig")); err != nil || st.Mode().Perm() != 0o600 {
		e.t.Errorf("the kubeconfig is readable: %v, %v", st, err)
	}

	e.gitlab.SetFaults(gitlabsim.Faults{})
	e.await("what has changed is carried out", func() bool { return e.has("gitlab-edit", "carol") && !e.has("gitlab-view", "bob") })
	e.await("status is well", func() bool { return !strings.Contains(e.status(), "FAILING") })
	if s := e.status(); strings.Contains(s, "foreign_binding") || strings.Contains(s, "left_behind") {
		e.t.Errorf("letting somebody in is a finding:\n%s", s)
	}
	if out := e.run("break-glass: Let somebody in: nobody"); !strings.Contains(out, "break-glass-bob") {
		e.t.Errorf("whoever was let in is not listed: %s", out)
	}
	e.run("break-glass: Let somebody in: take back")
	e.await("bob is out", func() bool {
		out, err := as("get configmaps")
		return err != nil && strings.Contains(out, "Unauthorized")
	})
	if out := e.run("break-glass: Let somebody in: nobody"); strings.Contains(out, "break-glass-bob") {
		e.t.Errorf("a binding is left: %s", out)
	}
	e.remove("carol")
	e.set("bob", gitlabsim.Developer)
	e.await("it is as before", func() bool { return !e.has("gitlab-edit", "carol") && e.has("gitlab-view", "bob") })
}

func tokenEnded(e *env) {
	read := func(name string) string {
		text, err := os.ReadFile(e.path("etc/integrator", name))
		e.ok(err)
		return string(text)
	}
	began := len(e.log(0))
	e.gitlab.RevokeToken(read("read-token"))
	e.set("carol", gitlabsim.Developer)
	e.await("status says so", func() bool {
		s := e.status()
		return strings.Contains(s, "FAILING") && strings.Contains(s, "GitLab refused the token")
	})
	if err := e.login("alice"); err != nil || !e.has("gitlab-view", "bob") || !e.works(e.token()) {
		e.t.Errorf("without the reading token: login %v, bob's right %t", err, e.has("gitlab-view", "bob"))
	}
	e.ok(os.WriteFile(e.path("read-token"), []byte(e.gitlab.TokenFor("root", "read_api")), 0o600))
	e.run("break-glass: A token of GitLab has ended: read token")
	took := e.await("GitLab is read again", func() bool { return e.has("gitlab-view", "carol") && !strings.Contains(e.status(), "FAILING") })
	e.t.Logf("GitLab is read %.1f s after the new token", took.Seconds())

	e.gitlab.RevokeToken(read("write-token"))
	e.ok(e.kube.CoreV1().Secrets("haw-world").Delete(e.t.Context(), kubename.CIAnchor, metav1.DeleteOptions{})) // jobs need another token
	e.await("the finding says so", func() bool {
		s := e.status()
		return strings.Contains(s, "ci_delivery_failed") && strings.Contains(s, "GitLab refused the token")
	})
	e.ok(os.WriteFile(e.path("write-token"), []byte(e.gitlab.TokenFor("root", "api")), 0o600))
	e.run("break-glass: A token of GitLab has ended: write token")
	took = e.await("jobs have a token again", func() bool { return e.lasting() && e.works(e.token()) })
	e.t.Logf("jobs have a token %.1f s after the new one", took.Seconds())
	if log := e.log(began); strings.Contains(log, `"msg":"starting"`) {
		e.t.Error("the integrator was started again")
	}
	e.remove("carol")
	e.await("it is as before", func() bool { return !e.has("gitlab-view", "carol") })
}

// gitlabRestored: in the backup alice is no member yet, and there is no hook.
func gitlabRestored(e *env) {
	e.run("break-glass: GitLab was restored: stop")
	e.gitlab.SetHookPolicy(func(gitlabsim.Event) gitlabsim.HookAction { return gitlabsim.HookAction{Drop: true} })
	e.remove("alice")
	e.gitlab.SetHookPolicy(nil)
	e.deleteHooks()
	if out := e.run("break-glass: GitLab was restored: plan"); !strings.Contains(out, "alice") || !e.has("gitlab-edit", "alice") {
		e.t.Errorf("the plan does not say that alice loses a right:\n%s", out)
	}
	e.run("break-glass: GitLab was restored: again")
	e.await("alice's right is gone", func() bool { return !e.has("gitlab-edit", "alice") })
	before := len(e.gitlab.Deliveries())
	e.set("alice", gitlabsim.Maintainer)
	e.await("a hook arrives", func() bool {
		all := e.gitlab.Deliveries()
		return len(all) > before && all[len(all)-1].Status/100 == 2
	})
	e.await("alice is back, and jobs can work", func() bool { return e.has("gitlab-edit", "alice") && e.works(e.token()) })
	e.await("nothing is held", func() bool { s := e.status(); return !strings.Contains(s, "FAILING") && !strings.Contains(s, "held  ") })
}

func (e *env) deleteHooks() {
	for id := range 10 {
		req, err := http.NewRequestWithContext(e.t.Context(), http.MethodDelete, e.gitlab.URL()+"/api/v4/hooks/"+strconv.Itoa(id), nil)
		e.ok(err)
		req.Header.Set("PRIVATE-TOKEN", e.gitlab.TokenFor("root", "api"))
		res, err := e.gitlab.Client().Do(req)
		e.ok(err)
		e.ok(res.Body.Close())
	}
}

// etcdRestored: alice, who knows a job's token, and bob have lost their rights since the backup. They have none again within a round:
// first beside an integrator that runs through it, then without any time in which the old rights are there.
func etcdRestored(e *env) {
	e.await("it is quiet", func() bool { return e.has("gitlab-edit", "alice") && e.has("gitlab-view", "bob") && e.lasting() })
	old := e.token()
	backup := e.path("backup")
	renewed := e.leaseVersion()
	e.ok(e.cluster.SaveState(backup))
	e.remove("alice")
	e.remove("bob")
	nobody := func() bool { return !e.has("gitlab-edit", "alice") && !e.has("gitlab-view", "bob") }
	e.await("both rights are gone, and jobs have another token than the one that alice knew", func() bool {
		return nobody() && e.token() != old && e.lasting() && e.works(e.token())
	})
	for range 2 { // the first renewal may be one that the backup has
		e.await("the Lease is renewed: the backup is older than a second", func() bool { return e.leaseVersion() != renewed })
		renewed = e.leaseVersion()
	}
	began := len(e.log(0))
	e.ok(e.cluster.RestoreState(e.t.Context(), backup))
	took := e.await("the old rights are gone again", nobody)
	e.t.Logf("old rights were there for %.1f s", took.Seconds())
	e.await("the old token is dead, and jobs have one that works", func() bool { return !e.works(old) && e.lasting() && e.works(e.token()) })
	if log := e.log(began); strings.Contains(log, `"msg":"starting"`) || !strings.Contains(log, `"msg":"no longer leading"`) {
		e.t.Error("the integrator has not begun anew by itself")
	}
	e.followsTheCluster()

	e.run("break-glass: etcd was restored: stop")
	e.ok(e.cluster.RestoreState(e.t.Context(), backup))
	if !e.has("gitlab-edit", "alice") || !e.has("gitlab-view", "bob") || !e.works(old) {
		e.t.Fatal("the backup does not bring back what was taken: the drill shows nothing")
	}
	e.shutOut("alice")
	e.run("break-glass: etcd was restored: one round")
	if !nobody() {
		e.t.Error("after the round, and before anybody can log in, old rights are there")
	}
	e.await("the old token is dead, and jobs have another", func() bool { return !e.works(old) && e.lasting() && e.works(e.token()) })
	e.followsTheCluster()
	e.set("alice", gitlabsim.Maintainer)
	e.set("bob", gitlabsim.Developer)
	e.await("it is as before", func() bool { return e.has("gitlab-edit", "alice") && e.has("gitlab-view", "bob") && e.works(e.token()) })
}

func (e *env) leaseVersion() string {
	l, err := e.kube.CoordinationV1().Leases("gl-k8s-integrator").Get(e.t.Context(), "gl-k8s-integrator", metav1.GetOptions{})
	e.ok(err)
	return l.ResourceVersion
}

// followsTheCluster: what somebody deletes is put back, so its watches are not silent.
func (e *env) followsTheCluster() {
	e.t.Helper()
	e.ok(e.kube.RbacV1().RoleBindings("haw-world").Delete(e.t.Context(), "gitlab-view", metav1.DeleteOptions{}))
	e.await("a binding is put back", func() bool {
		_, err := e.kube.RbacV1().RoleBindings("haw-world").Get(e.t.Context(), "gitlab-view", metav1.GetOptions{})
		return err == nil
	})
}

// namespaceGone: our namespace is deleted, and the node's files and the folder are lost with it. All comes back from the archive.
func namespaceGone(e *env) {
	e.run("backup: Saving: save")
	if st, err := os.Stat(e.path("integrator.tar.gz")); err != nil || st.Mode().Perm() != 0o600 {
		e.t.Errorf("others can read the backup: %v, %v", st, err)
	}
	job := e.token()
	e.ok(e.kube.CoreV1().Namespaces().Delete(e.t.Context(), "gl-k8s-integrator", metav1.DeleteOptions{}))
	e.ok(os.RemoveAll(e.folder()))
	e.ok(os.RemoveAll(e.path("etc/integrator")))
	e.run("backup: Restoring: restore")
	e.run("break-glass: Our namespace is gone: namespace")
	if !e.has("gitlab-edit", "alice") || !e.has("gitlab-view", "bob") || !e.works(job) {
		e.t.Error("rights are gone with our namespace")
	}
	e.run("break-glass: Our namespace is gone: credentials")
	e.run("break-glass: A certificate has ended: renewed")
	e.await("alice logs in", func() bool { return e.login("alice") == nil })
	e.remove("bob")
	e.await("bob's right is gone", func() bool { return !e.has("gitlab-view", "bob") })
	e.set("bob", gitlabsim.Developer)
	e.await("bob's right is back", func() bool { return e.has("gitlab-view", "bob") })
	e.await("status is well", func() bool { s := e.status(); return strings.Contains(s, "full") && !strings.Contains(s, "FAILING") })
	e.await("doctor says that all is well", func() bool {
		out, _ := e.try("break-glass: What is broken: look")
		return strings.Contains(out, "all is well")
	})
}

// authorityEnded: nobody has renewed anything for ten years.
func authorityEnded(e *env) {
	e.ok(os.RemoveAll(e.folder()))
	e.makeFolder(time.Now().Add(-10*year - time.Minute))
	out, err := e.shell(e.folder(), "cp kube-apiserver/* "+e.answers.APIServerDir+"/ && cp -f integrator/* "+e.answers.ConfigDir+"/ && systemctl restart gl-k8s-integrator")
	if err != nil {
		e.t.Fatalf("%v\n%s", err, out)
	}
	e.ok(e.cluster.RestartAPIServer(e.t.Context()))
	e.await("the integrator is there", func() bool { return strings.Contains(e.metrics(), "expires_timestamp_seconds") })
	e.shutOut("alice")
	if out := e.run("break-glass: A certificate has ended: renew"); !strings.Contains(out, "warning: webhook-ca ends") {
		e.t.Errorf("it does not warn:\n%s", out)
	}
	e.run("break-glass: A certificate has ended: renewed")
	e.ok(e.cluster.RestartAPIServer(e.t.Context()))
	e.run("break-glass: A certificate has ended: restart")
	e.await("alice logs in", func() bool { return e.login("alice") == nil })
}

// deployment: the API server takes what the page says for a Deployment. No pod runs here.
func deployment(e *env) {
	e.ok(os.RemoveAll(e.folder()))
	a := e.answers
	a.Run, a.ConfigDir, a.Image, a.APIServerURL, a.WebhookAddress = setup.InCluster, "", "registry.example.com/gl-k8s-integrator:1", e.cluster.URL(), "10.96.0.77:8443"
	a.HooksListen, a.MetricsListen = "", ""
	e.ok(setup.Init(e.t.Context(), e.folder(), a, time.Now(), new(strings.Builder)))
	replicas := func() int32 {
		d, err := e.kube.AppsV1().Deployments("gl-k8s-integrator").Get(e.t.Context(), "gl-k8s-integrator", metav1.GetOptions{})
		e.ok(err)
		return *d.Spec.Replicas
	}
	in := func(command string) {
		e.t.Helper()
		key := "Deployment: " + command
		if e.pages[key] == "" {
			e.t.Fatalf("the page has no %s", command)
		}
		e.ran[key] = true
		if out, err := e.shell(e.folder(), command); err != nil {
			e.t.Errorf("%s: %v\n%s", command, err, out)
		}
	}
	in("kubectl apply -f files.yaml -f deployment.yaml")
	in("kubectl -n gl-k8s-integrator rollout restart deployment/gl-k8s-integrator")
	in("kubectl -n gl-k8s-integrator scale deployment/gl-k8s-integrator --replicas=0")
	if n := replicas(); n != 0 {
		e.t.Errorf("%d replicas", n)
	}
	in("kubectl -n gl-k8s-integrator scale deployment/gl-k8s-integrator --replicas=2")
	if n := replicas(); n != 2 {
		e.t.Errorf("%d replicas", n)
	}
	in("kubectl apply -f files.yaml")
}

// TestAlertsOfThePage: each alert that docs/break-glass.md names exists, so whoever is woken by it finds the way.
func TestAlertsOfThePage(t *testing.T) {
	page, err := os.ReadFile("../../docs/break-glass.md")
	if err != nil {
		t.Fatal(err)
	}
	alerts, err := os.ReadFile("../../docs/alerts.md")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`GlK8sIntegrator\w+`).FindAllString(string(page), -1)
	if len(names) < 5 {
		t.Errorf("the page names only %v", names)
	}
	for _, name := range names {
		if !strings.Contains(string(alerts), "\n## "+name+"\n") {
			t.Errorf("there is no alert %s", name)
		}
	}
}
