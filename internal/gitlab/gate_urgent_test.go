package gitlab

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestUrgentRequestsGoFirst: while urgent requests are sent, those of a reading of everything wait, but not for long, and nobody
// else does.
func TestUrgentRequestsGoFirst(t *testing.T) {
	for name, c := range map[string]struct {
		ctx    func(context.Context) context.Context
		urgent int // one each 50 ms
		want   time.Duration
	}{
		"nothing urgent":           {forEverything, 0, 0},
		"one urgent request":       {forEverything, 1, afterUrgent},
		"a burst":                  {forEverything, 5, 4*50*time.Millisecond + afterUrgent},
		"one for a while":          {forEverything, 100, yieldOne},
		"beside a page for people": {func(ctx context.Context) context.Context { return ctx }, 5, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(false)
			send := func() {
				ctx, end := urgently(t.Context(), sourceTimeout)
				defer end()
				if err := g.wait(ctx, "group"); err != nil {
					t.Error(err)
				}
			}
			if c.urgent > 0 {
				send()
			}
			var others sync.WaitGroup
			defer others.Wait()
			others.Go(func() {
				for range c.urgent - 1 {
					time.Sleep(50 * time.Millisecond)
					send()
				}
			})
			begun := time.Now()
			if err := g.wait(c.ctx(t.Context()), "project"); err != nil {
				t.Error(err)
			}
			if took := time.Since(begun); took < c.want || took > c.want+10*time.Millisecond {
				t.Errorf("%s: it waited for %s, want %s", name, took, c.want)
			}
		})
	}
}

// TestAReadingOfEverythingComesToItsEnd: urgent requests that never end hold a reading of everything up for yieldAll in all.
func TestAReadingOfEverythingComesToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(false)
		ctx, cancel := context.WithCancel(t.Context())
		var others sync.WaitGroup
		others.Go(func() {
			for ctx.Err() == nil {
				one, end := urgently(ctx, sourceTimeout)
				_ = g.wait(one, "group")
				end()
				time.Sleep(20 * time.Millisecond)
			}
		})
		synctest.Wait() // the first of them has begun
		begun, reading := time.Now(), forEverything(t.Context())
		for range 1000 {
			if err := g.wait(reading, "project"); err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(begun); took < yieldAll || took > yieldAll+time.Second {
			t.Errorf("1000 requests waited for %s, want %s", took, yieldAll)
		}
		cancel()
		others.Wait()
	})
}

// TestNoUrgentRequestWaitsForTheCommonShare: whatever a reading of everything or a page has used up, of the limits for a kind or
// of the ceiling for all, an urgent request is sent at once.
func TestNoUrgentRequestWaitsForTheCommonShare(t *testing.T) {
	for _, path := range []string{"groups/7", "projects/7", "users/7", "groups/7/members/all", "groups/7/members", "graphql", "version"} {
		t.Run(path, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, err := newAPI(Options{
					BaseURL: "https://gitlab.example.com", Token: func() (string, error) { return "glpat-x", nil },
					HTTPClient: &http.Client{Transport: roundTrip(func(req *http.Request) (*http.Response, error) {
						return &http.Response{
							StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Request: req,
							Body: io.NopCloser(strings.NewReader(`{"data":{}}`)),
						}, nil
					})},
				})
				if err != nil {
					t.Fatal(err)
				}
				send := func(ctx context.Context) {
					var err error
					if path == "graphql" {
						_, err = a.query(ctx, "{}", nil)
					} else {
						_, err = a.get(ctx, path, nil, new(map[string]any))
					}
					if err != nil {
						t.Error(err)
					}
				}
				ctx := forEverything(t.Context())
				for begun := time.Now(); time.Since(begun) < 10*time.Second; {
					send(ctx)
				}
				for range 5 {
					begun := time.Now()
					one, end := urgently(t.Context(), sourceTimeout)
					send(one)
					end()
					if took := time.Since(begun); took > 0 {
						t.Errorf("an urgent request waited for %s", took)
					}
				}
			})
		})
	}
}
