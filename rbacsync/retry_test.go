package rbacsync_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/kubernetes/fake"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/authztest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// looksTwice is a Reader that believes an absence two seconds after it met it first, and that never can read bad.
type looksTwice struct {
	singly
	bad authz.SourceID

	looks sync.Mutex
	since map[authz.SourceID]time.Time
	reads map[authz.SourceID]int
}

func (l *looksTwice) Refresh(ctx context.Context, base *authz.Snapshot, changed []authz.SourceID) (*authz.Snapshot, error) {
	l.looks.Lock()
	defer l.looks.Unlock()
	missing := map[authz.SourceID]string{}
	there := slices.DeleteFunc(slices.Clone(changed), func(id authz.SourceID) bool {
		l.reads[id]++
		if l.snap.Contains(id) {
			return false
		}
		if _, ok := l.since[id]; !ok {
			l.since[id] = time.Now()
		}
		if id == l.bad || time.Since(l.since[id]) < 2*time.Second {
			missing[id] = "404"
		}
		return true
	})
	now, err := l.singly.Refresh(ctx, base, there)
	if err != nil {
		return nil, err
	}
	now = authztest.Clone(now)
	if now.Missing == nil {
		now.Missing = map[authz.SourceID]string{}
	}
	for _, id := range changed {
		delete(now.Missing, id)
		if missing[id] != "" {
			now.Missing[id] = missing[id]
		}
	}
	return now, nil
}

// TestWhatComesInPutsOffNoRetry: hooks about things that GitLab does not have come in all the time. Each is looked at a second
// time and settled within seconds, however many others come in between; and what can't be read for good is asked for no more
// often than they are.
func TestWhatComesInPutsOffNoRetry(t *testing.T) {
	t.Parallel()
	for _, every := range []time.Duration{100 * time.Millisecond, 700 * time.Millisecond, 1500 * time.Millisecond, 5 * time.Second} {
		t.Run(every.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				g := &looksTwice{
					singly: singly{halfRead: halfRead{gitlab: gitlab{snap: hawWorld()}}}, bad: authz.Project(9),
					since: map[authz.SourceID]time.Time{}, reads: map[authz.SourceID]int{},
				}
				kube, inbox := fake.NewClientset(), &box{}
				s := newSyncer(t, rbacsync.Options{Reader: g, Kube: kube, Watch: kube, Interval: 1000 * time.Hour, Now: time.Now, Inbox: inbox})
				defer run(t, s)()
				time.Sleep(time.Second)
				hook := func(id authz.SourceID) {
					inbox.put([]rbacsync.Ticket{{Key: id.Label(), Value: "1", Changed: []authz.SourceID{id}, Cause: "hook"}})
				}
				hook(g.bad)
				const most = 8 * time.Second // two seconds, two pauses and what they vary by
				for i := range int64(5 * time.Minute / every) {
					hook(authz.Project(1000 + i))
					time.Sleep(every)
					if n := inbox.left(); n > int(most/every)+2 {
						t.Fatalf("after %v: %d are not settled", time.Duration(i+1)*every, n)
					}
				}
				time.Sleep(most)
				if n := inbox.left(); n != 1 {
					t.Errorf("%d are left, want the one that can't be read", n)
				}
				g.looks.Lock()
				defer g.looks.Unlock()
				if n := g.reads[g.bad]; n > 310 {
					t.Errorf("what can't be read was asked for %d times in 5 minutes", n)
				}
			})
		})
	}
}
