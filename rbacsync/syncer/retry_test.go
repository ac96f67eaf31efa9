package syncer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/authztest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// looksTwice is a Reader that believes an absence two seconds after it met it first, and that never can read bad.
type looksTwice struct {
	singly
	bad authz.SourceID

	pace *rate.Limiter // of requests about single things; an absence takes two

	looks sync.Mutex
	since map[authz.SourceID]time.Time
	reads map[authz.SourceID]int
}

func (l *looksTwice) Refresh(ctx context.Context, base *authz.Snapshot, changed []authz.SourceID) (*authz.Snapshot, error) {
	for _, id := range changed {
		for range map[bool]int{true: 1, false: 2}[l.snap.Contains(id)] {
			if err := l.pace.Wait(ctx); err != nil {
				return nil, err
			}
		}
	}
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
					singly: singly{halfRead: halfRead{gitlab: gitlab{snap: rbacsynctest.HawWorld()}}}, bad: authz.ProjectID(9), pace: rate.NewLimiter(rate.Inf, 0),
					since: map[authz.SourceID]time.Time{}, reads: map[authz.SourceID]int{},
				}
				kube, inbox := fake.NewClientset(), &box{}
				s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Watch: kube, Interval: 1000 * time.Hour, Now: time.Now, Inbox: inbox})
				defer run(t, s)()
				time.Sleep(time.Second)
				hook := func(id authz.SourceID) {
					inbox.put([]intake.Ticket{{Key: id.Label(), Value: "1", Changed: []authz.SourceID{id}, Cause: "hook"}})
				}
				hook(g.bad)
				const most = 8 * time.Second // two seconds, two pauses and what they vary by
				for i := range int64(5 * time.Minute / every) {
					hook(authz.ProjectID(1000 + i))
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

// burst is a GitLab of many projects that keeps to its limits. It takes a while to read everything, or fails after that.
type burst struct {
	looksTwice
	takes  time.Duration
	broken atomic.Bool
}

func (b *burst) Snapshot(ctx context.Context) (*authz.Snapshot, error) {
	time.Sleep(b.takes)
	if b.broken.Load() {
		return nil, errors.New("502")
	}
	return b.singly.Snapshot(ctx)
}

// TestABurstIsReadTheQuickerWay: hooks about many things at once, twice. Each is settled in the time that GitLab's limits allow
// for reading them one by one, or in that of a reading of everything, whichever is less; also those about what GitLab does not
// have, though that takes four requests each; and one by one, when everything can't be read.
func TestABurstIsReadTheQuickerWay(t *testing.T) {
	t.Parallel()
	const perSecond, atOnce = 400 * 0.62 / 60, 132 // as package gitlab keeps to them
	paced := func(requests int) time.Duration {
		return time.Duration(float64(max(0, requests-atOnce)) / perSecond * float64(time.Second))
	}
	for _, n := range []int{50, 130, 200, 480} {
		for _, takes := range []time.Duration{10 * time.Millisecond, 20 * time.Second, 10 * time.Minute} {
			for _, how := range []string{"there", "absent", "broken"} {
				t.Run(fmt.Sprintf("%d %v %s", n, takes, how), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						snap := rbacsynctest.HawWorld()
						for i := range int64(n) {
							id := 1000 + i
							if how != "absent" {
								snap.Projects[id] = authz.Project{ID: id, Group: 7, Path: fmt.Sprintf("haw/p%d", i), CreatedAt: snap.Projects[42].CreatedAt}
							}
						}
						g := &burst{takes: takes, looksTwice: looksTwice{
							singly: singly{halfRead: halfRead{gitlab: gitlab{snap: snap}}}, pace: rate.NewLimiter(perSecond, atOnce),
							since: map[authz.SourceID]time.Time{}, reads: map[authz.SourceID]int{},
						}}
						kube, inbox := fake.NewClientset(), &box{}
						s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Watch: kube, Mode: syncer.ModePlan, Interval: 1000 * time.Hour, Now: time.Now, Inbox: inbox})
						defer run(t, s)()
						time.Sleep(takes + time.Minute)
						g.broken.Store(how == "broken")
						within := min(paced(n), takes)
						switch how {
						case "absent":
							within = takes + paced(4*min(n, 120+int(4*takes.Seconds())))
						case "broken":
							within = takes + paced(n)
						}
						for again := range 2 {
							var tickets []intake.Ticket
							for i := range int64(n) {
								id := authz.ProjectID(1000 + i)
								tickets = append(tickets, intake.Ticket{Key: id.Label(), Value: fmt.Sprint(again), Changed: []authz.SourceID{id}, Cause: "hook"})
							}
							inbox.put(tickets)
							time.Sleep(within + within/20 + 10*time.Second)
							if left := inbox.left(); left > 0 {
								t.Errorf("burst %d: %d are not settled after %v", again, left, within)
							}
							time.Sleep(max(30*time.Second, takes)) // GitLab lets some be read at once again
						}
					})
				})
			}
		}
	}
}
