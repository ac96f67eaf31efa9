package ci_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	ktesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// half is a GitLab that takes one variable of several and fails then; with end, the process ends at that moment.
type half struct {
	*variables
	end func()
}

func (h half) Ensure(ctx context.Context, project int64, scope string, vars []ci.Variable, known *ci.ProjectVariables, claim ci.Claim) (int, error) {
	n, _ := h.variables.Ensure(ctx, project, scope, vars[:1], known, claim)
	if h.end != nil {
		h.end()
		return n, context.Canceled
	}
	return n, errors.New("500")
}

// interrupt lets a pass end after the first variable: by an error of GitLab, or because the process ends.
func (b *bench) interrupt(t *testing.T, crash bool, n ci.Namespace) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	h := half{variables: b.gitlab}
	if crash {
		h.end = cancel
	}
	b.Variables = h
	b.Provision(ctx, []ci.Namespace{n})
	b.Variables = b.gitlab
	if crash {
		scope := b.Scope
		b.restart()
		b.Scope = scope
	}
}

// TestHalfDeliveredIsNotDelivered: a delivery ended halfway, and then the project goes where it was, or somewhere else.
func TestHalfDeliveredIsNotDelivered(t *testing.T) {
	t.Parallel()
	for _, crash := range []bool{false, true} {
		t.Run(fmt.Sprintf("moved back, crash %t", crash), func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.pass(t, world)
			token := b.token(42)
			b.now = b.now.Add(10 * time.Minute)
			b.interrupt(t, crash, project("haw-world", 42, rbacsync.DeliverIDToken))
			if token != b.token(42) || !strings.Contains(b.gitlab.got[42]["ICC-K8s"]["KUBECONFIG"].Value, ci.IDTokenVariable) {
				t.Fatal("nothing was half delivered")
			}
			b.now = b.now.Add(10 * time.Minute)
			b.pass(t, b.read(world))
			if !b.works(t, "haw-world", b.token(42)) || !strings.Contains(b.gitlab.got[42]["ICC-K8s"]["KUBECONFIG"].Value, "KUBE_TOKEN") || b.gitlab.keys(42, "ICC-K8s") != allKeys {
				t.Error("jobs get the kubeconfig of the mode that the project was not moved to")
			}
		})
		t.Run(fmt.Sprintf("made protected again, crash %t", crash), func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.pass(t, world)
			open := project("haw-world", 42, rbacsync.DeliverVariables)
			open.Projects[0].Unprotected = true
			b.now = b.now.Add(10 * time.Minute)
			b.interrupt(t, crash, open)
			b.now = b.now.Add(10 * time.Minute)
			b.pass(t, world) // GitLab does not show variables
			if !b.gitlab.got[42]["ICC-K8s"]["KUBECONFIG"].Protected {
				t.Error("jobs on unprotected branches get the token")
			}
		})
		for _, to := range []string{"left out", "none", "another scope"} {
			t.Run(fmt.Sprintf("first delivery, then %s, crash %t", to, crash), func(t *testing.T) {
				t.Parallel()
				b := newBench(t)
				b.interrupt(t, crash, world)
				if b.gitlab.keys(42, "ICC-K8s") != "KUBECONFIG" {
					t.Fatal("nothing was half delivered")
				}
				n := world
				switch to {
				case "left out":
					n.Gone, n.Exists = true, true
				case "none":
					n = project("haw-world", 42, rbacsync.DeliverNone)
				default:
					b.Scope = "production"
				}
				b.now = b.now.Add(10 * time.Minute)
				b.pass(t, n)
				if got := b.gitlab.keys(42, "ICC-K8s"); got != "" {
					t.Errorf("forgotten in GitLab: %s", got)
				}
			})
		}
	}
}

// TestNothingIsDeliveredForAnotherReplica: a leader that was stopped goes on after another one has changed the Secret.
func TestNothingIsDeliveredForAnotherReplica(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.pass(t, world)
	b.kube.PrependReactor("update", "secrets", func(ktesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewConflict(corev1.Resource("secrets"), kubename.CISecret, errors.New("somebody was faster"))
	})
	b.Scope, b.now = "production", b.now.Add(10*time.Minute)
	if r := b.pass(t, world); b.gitlab.calls != 1 || len(r.Findings) == 0 {
		t.Errorf("%d deliveries after the first, findings %v", b.gitlab.calls-1, r.Findings)
	}
}

// TestTakingBackIsNotForgotten: the token of a namespace that is gone dies at once, what is in GitLab goes when GitLab lets it.
func TestTakingBackIsNotForgotten(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprint("restart ", restart), func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.pass(t, world)
			uid := b.secret(t, "haw-world").UID
			gone := world
			gone.Gone, gone.Exists = true, true
			b.gitlab.fail[42] = errors.New("503")
			for range 2 {
				expect(t, b.pass(t, gone), 0, 0, "ci_delivery_failed")
				if s := b.secret(t, "haw-world"); s.UID == uid || len(s.Data["token"]) > 0 {
					t.Error("the token lives on")
				}
				b.now = b.now.Add(10 * time.Minute)
				if restart {
					b.restart()
				}
			}
			b.gitlab.fail = nil
			expect(t, b.pass(t, gone), 0, 0)
			list, err := b.kube.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{})
			if got := b.gitlab.keys(42, "ICC-K8s"); got != "" || err != nil || len(list.Items) > 0 {
				t.Errorf("left: %q in GitLab, %d Secrets, %v", got, len(list.Items), err)
			}
		})
	}
}

// TestWhatAGoneNamespaceGave is taken back when the project has what it gets elsewhere.
func TestWhatAGoneNamespaceGave(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	shared := haw
	shared.Projects, shared.Readers = world.Projects, world.Readers
	b.pass(t, shared)
	gone, own := haw, project("haw-world", 42, rbacsync.DeliverIDToken)
	gone.Gone = true
	own.Projects[0].Bound = false
	b.pass(t, gone, own)
	if got := b.gitlab.keys(42, "ICC-K8s"); got != allKeys {
		t.Errorf("taken back before there is anything else: %s are left", got)
	}
	own = project("haw-world", 42, rbacsync.DeliverIDToken)
	b.pass(t, gone, own)
	b.now = b.now.Add(time.Minute)
	b.pass(t, gone, own)
	if got := b.gitlab.keys(42, "ICC-K8s"); got != bareKeys {
		t.Errorf("the project has %s", got)
	}
	if _, err := b.kube.CoreV1().Secrets("haw").Get(t.Context(), kubename.CISecret, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the Secret of the namespace that is gone: %v", err)
	}
}

// hanging is a GitLab that does not answer.
type hanging struct {
	*variables
	asked chan struct{}
}

func (h hanging) Ensure(ctx context.Context, _ int64, _ string, _ []ci.Variable, _ *ci.ProjectVariables, _ ci.Claim) (int, error) {
	h.asked <- struct{}{}
	<-ctx.Done()
	return 0, ctx.Err()
}

// TestATokenDiesWhileGitLabHangs: also that of the very project that GitLab is being asked about.
func TestATokenDiesWhileGitLabHangs(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.pass(t, world)
	old, given := b.secret(t, "haw-world"), b.token(42)
	asked := make(chan struct{})
	b.Variables, b.Scope, b.now = hanging{b.gitlab, asked}, "production", b.now.Add(10*time.Minute)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.Provision(ctx, []ci.Namespace{world})
	}()
	<-asked
	undecided, lost := haw, world
	undecided.Undecided = true
	lost.Lost = []int64{9}
	list := []ci.Namespace{undecided, lost}
	b.DestroyLost(ctx, list)
	if s := b.secret(t, "haw-world"); s.UID == old.UID || len(s.Data["token"]) > 0 || b.works(t, "haw-world", given) {
		t.Error("the token that somebody could read who has lost the right to deploy lives on")
	}
	cancel()
	<-done
	b.Variables = b.gitlab
	expect(t, b.pass(t, list[1]), 0, 1)
	if !b.works(t, "haw-world", b.token(42)) {
		t.Error("what GitLab has now does not work")
	}
	if got := b.gitlab.keys(42, "ICC-K8s"); got != "" {
		t.Errorf("what the Secret said is forgotten, and %s left in the scope before", got)
	}
}

// TestWithoutKnowledge: a GitLab that does not show variables with the projects.
func TestWithoutKnowledge(t *testing.T) {
	t.Parallel()
	t.Run("somebody makes room", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		b.gitlab.foreign[42] = []string{"KUBE_URL"}
		expect(t, b.pass(t, world), 1, 1, "ci_foreign_variable")
		delete(b.gitlab.foreign, 42)
		b.now = b.now.Add(10 * time.Minute)
		expect(t, b.pass(t, world), 0, 1)
		b.now = b.now.Add(10 * time.Minute)
		expect(t, b.pass(t, world), 0, 0)
		if got := b.gitlab.keys(42, "ICC-K8s"); got != allKeys {
			t.Errorf("the project has %s", got)
		}
	})
	t.Run("what is not wanted any more", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		b.pass(t, world)
		b.Cluster.CA = nil
		b.now = b.now.Add(10 * time.Minute)
		b.pass(t, world)
		if got := b.gitlab.keys(42, "ICC-K8s"); got != "KUBECONFIG KUBE_NAMESPACE KUBE_TOKEN KUBE_URL" {
			t.Errorf("the project has %s", got)
		}
	})
}

// TestCAOfTheAPIServerChanges while the process runs.
func TestCAOfTheAPIServerChanges(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ca, err := "FIRST\n", error(nil)
	b.CA = func() ([]byte, error) { return []byte(ca), err }
	b.pass(t, world)
	ca = "SECOND\n"
	b.now = b.now.Add(10 * time.Minute)
	expect(t, b.pass(t, world), 1, 1)
	if got := b.gitlab.got[42]["ICC-K8s"]["KUBE_CA_PEM"].Value; got != ca {
		t.Errorf("jobs get the CA %q, want %q", got, ca)
	}
	ca, err = "", errors.New("no such file")
	b.now = b.now.Add(10 * time.Minute)
	expect(t, b.pass(t, world), 0, 0, "ci_ca_unread")
}

// TestCAOfTheAgentChanges: as TestCAOfTheAPIServerChanges, for jobs that go through GitLab.
func TestCAOfTheAgentChanges(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ca, err := "FIRST\n", error(nil)
	b.Agent.ReadCA = func() ([]byte, error) { return []byte(ca), err }
	agent := project("haw-world", 42, rbacsync.DeliverAgent)
	b.pass(t, agent)
	ca = "SECOND\n"
	b.now = b.now.Add(10 * time.Minute)
	expect(t, b.pass(t, agent), 0, 1)
	if got := b.gitlab.got[42]["ICC-K8s"]["KUBE_CA_PEM"].Value; got != ca {
		t.Errorf("jobs get the CA %q, want %q", got, ca)
	}
	err = errors.New("no such file")
	b.now = b.now.Add(10 * time.Minute)
	expect(t, b.pass(t, agent), 0, 0, "ci_ca_unread")
}

// TestUndecidedMovesNothing: the group that says which mode is meant may not have been read.
func TestUndecidedMovesNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.pass(t, project("haw-world", 42, rbacsync.DeliverIDToken))
	n := world
	n.Undecided = true
	b.now = b.now.Add(10 * time.Minute)
	b.pass(t, n)
	if got := b.gitlab.keys(42, "ICC-K8s"); got != bareKeys {
		t.Errorf("a project that is to have no stored credential has %s", got)
	}
}

// slow is a GitLab that takes its time.
type slow struct{ *variables }

func (s slow) Ensure(ctx context.Context, project int64, scope string, vars []ci.Variable, known *ci.ProjectVariables, claim ci.Claim) (int, error) {
	time.Sleep(200 * time.Millisecond)
	return s.variables.Ensure(ctx, project, scope, vars, known, claim)
}

// TestOwnDestructionIsNobodyElses: the watch tells of it while the new token is still being delivered.
func TestOwnDestructionIsNobodyElses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.pass(t, world)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			b.Follow(ctx, b.kube, func(_ string, deleted bool) {
				if deleted {
					t.Error("the Secret that was destroyed because somebody lost a right is said to be deleted by somebody else")
				}
			})
		}()
		defer func() { cancel(); <-ended }()
		synctest.Wait() // until both watches are there: from here on Follow reads nothing that the test changes
		lost := world
		lost.Lost = []int64{9}
		b.Variables = slow{b.gitlab}
		expect(t, b.pass(t, lost), 0, 1)
	})
}

// TestTheCAChangesWhileTokensAreDestroyed: DestroyLost writes a Secret while a pass reads another CA; for the race detector.
func TestTheCAChangesWhileTokensAreDestroyed(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	keyless := project("haw-world", 42, rbacsync.DeliverIDToken)
	reads := 0
	b.CA = func() ([]byte, error) { reads++; return fmt.Appendf(nil, "CA %d\n", reads), nil }
	b.pass(t, keyless)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	var destroyed atomic.Int64
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			lost := keyless
			lost.Lost = []int64{9}
			b.DestroyLost(ctx, []ci.Namespace{lost})
			destroyed.Add(1)
		}
	}()
	for destroyed.Load() < 50 {
		b.Provisioner.Provision(t.Context(), []ci.Namespace{keyless})
	}
	cancel()
	<-ended
	b.now = b.now.Add(10 * time.Minute)
	b.pass(t, keyless)
	if got, want := string(b.secret(t, "haw-world").Data["ca.crt"]), fmt.Sprintf("CA %d\n", reads); got != want {
		t.Errorf("the Secret has %q, want %q", got, want)
	}
}
