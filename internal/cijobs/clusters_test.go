package cijobs_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim/runner"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/status"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// TestTwoClustersOnOneGitLab: each has an environment of its own, and a job deploys into the cluster of the environment it names. A
// cluster that is rebuilt from nothing takes over what the one before left in GitLab, once it is told that it is its successor.
func TestTwoClustersOnOneGitLab(t *testing.T) {
	first := newEnv(t)
	second := first.another(t)
	deployed := func(e *env) bool {
		_, err := e.kube.AppsV1().Deployments("haw-world").Get(t.Context(), "world", metav1.GetOptions{})
		return err == nil
	}
	first.start("")
	first.deploys("deploy")
	second.start("ci: {environment: staging}\n")
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
	old, err := ci.ClusterID(t.Context(), second.kube)
	second.ok(err)
	second.end()
	rebuilt := first.another(t)
	rebuilt.start("ci: {environment: staging}\n")
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
	rebuilt.config = strings.Replace(rebuilt.config, "cluster: {", "cluster: {replaces: ["+old+"], ", 1)
	rebuilt.start("ci: {environment: staging}\n")
	rebuilt.deploys("deploy-to-staging")
	if !deployed(rebuilt) {
		t.Error("the job did not deploy into the rebuilt cluster")
	}
	first.deploys("deploy")
}
