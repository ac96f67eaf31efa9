package intake_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/authztest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
)

// TestNoTicketIsForgotten: also a ticket that comes in when there is room for nothing more is done in the end.
func TestNoTicketIsForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &changing{r: rand.New(rand.NewPCG(1, 1)), began: map[authz.SourceID]time.Time{}}
		c.history = []moment{{time.Now(), authztest.Snapshot(rand.New(rand.NewPCG(1, 2)))}}
		in := intake.New(intake.Options{Reader: c, Interval: time.Hour, Now: time.Now})
		for range 300 {
			in.Add([]authz.SourceID{authz.ProjectID(1)}, "hook")
		}
		go in.AddTickets(t.Context(), []intake.Ticket{{Key: "project-1", Value: "1", Changed: []authz.SourceID{authz.ProjectID(1)}, Cause: "hook"}})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { in.Run(ctx) })
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := <-in.News(); len(n.Done) != 1 {
			t.Errorf("%d tickets are done, want the one", len(n.Done))
		}
		cancel()
		wg.Wait()
	})
}
