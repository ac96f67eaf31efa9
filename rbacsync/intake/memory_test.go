package intake_test

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"
	"weak"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/authztest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
)

// fresh returns another Snapshot each time.
type fresh struct{}

func (fresh) Snapshot(context.Context) (*authz.Snapshot, error) {
	s := authztest.Snapshot(rand.New(rand.NewPCG(1, 2)))
	s.Admin = true
	return s, nil
}

func (fresh) Refresh(_ context.Context, base *authz.Snapshot, _ []authz.SourceID) (*authz.Snapshot, error) {
	return authztest.Clone(base), nil
}

// TestOneReadingIsKept: of many readings of everything, one after the other, only the last one stays in memory, also when nothing
// else is read between them.
func TestOneReadingIsKept(t *testing.T) {
	t.Parallel()
	in := intake.New(intake.Options{Reader: fresh{}, Interval: time.Hour, Now: time.Now})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { in.Run(ctx) })
	var read []weak.Pointer[authz.Snapshot]
	for range 6 {
		in.Add(nil, "test")
		n := <-in.News()
		read = append(read, weak.Make(n.Snapshot))
	}
	cancel()
	wg.Wait()
	runtime.GC()
	kept := 0
	for _, p := range read {
		if p.Value() != nil {
			kept++
		}
	}
	if kept > 1 {
		t.Errorf("%d of %d readings are kept in memory", kept, len(read))
	}
	runtime.KeepAlive(in)
}
