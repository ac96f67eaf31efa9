package gitlab

import (
	"net/http"
	"net/url"
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
