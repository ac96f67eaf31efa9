package app

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// backup is what a backup of GitLab has of the project's variables.
func (e *estate) backup() (out []gitlabsim.Variable) {
	e.sim.World().View(func(v *gitlabsim.View) { out = slices.Clone(v.Project(e.project).Variables) })
	return out
}

// restore brings a backup back: what was made since is gone.
func (e *estate) restore(variables []gitlabsim.Variable, clusters []gitlabsim.Cluster) {
	e.t.Helper()
	if err := e.sim.World().Restore(e.project, variables, clusters); err != nil {
		e.t.Fatal(err)
	}
}

// accepts says why kube-apiserver would refuse a job's token, "" if it accepts it.
func (c *testCluster) accepts(token string) string {
	c.t.Helper()
	body, _, _ := strings.Cut(strings.TrimPrefix(token, tokenHead), ".")
	raw, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil || token == "" {
		return "no token"
	}
	var claims struct {
		Expiry     int64 `json:"exp"`
		Kubernetes struct {
			Secret struct{ Name, UID string } `json:"secret"`
		} `json:"kubernetes.io"`
	}
	if err := json.Unmarshal(raw, &claims); err != nil {
		return err.Error()
	}
	if c.now.Unix() >= claims.Expiry {
		return "it has expired"
	}
	bound := claims.Kubernetes.Secret
	s, err := c.kube.CoreV1().Secrets("app").Get(c.t.Context(), bound.Name, metav1.GetOptions{})
	if err != nil || string(s.UID) != bound.UID || bound.Name != kubename.CIAnchor {
		return fmt.Sprintf("what it is bound to (%s) is gone: %v", bound.Name, err)
	}
	return ""
}

// works says why a job could not work with what GitLab has, "" if it can.
func (c *testCluster) works() string {
	c.t.Helper()
	token := c.value("KUBE_TOKEN")
	switch {
	case c.value("KUBE_URL") != c.url():
		return fmt.Sprintf("KUBE_URL is %q", c.value("KUBE_URL"))
	case !strings.Contains(c.value("KUBECONFIG"), token) && !strings.Contains(c.value("KUBECONFIG"), "${KUBE_TOKEN-}"):
		return "KUBECONFIG has another token"
	}
	return c.accepts(token)
}

// TestGitLabRestored: after a restore from a backup the next reading shows it, and a job has a token that works.
func TestGitLabRestored(t *testing.T) {
	rotate := func(c *testCluster) { // the token before dies, as when somebody lost the right to deploy
		c.expect(rbacsync.DeliverVariables, rotated)
	}
	tests := map[string]func(c *testCluster){
		"the token was rotated since": func(c *testCluster) {
			old := c.backup()
			rotate(c)
			c.restore(old, nil)
		},
		"twice": func(c *testCluster) {
			old := c.backup()
			rotate(c)
			rotate(c)
			c.restore(old, nil)
		},
		"before there were variables": func(c *testCluster) { c.restore(nil, nil) },
		"with a part of them":         func(c *testCluster) { c.restore(c.backup()[:2], nil) },
		"of the version before, which named no delivery": func(c *testCluster) {
			old := c.backup()
			for i := range old {
				old[i].Description = "Managed by gl-k8s-integrator: cluster " + c.id + ": do not edit"
			}
			rotate(c)
			c.restore(old, nil)
		},
		"while we were away": func(c *testCluster) {
			old := c.backup()
			rotate(c)
			c.restore(old, nil)
			c.restart()
		},
		"the URL of the API server has changed since": func(c *testCluster) {
			old := c.backup()
			c.moved = "https://new.example.com"
			c.restart()
			c.expect(rbacsync.DeliverVariables, nil)
			c.restore(old, nil)
		},
	}
	for name, restored := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newEstate(t, "").cluster("a")
			c.expect(rbacsync.DeliverVariables, nil)
			c.expect(rbacsync.DeliverVariables, nil)
			restored(c)
			if why := c.works(); why == "" {
				t.Fatal("the restore has broken nothing")
			}
			c.expect(rbacsync.DeliverVariables, nil)
			if why := c.works(); why != "" {
				t.Error("after the next reading a job can't work:", why)
			}
			before := c.backup()
			for range 3 {
				c.expect(rbacsync.DeliverVariables, nil)
			}
			if !slices.Equal(before, c.backup()) {
				t.Error("written again although nothing changed")
			}
		})
	}
}

// integration says why a job could not work with the cluster integration that GitLab has, "" if it can.
func (c *testCluster) integration() string {
	c.t.Helper()
	all := c.clusters()
	switch {
	case len(all) != 1:
		return fmt.Sprintf("there are %d integrations", len(all))
	case all[0].APIURL != c.url() || !all[0].Enabled:
		return fmt.Sprintf("the integration leads to %q, enabled %t", all[0].APIURL, all[0].Enabled)
	}
	return c.accepts(all[0].Token)
}

// within looks again and again, as often as the engine does, until jobs work, and fails if that takes a day.
func (c *testCluster) within(mode rbacsync.Delivery, change func(*ci.Namespace), works func() string) {
	c.t.Helper()
	why := works()
	for end := c.now.Add(24 * time.Hour); why != "" && c.now.Before(end); why = works() {
		c.now = c.now.Add(time.Hour)
		c.expect(mode, change)
	}
	if why != "" {
		c.t.Error("a day after the restore a job can't work:", why)
	}
}

// alive lets the tokens live for a month, so that no rotation comes to the rescue.
func (c *testCluster) alive() *testCluster {
	c.life = 30 * 24 * time.Hour
	return c
}

// TestGitLabRestoredUnseen: readings don't show what GitLab has, because it is older than descriptions, or can't be asked for variables,
// or because nothing shows a cluster integration. It is looked at within a day.
func TestGitLabRestoredUnseen(t *testing.T) {
	for _, version := range []string{"", "15.0.5-ee", "16.1.6-ee"} {
		for _, earlier := range []bool{false, true} {
			t.Run(fmt.Sprint(version, " before there was any: ", earlier), func(t *testing.T) {
				t.Parallel()
				c := newEstate(t, version).cluster("a").alive()
				c.expect(rbacsync.DeliverVariables, unread)
				old := c.backup()
				rotated := func(n *ci.Namespace) { rotated(n); unread(n) }
				c.expect(rbacsync.DeliverVariables, rotated)
				c.expect(rbacsync.DeliverVariables, rotated) // the first one is in no record any more
				if earlier {
					old = nil
				}
				c.restore(old, nil)
				if c.works() == "" {
					t.Fatal("the restore has broken nothing")
				}
				c.within(rbacsync.DeliverVariables, unread, c.works)
				before := c.backup()
				requests := func() (n int) {
					for kind, count := range c.estate.sim.Requests() {
						if strings.Contains(kind, "/variables") {
							n += count
						}
					}
					return n
				}
				first := requests()
				for range 96 {
					c.now = c.now.Add(50 * time.Minute)
					c.expect(rbacsync.DeliverVariables, unread)
				}
				if n := requests() - first; n < 4 || n > 6 || !slices.Equal(before, c.backup()) {
					t.Errorf("%d requests in four days in which nothing changed, want one a day", n)
				}
			})
		}
	}
	for _, change := range []string{"an older one", "none", "switched off"} {
		t.Run("integration, "+change, func(t *testing.T) {
			t.Parallel()
			c := newEstate(t, "").cluster("a").alive()
			c.expect(rbacsync.DeliverCertificate, nil)
			old := c.clusters()
			c.expect(rbacsync.DeliverCertificate, rotated)
			c.expect(rbacsync.DeliverCertificate, rotated)
			switch change {
			case "none":
				old = nil
			case "switched off":
				old = c.clusters()
				old[0].Enabled = false
			}
			c.restore(nil, old)
			if c.integration() == "" {
				t.Fatal("the restore has broken nothing")
			}
			c.within(rbacsync.DeliverCertificate, nil, c.integration)
		})
	}
}

// TestGitLabRestoredOwn: what somebody has made their own of what was delivered stays theirs, also in a GitLab without marks.
func TestGitLabRestoredOwn(t *testing.T) {
	t.Parallel()
	c := newEstate(t, "16.1.0").cluster("a").alive()
	c.expect(rbacsync.DeliverVariables, nil)
	theirs := c.variables()["ICC-K8s KUBECONFIG"]
	theirs.Value += "# mine\n"
	c.set(theirs)
	c.now = c.now.Add(24 * time.Hour)
	c.expect(rbacsync.DeliverVariables, nil, "ci_foreign_variable")
	if got := c.value("KUBECONFIG"); got != theirs.Value {
		t.Error("somebody's own KUBECONFIG was overwritten")
	}
}

// TestAnySequenceOfRestoresEndsWithAWorkingToken: deliveries, rotations, losses, restarts and restores in any order.
func TestAnySequenceOfRestoresEndsWithAWorkingToken(t *testing.T) {
	for _, version := range []string{"", "16.1.6-ee"} {
		for seed := range uint64(8) {
			t.Run(fmt.Sprint(version, " ", seed), func(t *testing.T) {
				t.Parallel()
				rnd := rand.New(rand.NewPCG(seed, 11))
				c := newEstate(t, version).cluster("a")
				backups := [][]gitlabsim.Variable{nil}
				var steps []string
				c.expect(rbacsync.DeliverVariables, nil)
				for range 20 {
					change := []func(*ci.Namespace){nil, unread}[rnd.IntN(2)]
					step := []string{"pass", "rotate", "lose", "restart", "backup", "restore", "restore"}[rnd.IntN(7)]
					steps = append(steps, step)
					switch step {
					case "pass":
						c.expect(rbacsync.DeliverVariables, change)
					case "rotate":
						c.now = c.now.Add(8 * time.Hour)
						c.expect(rbacsync.DeliverVariables, change)
					case "lose":
						c.expect(rbacsync.DeliverVariables, func(n *ci.Namespace) {
							rotated(n)
							if change != nil {
								change(n)
							}
						})
					case "restart":
						c.restart()
					case "backup":
						backups = append(backups, c.backup())
					case "restore":
						c.restore(backups[rnd.IntN(len(backups))], nil)
					}
				}
				c.within(rbacsync.DeliverVariables, []func(*ci.Namespace){nil, unread}[rnd.IntN(2)], c.works)
				if t.Failed() {
					t.Log(steps)
				}
			})
		}
	}
}
