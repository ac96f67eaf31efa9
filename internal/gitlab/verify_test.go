package gitlab

import (
	"errors"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// TestVerify: single questions, and that a 404 is no evidence when GitLab may be hiding things from our token.
func TestVerify(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	o.group("verify", "")
	o.project("thing", "verify")
	o.ok(o.w.SetMember(gitlabsim.KindGroup, o.id["verify"], o.id["alice"], 40, ""))
	group, project := authz.GroupID(o.id["verify"]), authz.ProjectID(o.id["thing"])
	reader := func(user string) *Reader {
		token := o.sim.TokenFor(user, "read_api")
		r, err := NewReader(Options{BaseURL: o.sim.URL(), HTTPClient: o.sim.Client(), NoPacing: true, Token: func() (string, error) { return token, nil }})
		o.ok(err)
		return r
	}
	admin, bob := reader("root"), reader("bob")
	for _, c := range []struct {
		id   authz.SourceID
		want bool
	}{{group, true}, {project, true}, {authz.UserID(o.id["alice"]), true}, {authz.GroupID(99999), false}, {authz.ProjectID(99999), false}, {authz.UserID(99999), false}} {
		if got, err := admin.Exists(t.Context(), c.id); err != nil || got != c.want {
			t.Errorf("%s exists: %t, %v; want %t", c.id, got, err, c.want)
		}
	}
	for _, c := range []struct {
		id   authz.SourceID
		user string
		want authz.Level
	}{{group, "alice", authz.Maintainer}, {project, "alice", authz.Maintainer}, {group, "bob", 0}, {project, "bob", 0}, {authz.ProjectID(99999), "alice", 0}} {
		if got, err := admin.MemberLevel(t.Context(), c.id, o.id[c.user]); err != nil || got != c.want {
			t.Errorf("%s in %s: %s, %v; want %s", c.user, c.id, got, err, c.want)
		}
	}
	if _, err := bob.Exists(t.Context(), project); !errors.Is(err, errHidden) {
		t.Errorf("a private project, asked by one who can't see it: %v", err)
	}
	if _, err := bob.MemberLevel(t.Context(), project, o.id["alice"]); !errors.Is(err, errHidden) {
		t.Errorf("its members: %v", err)
	}
}
