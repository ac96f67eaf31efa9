package replicas_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

const hookSeed = `
users:
  - {username: root, admin: true}
  - {username: u1}
  - {username: u2}
  - {username: u3}
  - {username: u4}
groups:
  - {path: g1, name: g1, members: {u1: owner}}
  - {path: g1/g2, name: g2}
  - {path: g3, name: g3, members: {u4: developer}}
projects:
  - {path: g1/p1, name: p1}
  - {path: g1/g2/p2, name: p2, members: {u2: developer}}
  - {path: g3/p3, name: p3}
`

// engine is one Syncer on a cluster of its own that follows a simulated GitLab.
func engine(t *testing.T, sim *gitlabsim.Server) (*syncer.Syncer, *fake.Clientset) {
	t.Helper()
	reader, err := gitlab.NewReader(gitlab.Options{
		BaseURL: sim.URL(), HTTPClient: sim.Client(), NoPacing: true,
		Token: func() (string, error) { return sim.TokenFor("root", "read_api"), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	policy, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource}})
	if err != nil {
		t.Fatal(err)
	}
	kube := fake.NewClientset()
	s, err := syncer.New(syncer.Options{Reader: reader, Kube: kube, Policy: policy, Mode: syncer.ModeEnforce, Interval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return s, kube
}

// rights lists who has what in the cluster, by GitLab's path, because two clusters name a renamed project differently.
func rights(t *testing.T, s *syncer.Syncer, kube *fake.Clientset) []string {
	t.Helper()
	var out []string
	st := s.State()
	if st == nil {
		return nil
	}
	for id, ns := range st.View.Namespace {
		list, err := kube.RbacV1().RoleBindings(ns).List(context.Background(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, rb := range list.Items {
			for _, subject := range rb.Subjects {
				if strings.HasPrefix(subject.Name, "gitlab:") {
					out = append(out, fmt.Sprintf("%s %s %s", id, rb.RoleRef.Name, subject.Name))
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

// change does something at random to the world; what GitLab refuses is left out.
func change(r *rand.Rand, w *gitlabsim.World) {
	var users, groups, projects []int64
	w.View(func(v *gitlabsim.View) {
		for _, u := range v.Users() {
			if !u.Admin {
				users = append(users, u.ID)
			}
		}
		for _, g := range v.Groups() {
			groups = append(groups, g.ID)
		}
		for _, p := range v.Projects() {
			projects = append(projects, p.ID)
		}
	})
	pick := func(ids []int64) int64 { return ids[r.IntN(len(ids))] }
	kind, ids := gitlabsim.KindGroup, groups
	if r.IntN(2) == 0 {
		kind, ids = gitlabsim.KindProject, projects
	}
	switch r.IntN(8) {
	case 0, 1, 2:
		_ = w.SetMember(kind, pick(ids), pick(users), []int{10, 30, 40, 50}[r.IntN(4)], "")
	case 3, 4:
		_ = w.RemoveMember(kind, pick(ids), pick(users))
	case 5:
		_ = w.RenameGroup(pick(groups), fmt.Sprintf("r%d", r.IntN(1000)), "")
	case 6:
		_, _ = w.AddProject(gitlabsim.Project{NamespaceID: pick(groups), Path: fmt.Sprintf("n%d", r.IntN(1000)), Name: "n", Visibility: "private"})
	case 7:
		if len(projects) > 2 {
			_ = w.DeleteProject(pick(projects))
		}
	}
}

// TestLostReorderedAndDuplicatedHooksEndInTheSameState: what a hook says is only what to read again.
func TestLostReorderedAndDuplicatedHooksEndInTheSameState(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 4))
			sim, err := gitlabsim.New(gitlabsim.Options{Seed: []byte(hookSeed)})
			if err != nil {
				t.Fatal(err)
			}
			defer sim.Close()
			s, kube := engine(t, sim)
			hook := &gitlab.Hook{
				Secret: func() ([]byte, error) { return []byte("s"), nil }, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
				Parse: func(body []byte) ([]authz.SourceID, bool, string, error) {
					e, err := gitlab.ParseSystemHook(body)
					return e.Changed, e.Ignored, e.Name, err
				},
				Trigger: func(_ context.Context, changed []authz.SourceID, cause string) error {
					s.Trigger(changed, cause)
					return nil
				},
			}
			server := httptest.NewServer(hook)
			defer server.Close()
			if _, err := sim.AddSystemHook(gitlabsim.SeedHook{URL: server.URL, Token: "s"}); err != nil {
				t.Fatal(err)
			}
			lossy := seed%2 == 1
			sim.SetHookPolicy(func(gitlabsim.Event) gitlabsim.HookAction { // called with a lock held
				return gitlabsim.HookAction{
					Drop:  lossy && r.IntN(3) == 0,
					Delay: time.Duration(r.IntN(60)) * time.Millisecond, Copies: r.IntN(3),
				}
			})
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- s.Run(ctx) }()
			defer func() { stop(); <-done }()
			other := rand.New(rand.NewPCG(seed, 5)) // the policy draws from r at times of its own
			for range 40 {
				change(other, sim.World())
				time.Sleep(time.Duration(other.IntN(8)) * time.Millisecond)
			}
			if err := sim.FlushHooks(ctx); err != nil {
				t.Fatal(err)
			}
			if lossy {
				s.Trigger(nil, "the next full round")
			}
			fresh, clean := engine(t, sim)
			if _, err := fresh.Once(ctx, "test"); err != nil {
				t.Fatal(err)
			}
			want := rights(t, fresh, clean)
			if len(want) == 0 {
				t.Fatal("nobody has a right: nothing is compared")
			}
			var got []string
			for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
				if got = rights(t, s, kube); cmp.Equal(want, got) {
					return
				}
			}
			t.Errorf("rights after the hooks (-fresh reading +hooks):\n%s", cmp.Diff(want, got))
		})
	}
}
