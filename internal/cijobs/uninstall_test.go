package cijobs_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// TestUninstall: it removes nothing while somebody leads or without --confirm, goes on where it was interrupted, and leaves
// nothing of ours in GitLab and the cluster, and all that is of others.
func TestUninstall(t *testing.T) {
	e := newEnv(t)
	ctx := t.Context()
	e.start(e.ci("certificate", ""))
	e.deploys("deploy")
	old := e.integrationToken()
	uninstall := func(confirm bool, change func(*config.Config)) (int, string, error) {
		cfg := e.load(e.ci("certificate", ""))
		cfg.Cluster.Kubeconfig = e.cluster.AdminKubeconfig()
		if change != nil {
			change(cfg)
		}
		var out bytes.Buffer
		n, err := app.Uninstall(ctx, cfg, confirm, slog.New(slog.DiscardHandler), &out)
		return n, out.String(), err
	}
	if _, _, err := uninstall(true, nil); err == nil || !strings.Contains(err.Error(), "stop every `serve` first") {
		t.Errorf("while somebody leads: %v", err)
	}
	id, err := ci.ClusterID(ctx, e.kube)
	e.ok(err)
	url := "https://integrator.example.com/hooks/gitlab"
	e.ok(app.RegisterHook(ctx, e.load(""), app.Registration{URL: url, Cluster: id}, &bytes.Buffer{}))
	e.end()

	n, shown, err := uninstall(false, nil)
	e.ok(err)
	for _, want := range []string{"hook ", url, "namespace haw-world", "RoleBinding alice/gitlab-edit", "ValidatingAdmissionPolicy", "Nothing was changed"} {
		if !strings.Contains(shown, want) {
			t.Errorf("it does not show %q:\n%s", want, shown)
		}
	}
	if again, _, err := uninstall(false, nil); err != nil || again != n {
		t.Errorf("showing it changed something: %d things, then %d, %v", n, again, err)
	}

	// GitLab does not let us in: nothing after that is touched. It goes on when it does.
	none := filepath.Join(e.dir, "no-token")
	e.ok(os.WriteFile(none, []byte("glpat-none"), 0o600))
	if _, said, err := uninstall(true, func(c *config.Config) { c.GitLab.WriteTokenFile = none }); err == nil || !strings.Contains(err.Error(), "step 1 of") {
		t.Errorf("without GitLab: %v\n%s", err, said)
	}
	if still, _, err := uninstall(false, nil); err != nil || still != n {
		t.Errorf("without GitLab it removed something: %d things, then %d, %v", n, still, err)
	}
	// An explanation that the records don't know: a version without explanations has kept them meanwhile.
	e.ok(e.gitlab.World().SetVariable(e.project("haw/world"), gitlabsim.Variable{
		Key: "KUBECONFIG", Value: "an explanation", VariableType: "file", EnvironmentScope: "*", Description: gitlab.Marker + ": cluster " + id + ": delivery x: do not edit",
	}))
	_, said, err := uninstall(true, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	if left, _, err := uninstall(false, nil); err != nil || left != 0 {
		t.Errorf("%d things are left, %v", left, err)
	}

	if e.integrations() != 0 || len(e.variables("haw/other")) != 0 || len(e.variables("haw/world")) != 0 {
		t.Errorf("in GitLab: %d integrations, variables %v and %v", e.integrations(), e.variables("haw/other"), e.variables("haw/world"))
	}
	e.eventually(time.Minute, func() bool { return !e.works(old) }, func() string { return "a job's token works on" })
	all, err := e.kube.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	e.ok(err)
	names := ""
	for _, ns := range all.Items {
		names += " " + ns.Name
		for k := range ns.Labels {
			if strings.HasPrefix(k, kubename.Domain) {
				t.Errorf("namespace %s has the label %s", ns.Name, k)
			}
		}
	}
	if !strings.Contains(names, "haw-world") {
		t.Errorf("a namespace is gone: there are%s", names)
	}
	deployed, err := e.kube.AppsV1().Deployments("haw-world").List(ctx, metav1.ListOptions{})
	if err != nil || len(deployed.Items) != 1 {
		t.Errorf("what was deployed: %v, %v", deployed, err)
	}
	policies, err := e.kube.AdmissionregistrationV1().ValidatingAdmissionPolicies().List(ctx, metav1.ListOptions{})
	if err != nil || len(policies.Items) != 0 {
		t.Errorf("%d admission policies are left, %v", len(policies.Items), err)
	}
}
