package kubename_test

import (
	"strings"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

func FuzzIdentities(f *testing.F) {
	for _, s := range []string{"gitlab:42", "gitlab:ci:42", "gitlab:042", "gitlab:-1", "gitlab:0", "gitlab:+7", "gitlab:42 ", "system:admin", "gitlab:ci:", "gitlab:9223372036854775808"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		user, isUser := kubename.ParseUser(name)
		project, isCI := kubename.ParseCIJob(name)
		if isUser && isCI {
			t.Fatalf("%q is a person and a job", name)
		}
		if isUser && (kubename.User(user) != name || user <= 0) {
			t.Fatalf("%q parses as user %d, which is written %q", name, user, kubename.User(user))
		}
		if isCI && (kubename.CIJob(project) != name || project <= 0) {
			t.Fatalf("%q parses as job of %d, which is written %q", name, project, kubename.CIJob(project))
		}
	})
}

func TestNamesNeverMeet(t *testing.T) {
	for _, id := range []int64{1, 42, 1 << 60} {
		u, c := kubename.User(id), kubename.CIJob(id)
		if got, ok := kubename.ParseUser(u); !ok || got != id {
			t.Errorf("ParseUser(%q) = %d, %v", u, got, ok)
		}
		if got, ok := kubename.ParseCIJob(c); !ok || got != id {
			t.Errorf("ParseCIJob(%q) = %d, %v", c, got, ok)
		}
		for _, n := range []string{u, c} {
			if strings.HasPrefix(n, "system:") {
				t.Errorf("%q would be taken for one of Kubernetes' own", n)
			}
		}
	}
}

func TestJobEnvironment(t *testing.T) {
	for slug, valid := range map[string]bool{"production": true, "icc-k8s-abc123": true, "a": true, "": false, "A": false, "a-": false, "1a": false, "a:b": false, "a234567890123456789012345": false} {
		name, ok := kubename.JobEnvironment(42, slug)
		if ok != valid {
			t.Errorf("slug %q: %v, want %v", slug, ok, valid)
		}
		if project, got, parsed := kubename.ParseJobEnvironment(name); parsed != valid || valid && (project != 42 || got != slug) {
			t.Errorf("%q parses as %d %q %v", name, project, got, parsed)
		}
	}
	for _, bad := range []string{"gitlab:project_env:042:a", "gitlab:project_env:0:a", "gitlab:project_env:42", "gitlab:project:42", "gitlab:project_env::a"} {
		if _, _, ok := kubename.ParseJobEnvironment(bad); ok {
			t.Errorf("%q is taken for jobs of an environment", bad)
		}
	}
}

func TestServiceAccountUser(t *testing.T) {
	if ns, ok := kubename.ParseServiceAccountUser(kubename.ServiceAccountUser("haw-world")); !ok || ns != "haw-world" {
		t.Errorf("%q %v", ns, ok)
	}
	for _, bad := range []string{"", "gitlab-serviceaccount", "system:serviceaccount::gitlab-serviceaccount", "system:serviceaccount:a:default", "system:serviceaccount:a:b:gitlab-serviceaccount"} {
		if ns, ok := kubename.ParseServiceAccountUser(bad); ok {
			t.Errorf("%q accepted as namespace %q", bad, ns)
		}
	}
}

func TestRoleBinding(t *testing.T) {
	for shard, want := range map[int]string{0: "gitlab-edit", 1: "gitlab-edit-1", 12: "gitlab-edit-12"} {
		if got := kubename.RoleBinding("edit", shard); got != want {
			t.Errorf("shard %d: %q, want %q", shard, got, want)
		}
	}
}
