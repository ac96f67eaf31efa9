package wait_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/wait"
)

// TestTurn: one has it, others wait for it as long as they want to.
func TestTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turn, begun := make(chan struct{}, 1), time.Now()
		if err := wait.Turn(t.Context(), turn, time.Second); err != nil || time.Since(begun) > 0 {
			t.Fatalf("a free turn: %v after %s", err, time.Since(begun))
		}
		if err := wait.Turn(t.Context(), turn, time.Second); !errors.Is(err, wait.ErrTaken) || time.Since(begun) != time.Second {
			t.Errorf("one that is taken: %v after %s", err, time.Since(begun))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := wait.Turn(ctx, turn, time.Minute); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("who has left: %v", err)
		}
		time.AfterFunc(time.Second, func() { <-turn })
		if err := wait.Turn(t.Context(), turn, time.Minute); err != nil {
			t.Errorf("one that is given back: %v", err)
		}
	})
}

// TestWhile: it waits as long as something is busy, but not for longer than it has patience.
func TestWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		busyFor := func(d time.Duration) func() bool { return func() bool { return time.Since(begun) < d } }
		if wait.While(t.Context(), time.Second, busyFor(0)); time.Since(begun) > 0 {
			t.Errorf("nothing was busy, and it waited for %s", time.Since(begun))
		}
		if wait.While(t.Context(), time.Second, busyFor(100*time.Millisecond)); time.Since(begun) < 100*time.Millisecond || time.Since(begun) > 110*time.Millisecond {
			t.Errorf("busy for 100 ms: it waited for %s", time.Since(begun))
		}
		begun = time.Now()
		if wait.While(t.Context(), time.Second, busyFor(time.Hour)); time.Since(begun) < time.Second || time.Since(begun) > 1010*time.Millisecond {
			t.Errorf("busy for an hour: it waited for %s", time.Since(begun))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		begun = time.Now()
		if wait.While(ctx, time.Second, busyFor(time.Hour)); time.Since(begun) > 0 {
			t.Errorf("who has left waited for %s", time.Since(begun))
		}
	})
}
