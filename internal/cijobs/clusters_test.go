package cijobs_test

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim/runner"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/status"
)

// TestTwoClustersOnOneGitLab: each has an environment of its own, and a job deploys into the cluster of the environment it names. A
// cluster that is rebuilt from nothing takes over what the one before left in GitLab, once it is told that it is its successor.
func TestTwoClustersOnOneGitLab(t *testing.T) {
	page, err := os.ReadFile("../../docs/clusters.md")
	if err != nil {
		t.Fatal(err)
	}
	environment := line(t, page, "ci: {environment: ")
	if _, job, _ := strings.Cut(jobs, "deploy-to-staging:"); !strings.Contains(string(page), "deploy-to-staging:"+strings.Split(job, "\n\n")[0]+"\n```") {
		t.Error("docs/clusters.md has another job")
	}
	first := newEnv(t)
	second := first.another(t)
	deployed := func(e *env) bool {
		_, err := e.kube.AppsV1().Deployments("haw-world").Get(t.Context(), "world", metav1.GetOptions{})
		return err == nil
	}
	first.start("")
	first.deploys("deploy")
	var synced bytes.Buffer
	second.ok(app.Sync(t.Context(), second.load(environment), slog.New(slog.DiscardHandler), &synced, io.Discard))
	if text := synced.String(); !regexp.MustCompile(`\+ delivered to jobs of project/\d+ haw/world by variables \(environment staging, protected branches and tags\): KUBECONFIG, KUBE_CA_PEM, `).MatchString(text) || strings.Contains(text, "eyJ") {
		t.Errorf("sync says:\n%s", text)
	}
	second.start(environment)
	second.deploys("deploy-to-staging")
	if !deployed(first) || !deployed(second) {
		t.Fatalf("deployed into the first cluster: %t, into the second: %t", deployed(first), deployed(second))
	}
	first.ok(first.kube.AppsV1().Deployments("haw-world").Delete(t.Context(), "world", metav1.DeleteOptions{}))
	second.deploys("deploy-to-staging")
	if deployed(first) {
		t.Error("a job of the second cluster's environment deployed into the first")
	}
	first.deploys("deploy")

	// The second cluster is lost, and comes again with nothing.
	args := strings.Fields(line(t, page, "kubectl get namespace kube-system"))
	id, err := exec.CommandContext(t.Context(), second.cluster.Kubectl(), append(args[1:], "--kubeconfig", second.cluster.AdminKubeconfig())...).Output()
	second.ok(err)
	old := string(id)
	second.end()
	rebuilt := first.another(t)
	rebuilt.start(environment)
	rebuilt.eventually(time.Minute, func() bool {
		var out bytes.Buffer
		err := status.Show(t.Context(), rebuilt.kube, &out)
		return err == nil && strings.Contains(out.String(), "ci_other_cluster") && strings.Contains(out.String(), old)
	}, func() string { return "it does not say that another cluster is there" })
	_, err = rebuilt.run(runner.Job{ProjectID: rebuilt.project("haw/world"), Ref: "main", JobName: "deploy-to-staging"}, "alice")
	rebuilt.ok(err)
	if deployed(rebuilt) {
		t.Error("a cluster that nobody called a successor took over what another one's marks name")
	}
	told := func(want string) {
		t.Helper()
		var out bytes.Buffer
		_, err := app.Plan(t.Context(), rebuilt.load(environment), slog.New(slog.DiscardHandler), &out, io.Discard, app.PlanView{Namespace: "haw-world"})
		rebuilt.ok(err)
		if !strings.Contains(out.String(), want+" jobs of project/") {
			t.Errorf("the plan does not say %q:\n%s", want, out.String())
		}
	}
	told("nothing for")
	replaces := strings.TrimSpace(line(t, page, "  replaces: ["))
	rebuilt.config = strings.Replace(rebuilt.config, "cluster: {", "cluster: {"+regexp.MustCompile(`\[.*\]`).ReplaceAllString(replaces, "["+old+"]")+", ", 1)
	told("replaced for")
	rebuilt.start(environment)
	rebuilt.deploys("deploy-to-staging")
	if !deployed(rebuilt) {
		t.Error("the job did not deploy into the rebuilt cluster")
	}
	first.deploys("deploy")
}

// line returns the line of a page that begins so.
func line(t *testing.T, page []byte, begin string) string {
	t.Helper()
	for l := range strings.Lines(string(page)) {
		if strings.HasPrefix(l, begin) {
			return l
		}
	}
	t.Fatalf("docs/clusters.md has no line that begins with %q", begin)
	return ""
}
