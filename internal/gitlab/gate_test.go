package gitlab

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestGateLearns: GitLab says neither what a limit is nor how near it is, and an administrator may have lowered it.
// After the first refusal hardly another one follows, and a limit that was raised again is used again.
func TestGateLearns(t *testing.T) {
	for _, limit := range []int{30, 60, 100, 150} {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(true)
			req := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/api/v4/groups"}}
			var window time.Time
			count, refused, done := 0, 0, 0
			start := time.Now()
			read := func(n int) {
				for done = 0; done < n; {
					if err := g.wait(t.Context(), "groups"); err != nil {
						t.Fatal(err)
					}
					g.count("groups")
					if w := time.Now().Truncate(time.Minute); !w.Equal(window) {
						window, count = w, 0
					}
					if count++; count > limit {
						refused++
						g.stop(req, 30*time.Second)
						continue
					}
					done++
				}
			}
			read(10 * limit)
			if refused > 4 {
				t.Errorf("limit %d: %d refusals", limit, refused)
			}
			if most := 35 * time.Minute; time.Since(start) > most {
				t.Errorf("limit %d: took %v", limit, time.Since(start))
			}
			limit, refused = 1000, 0
			time.Sleep(forget)
			start = time.Now()
			read(150)
			if refused > 0 || time.Since(start) > time.Minute {
				t.Errorf("raised limit: %d refusals, took %v", refused, time.Since(start))
			}
		})
	}
}

// TestGateLearnsNothingFromFew: a refusal after few requests is somebody else's doing.
func TestGateLearnsNothingFromFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(false)
		g.count("group")
		for _, path := range []string{"/gitlab/api/v4/groups/7", "/gitlab/api/v4/groups/8"} { // one alone says nothing about the others
			g.stop(&http.Request{Method: http.MethodGet, URL: &url.URL{Path: path}}, time.Second)
		}
		start := time.Now()
		for range 500 {
			if err := g.wait(t.Context(), "group"); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(start); d != time.Second {
			t.Errorf("waited %v", d)
		}
	})
}

// TestUrgentRequestsHaveAShare: however many others want the limit of a kind, an urgent request goes at once or soon, and all together
// stay below GitLab's limit in every window.
func TestUrgentRequestsHaveAShare(t *testing.T) {
	for kind, l := range defaultLimits() {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(true)
			ctx, cancel := context.WithCancel(t.Context())
			var mu sync.Mutex
			var sent []time.Time
			send := func() {
				mu.Lock()
				defer mu.Unlock()
				sent = append(sent, time.Now())
			}
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for g.wait(ctx, kind) == nil {
						send()
					}
				})
			}
			late := 0
			for range 60 {
				time.Sleep(20 * time.Second)
				one, end := urgently(ctx, sourceTimeout)
				if err := g.wait(one, kind); err != nil {
					late++
				} else {
					send()
				}
				end()
			}
			cancel()
			wg.Wait()
			if late > 0 {
				t.Errorf("%s: %d of 60 urgent requests had no turn", kind, late)
			}
			for i, first := range sent {
				n := 0
				for _, s := range sent[i:] {
					if s.Sub(first) < l.period {
						n++
					}
				}
				if float64(n) > l.requests {
					t.Fatalf("%s: %d requests in %v, GitLab allows %v", kind, n, l.period, l.requests)
				}
			}
		})
	}
}

// TestARefusalOfOneThingStopsNoOther: one path that is refused for ever waits alone; a second one with no success in between stops the
// kind, an urgent request finds out now and then whether that is over, and what would have to wait for too long is told when.
func TestARefusalOfOneThingStopsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(false)
		req := func(id int) *http.Request {
			return &http.Request{Method: http.MethodGet, URL: &url.URL{Path: fmt.Sprintf("/api/v4/groups/%d", id)}}
		}
		may := func(id int) error {
			ctx, end := urgently(t.Context(), sourceTimeout)
			defer end()
			return g.waitFor(ctx, "group", req(id).URL.Path)
		}
		for range 100 {
			g.stop(req(7), time.Minute)
			if err := may(8); err != nil {
				t.Fatalf("another group: %v", err)
			}
			g.passed(req(8), time.Now())
		}
		if err := may(7); err == nil || !strings.Contains(err.Error(), "possible in 1m0s") {
			t.Errorf("the same group: %v", err)
		}
		g.stop(req(9), time.Minute) // the second one since a success is the first
		if err := may(8); err != nil {
			t.Errorf("after one refusal: %v", err)
		}
		g.stop(req(10), time.Minute)
		if err := may(11); err != nil {
			t.Errorf("a first urgent request has to find out: %v", err)
		}
		if err := may(12); err == nil {
			t.Error("the kind is stopped, and a second request was sent")
		}
		time.Sleep(testEvery)
		if err := may(12); err != nil {
			t.Errorf("a later one has to find out: %v", err)
		}
		g.passed(req(12), time.Now())
		if err := may(13); err != nil {
			t.Errorf("one succeeded: %v", err)
		}
	})
}
