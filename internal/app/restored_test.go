package app

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// backup is what a backup of GitLab has of the project's variables.
func (e *estate) backup() (out []gitlabsim.Variable) {
	e.sim.World().View(func(v *gitlabsim.View) { out = slices.Clone(v.Project(e.project).Variables) })
	return out
}

// restore brings a backup back: what was made since is gone.
func (e *estate) restore(backup []gitlabsim.Variable) {
	e.t.Helper()
	for _, v := range e.variables() {
		if err := e.sim.World().RemoveVariable(e.project, v.Key, v.EnvironmentScope); err != nil {
			e.t.Fatal(err)
		}
	}
	for _, v := range backup {
		if err := e.sim.World().CreateVariable(e.project, v); err != nil {
			e.t.Fatal(err)
		}
	}
}

// accepts says why kube-apiserver would refuse a job's token, "" if it accepts it.
func (c *cluster) accepts(token string) string {
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
func (c *cluster) works() string {
	c.t.Helper()
	token := c.value("KUBE_TOKEN")
	switch {
	case c.value("KUBE_URL") != c.p.Cluster.URL:
		return fmt.Sprintf("KUBE_URL is %q", c.value("KUBE_URL"))
	case !strings.Contains(c.value("KUBECONFIG"), token):
		return "KUBECONFIG has another token"
	}
	return c.accepts(token)
}

// TestGitLabRestored: after a restore from a backup the next reading shows it, and a job has a token that works.
func TestGitLabRestored(t *testing.T) {
	rotate := func(c *cluster) { // the token before dies, as when somebody lost the right to deploy
		c.expect(ci.ModeVariables, rotated)
	}
	tests := map[string]func(c *cluster){
		"the token was rotated since": func(c *cluster) {
			old := c.backup()
			rotate(c)
			c.restore(old)
		},
		"twice": func(c *cluster) {
			old := c.backup()
			rotate(c)
			rotate(c)
			c.restore(old)
		},
		"before there were variables": func(c *cluster) { c.restore(nil) },
		"with a part of them":         func(c *cluster) { c.restore(c.backup()[:2]) },
		"of the version before, which named no delivery": func(c *cluster) {
			old := c.backup()
			for i := range old {
				old[i].Description = "Managed by gl-k8s-integrator: cluster " + c.id + ": do not edit"
			}
			rotate(c)
			c.restore(old)
		},
		"while we were away": func(c *cluster) {
			old := c.backup()
			rotate(c)
			c.restore(old)
			c.restart()
		},
		"the URL of the API server has changed since": func(c *cluster) {
			old := c.backup()
			c.p.Cluster.URL = "https://new.example.com"
			c.expect(ci.ModeVariables, nil)
			c.restore(old)
		},
	}
	for name, restored := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newEstate(t, "").cluster("a")
			c.expect(ci.ModeVariables, nil)
			c.expect(ci.ModeVariables, nil)
			restored(c)
			if why := c.works(); why == "" {
				t.Fatal("the restore has broken nothing")
			}
			c.expect(ci.ModeVariables, nil)
			if why := c.works(); why != "" {
				t.Error("after the next reading a job can't work:", why)
			}
			before := c.backup()
			for range 3 {
				c.expect(ci.ModeVariables, nil)
			}
			if !slices.Equal(before, c.backup()) {
				t.Error("written again although nothing changed")
			}
		})
	}
}
