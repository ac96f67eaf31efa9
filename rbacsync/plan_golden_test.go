package rbacsync_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
)

func TestPlanText(t *testing.T) {
	t.Parallel()
	empty := &rbacsync.Observed{}
	settled := func() *rbacsync.Observed {
		changes, _ := rbacsync.Plan(empty, rbacsync.Desired(rbacsynctest.Company()))
		return rbacsynctest.Apply(empty, changes)
	}
	find := func(o *rbacsync.Observed, k rbacsync.Key) *rbacsync.Live {
		for _, l := range o.Live {
			if l.Key == k {
				return l
			}
		}
		t.Fatalf("no %s", k)
		return nil
	}
	binding := func(ns, name string) rbacsync.Key {
		return rbacsync.Key{Namespace: ns, Kind: rbacsync.KindRoleBinding, Name: name}
	}
	tests := []struct {
		name   string
		change func(in *rbacsync.Input, have *rbacsync.Observed)
	}{
		{"first-round", func(_ *rbacsync.Input, have *rbacsync.Observed) { *have = rbacsync.Observed{} }},
		{"nothing-to-do", func(*rbacsync.Input, *rbacsync.Observed) {}},
		{"alice-removed-bob-promoted", func(in *rbacsync.Input, _ *rbacsync.Observed) {
			in.Grants = []authz.Grant{in.Grants[3]}
			in.Grants = append(in.Grants, authz.Grant{Source: authz.ProjectID(42), ClusterRole: "edit", Users: []int64{3}})
		}},
		{"project-gone", func(in *rbacsync.Input, _ *rbacsync.Observed) {
			in.Sources, in.Grants = in.Sources[:1], in.Grants[:1]
		}},
		{"group-unread", func(in *rbacsync.Input, _ *rbacsync.Observed) {
			in.Snapshot.Missing = map[authz.SourceID]string{authz.GroupID(7): "page 2 of its members: 502"}
			in.Grants = nil
		}},
		{"lists-unread", func(in *rbacsync.Input, _ *rbacsync.Observed) {
			in.Snapshot.MissingAll = "listing projects: 502"
			in.Sources, in.Grants = nil, nil
		}},
		{"project-renamed", func(in *rbacsync.Input, _ *rbacsync.Observed) { in.Sources[1].Path = "haw/earth" }},
		{"another-gitlab", func(in *rbacsync.Input, _ *rbacsync.Observed) { in.Snapshot.Issuer = "https://other.example.com" }},
		{"restored-gitlab-reuses-ids", func(in *rbacsync.Input, _ *rbacsync.Observed) {
			in.Sources[1].CreatedAt = in.Sources[1].CreatedAt.AddDate(1, 0, 0)
			in.Grants = nil
		}},
		{"changed-by-hand", func(_ *rbacsync.Input, have *rbacsync.Observed) {
			find(have, rbacsync.NamespaceKey("haw")).Namespace.PodSecurity.Enforce = "privileged"
			find(have, binding("haw", "gitlab-view")).Binding.Others = []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "eve"}}
			find(have, binding("haw-world", "gitlab-edit")).Binding.Role = "admin"
			find(have, binding("haw-world", "gitlab-view")).Binding.Users = nil
		}},
		{"foreign-objects", func(_ *rbacsync.Input, have *rbacsync.Observed) {
			have.Live = have.Live[:0:0]
			have.Foreign = map[rbacsync.Key]bool{rbacsync.NamespaceKey("haw"): true, binding("haw-world", "gitlab-edit"): true}
		}},
		{"our-mark-on-a-foreign-binding", func(_ *rbacsync.Input, have *rbacsync.Observed) {
			c := *find(have, binding("haw", "gitlab-edit"))
			c.Key.Name = "admins"
			have.Live = append(have.Live, &c)
		}},
		{"a-role-no-longer-configured", func(in *rbacsync.Input, _ *rbacsync.Observed) { in.Roles = rbacsynctest.Roles[1:] }},
		{"project-archived", func(in *rbacsync.Input, _ *rbacsync.Observed) {
			in.Sources[1].ReadOnly = true
			in.Grants[1].ClusterRole = "view"
		}},
		{"further-role", func(in *rbacsync.Input, _ *rbacsync.Observed) {
			in.Further = []string{"deployer"}
			in.Grants = append(in.Grants, authz.Grant{Source: authz.ProjectID(42), ClusterRole: "deployer", Users: []int64{3}})
		}},
		{"secretless", func(in *rbacsync.Input, _ *rbacsync.Observed) { in.Settings.CI.Mode = rbacsync.DeliverIDToken }},
		{"privileged-by-id", func(in *rbacsync.Input, _ *rbacsync.Observed) {
			in.Settings.PodSecurityFor = map[authz.SourceID]string{authz.GroupID(7): "privileged"}
		}},
		{"privileged-by-id-and-label", func(in *rbacsync.Input, have *rbacsync.Observed) {
			in.Settings.PodSecurityFor = map[authz.SourceID]string{authz.GroupID(7): "privileged"}
			find(have, rbacsync.NamespaceKey("haw")).Namespace.PodSecurity.Enforce = "privileged"
		}},
		{"privileged-by-id-and-new", func(in *rbacsync.Input, have *rbacsync.Observed) {
			in.Settings.PodSecurityFor = map[authz.SourceID]string{authz.GroupID(7): "privileged"}
			have.Live = nil
		}},
		{"copy-of-a-namespace", func(_ *rbacsync.Input, have *rbacsync.Observed) {
			for _, k := range []rbacsync.Key{rbacsync.NamespaceKey("haw"), binding("haw", "gitlab-edit")} {
				c := *find(have, k)
				c.Key.Namespace = "aaa-copy"
				if c.Namespace != nil {
					c.Key.Name, c.Born = "aaa-copy", 1000
				}
				have.Live = append(have.Live, &c)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in, have := rbacsynctest.Company(), settled()
			tt.change(&in, have)
			changes, findings := rbacsync.Plan(have, rbacsync.Desired(in))
			got := rbacsync.Text(changes)
			for _, f := range findings {
				got += fmt.Sprintf("finding %s %s: %s\n", f.Code, f.Source, f.Text)
			}
			file := filepath.Join("testdata", "plan", tt.name+".txt")
			if *updateGolden {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatalf("%v (run the test with -update)", err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("plan (-want +got):\n%s", d)
			}
			if strings.ContainsAny(got, "\x1b") {
				t.Error("a user name reached the terminal with its escape sequence")
			}
		})
	}
}

func TestNamesPrefersTheOldestOfTwoNamespaces(t *testing.T) {
	t.Parallel()
	ns := func(name, issuer string, id authz.SourceID, born int64) *rbacsync.Live {
		return &rbacsync.Live{Object: rbacsync.Object{Key: rbacsync.NamespaceKey(name), Namespace: &rbacsync.Namespace{Issuer: issuer, Source: id}}, Born: born}
	}
	o := &rbacsync.Observed{
		Live: []*rbacsync.Live{
			ns("a-copy", rbacsynctest.Issuer, authz.GroupID(7), 20), ns("haw", rbacsynctest.Issuer, authz.GroupID(7), 10),
			ns("z-copy", rbacsynctest.Issuer, authz.GroupID(7), 30), ns("other", "https://other.example.com", authz.GroupID(8), 1), ns("odd", rbacsynctest.Issuer, authz.SourceID{}, 1),
		},
		Foreign: map[rbacsync.Key]bool{rbacsync.NamespaceKey("kube-system"): true, {Namespace: "x", Kind: rbacsync.KindRoleBinding, Name: "gitlab-edit"}: true},
	}
	have, taken := o.Names(rbacsynctest.Issuer)
	if d := cmp.Diff(map[authz.SourceID]string{authz.GroupID(7): "haw"}, have); d != "" {
		t.Errorf("have: %s", d)
	}
	if d := cmp.Diff(map[string]bool{"a-copy": true, "z-copy": true, "other": true, "odd": true, "kube-system": true}, taken); d != "" {
		t.Errorf("taken: %s", d)
	}
}

func TestSettingsCheck(t *testing.T) {
	t.Parallel()
	if err := (rbacsync.Settings{}).Check([]string{"edit", "view", "team-edit"}); err != nil {
		t.Error(err)
	}
	for _, bad := range [][]string{{"serviceaccount"}, {"edit", "edit-1"}} {
		if err := (rbacsync.Settings{}).Check(bad); err == nil {
			t.Errorf("%v is accepted, though bindings would share names", bad)
		}
	}
	if got := kubename.RoleBinding("edit", 1); got != "gitlab-edit-1" {
		t.Errorf("shard name %q: Settings.Check no longer fits", got)
	}
}

var updateGolden = flag.Bool("update", false, "rewrite golden files")
