package app

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeconfig"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// showing is a GitLab that shows its certificate, hangs, or refuses; it counts questions.
type showing struct {
	mu    sync.Mutex
	hangs bool
	err   error
	// suffix is what its certificate adds to an answer.
	suffix string
	asked  int
	same   int // questions at the same time
	most   int
}

func (g *showing) set(change func()) { g.mu.Lock(); defer g.mu.Unlock(); change() }

func (g *showing) ask(ctx context.Context, _ string, bundle []byte) ([]byte, error) {
	g.mu.Lock()
	hangs, err, suffix := g.hangs, g.err, g.suffix
	g.asked++
	g.same++
	g.most = max(g.most, g.same)
	g.mu.Unlock()
	defer g.set(func() { g.same-- })
	if hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	time.Sleep(50 * time.Millisecond)
	return append(bytes.ToUpper(bundle), suffix...), err
}

// took runs a question, and returns how long it took.
func (n *neededCA) took(ctx context.Context, bundle string) (time.Duration, string, error) {
	began := time.Now()
	ca, err := n.of(ctx, "https://gitlab.example.com", []byte(bundle))
	return time.Since(began), string(ca), err
}

// TestAGitLabThatHangsHoldsUpOneRequest: while GitLab does not show its certificate, one request at a time waits for it, and no longer
// than it has patience; those that come meanwhile wait for a glance at most, and none does once a question has failed, also not while
// another one is under way. GitLab is asked again after a while, and not each time.
func TestAGitLabThatHangsHoldsUpOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &showing{hangs: true}
		n := newNeededCA(g.ask)
		var all sync.WaitGroup
		crowd := func(most time.Duration) {
			for range 30 {
				all.Go(func() {
					if took, ca, err := n.took(t.Context(), "bundle"); err == nil || took > most {
						t.Errorf("%q, %v after %s", ca, err, took)
					}
				})
			}
		}
		first := func() {
			all.Go(func() {
				if took, _, err := n.took(t.Context(), "bundle"); !errors.Is(err, context.DeadlineExceeded) || took != n.patience {
					t.Errorf("who asks waits for %s: %v", took, err)
				}
			})
			synctest.Wait()
		}
		first()
		crowd(n.glance)
		all.Wait()
		for range 9 {
			crowd(0)
			all.Wait()
			time.Sleep(time.Second)
		}
		if g.asked != 1 {
			t.Errorf("asked %d times within %s", g.asked, n.retry)
		}
		time.Sleep(time.Second)
		first()
		crowd(0)
		all.Wait()
		if g.asked != 2 || g.most != 1 {
			t.Errorf("asked %d times, %d at a time", g.asked, g.most)
		}
		g.set(func() { g.hangs = false })
		time.Sleep(n.retry)
		if _, ca, err := n.took(t.Context(), "bundle"); ca != "BUNDLE" || err != nil {
			t.Errorf("when it answers again: %q, %v", ca, err)
		}
		time.Sleep(n.fresh - time.Second)
		if took, ca, err := n.took(t.Context(), "bundle"); ca != "BUNDLE" || err != nil || took != 0 || g.asked != 3 {
			t.Errorf("what is known: %q, %v after %s", ca, err, took)
		}
	})
}

// TestAnOldAnswerIsAskedForAgain: GitLab's certificate can come to be of another CA. A good answer is handed out without a question for
// an hour, and after that while the next question is under way, and as long as questions fail.
func TestAnOldAnswerIsAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &showing{}
		n := newNeededCA(g.ask)
		expect := func(what, want string, most time.Duration, asked int) {
			t.Helper()
			took, ca, err := n.took(t.Context(), "bundle")
			if ca != want || err != nil || took > most || g.asked != asked {
				t.Errorf("%s: %q, %v after %s, asked %d times", what, ca, err, took, g.asked)
			}
		}
		expect("at first", "BUNDLE", time.Second, 1)
		time.Sleep(n.fresh - time.Second)
		expect("within an hour", "BUNDLE", 0, 1)
		g.set(func() { g.hangs = true })
		time.Sleep(time.Second)
		var all sync.WaitGroup
		all.Go(func() {
			if took, ca, err := n.took(t.Context(), "bundle"); ca != "BUNDLE" || err != nil || took != n.patience {
				t.Errorf("who asks: %q, %v after %s", ca, err, took)
			}
		})
		synctest.Wait()
		expect("while it is asked", "BUNDLE", 0, 2)
		all.Wait()
		g.set(func() { g.hangs, g.err = false, errors.New("a handshake failure") })
		for i := range 3 {
			expect("after a failure", "BUNDLE", 0, 2+i)
			time.Sleep(n.retry)
			expect("a failure", "BUNDLE", time.Second, 3+i)
		}
		g.set(func() { g.err, g.suffix = nil, " OF ANOTHER CA" })
		time.Sleep(n.retry)
		expect("another CA", "BUNDLE OF ANOTHER CA", time.Second, 6)
		time.Sleep(n.fresh - time.Second)
		expect("within an hour of that", "BUNDLE OF ANOTHER CA", 0, 6)
	})
}

// TestWhoeverWaitsForTheCALeavesInTime: a wait ends with its context. The question of who leaves while they ask goes on, and a failure
// is known to those who come after it: leaving makes nobody else ask.
func TestWhoeverWaitsForTheCALeavesInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &showing{hangs: true}
		n := newNeededCA(g.ask)
		var all sync.WaitGroup
		asking, leave := context.WithCancel(t.Context())
		all.Go(func() {
			if took, _, err := n.took(asking, "bundle"); !errors.Is(err, context.DeadlineExceeded) || took != n.patience {
				t.Errorf("who left: %v after %s", err, took)
			}
		})
		synctest.Wait()
		short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if took, _, err := n.took(short, "bundle"); !errors.Is(err, context.DeadlineExceeded) || took != 10*time.Millisecond {
			t.Errorf("who has 10 ms: %v after %s", err, took)
		}
		leave()
		all.Wait()
		for range 5 {
			all.Go(func() {
				if took, ca, err := n.took(t.Context(), "bundle"); err == nil || took != 0 {
					t.Errorf("who comes after it: %q, %v after %s", ca, err, took)
				}
			})
		}
		all.Wait()
		if g.asked != 1 {
			t.Errorf("asked %d times", g.asked)
		}
		g.set(func() { g.hangs = false })
		g.set(func() { g.err = errors.New("another CA") })
		if _, ca, err := n.took(t.Context(), "other"); err == nil { // what is known is of another content
			t.Errorf("of another content: %q", ca)
		}
		g.set(func() { g.err = nil })
		if took, ca, err := n.took(t.Context(), "third"); ca != "THIRD" || err != nil || took != 50*time.Millisecond { // and so is a failure
			t.Errorf("of another content: %q, %v after %s", ca, err, took)
		}
	})
}

// TestAKubeconfigWhileGitLabHangs: a GitLab that takes connections and says nothing. People get an answer within the patience, and know
// that it passes.
func TestAKubeconfigWhileGitLabHangs(t *testing.T) {
	gitlab, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer gitlab.Close()
	ca, err := localcert.NewAuthority("a CA")
	if err != nil {
		t.Fatal(err)
	}
	read := func() ([]byte, error) { return bytes.Repeat(ca.PEM, 60), nil }
	k := &kubeconfigs{
		c: kubeconfig.Cluster{Name: "icc", URL: "https://icc.example.com", Issuer: "https://" + gitlab.Addr().String(), ClientID: "kubelogin"}, publicCA: read, gitlabCA: read, needed: newNeededCA(ci.Needed),
	}
	k.needed.patience = 50 * time.Millisecond
	for range 3 {
		if _, err := k.file(t.Context(), kubeconfig.Default, nil); !errors.Is(err, kubeconfig.ErrNotNow) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	}
}
